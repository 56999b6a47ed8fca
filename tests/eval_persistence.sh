#!/usr/bin/env bash
# The persistence ratio by layer: reads a text with every row kept, records the scores, and looks at them.
#
#   tests/eval_persistence.sh
#
# Reads 8,192 tokens of the first *.txt of the folder $TEXTS. Writes persistence.json, the table persistence.md and, if
# there is a gnuplot, the plot persistence.svg and persistence.png into $BUILD/eval. EVAL_OUT changes the place,
# EVAL_TOKENS how much of the text. The trace takes some 100 MB in $TMPDIR meanwhile, a quarter for half of the tokens.
set -euo pipefail
export LC_ALL=C.UTF-8
cd "$(dirname "$0")/.."
build=${BUILD:-build}
model=${MODEL:?the model file}
folder=${TEXTS:-../shared/data/books}
out=${EVAL_OUT:-$build/eval}
tokens=${EVAL_TOKENS:-8192}

shopt -s nullglob
texts=("$folder"/*.txt)
if [ ${#texts[@]} -eq 0 ]; then
    echo "eval: no *.txt in $folder; name a folder with TEXTS=" >&2
    exit 1
fi

# The path of a socket has no more than 107 bytes.
base=${TMPDIR:-/tmp}
[ ${#base} -le 40 ] || base=/tmp
work=$(mktemp -d "$base/scissord-eval.XXXXXX")
running=()
finish() {
    status=$?
    trap '' INT TERM HUP
    [ ${#running[@]} -eq 0 ] || kill "${running[@]}" 2>/dev/null || true
    wait || true
    rm -rf "$work"
    exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

# until_true COMMAND...: tries for a minute, or as long as the last program that was started runs.
until_true() {
    for _ in $(seq 1200); do
        "$@" >/dev/null 2>"$work/log" && return
        kill -0 "${running[-1]}" 2>/dev/null || break
        sleep 0.05
    done
    cat "$work"/*log >&2
    exit 1
}

"$build/scissord" --pool 1GiB --config /dev/null --dir "$work/run" 2>"$work/scissord.log" </dev/null &
running+=($!)
until_true "$build/scissorctl" --dir "$work/run" stat
"$build/scissor-run" "$model" --socket "$work/run" --name persistence --nll "${texts[0]}" --tokens "$tokens" \
    --score-from $((tokens / 2)) --budget "$tokens" >"$work/reader.log" </dev/null &
running+=($!)
until_true "$build/scissorctl" --dir "$work/run" session persistence
"$build/scissorctl" --dir "$work/run" record persistence "$work/trace"
wait "${running[1]}"

mkdir -p "$out"
rm -f "$out"/persistence.*
"$build/scissor-replay" --persistence --json "$work/trace" >"$out/persistence.json"
python3 tests/eval_report.py "$out/persistence.json" "$out/persistence.md" "$out/persistence.gnuplot"
cat "$out/persistence.md"
if command -v gnuplot >/dev/null; then
    (cd "$out" && gnuplot persistence.gnuplot)
    echo "written to $out: persistence.json, persistence.md, persistence.svg, persistence.png"
else
    echo "written to $out: persistence.json, persistence.md; no plot, as there is no gnuplot (persistence.gnuplot draws it)"
fi
