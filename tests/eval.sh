#!/usr/bin/env bash
# Compares methods and budgets over a folder of texts with scissor-eval.
#
#   tests/eval.sh [quick|passkey]
#
# Reads all *.txt of the folder $TEXTS, 8,192 tokens of each; quick: the first two, 4,096 tokens. Says beforehand how
# long it will take. Writes eval.json, the table eval.md and, if there is a gnuplot, the plot eval.svg and eval.png into
# $BUILD/eval. With passkey, numbers are hidden in 2,048 tokens of the first two; it writes passkey.json and passkey.md.
# EVAL_OUT changes the place, EVAL_TOKENS how much of each text, EVAL_CONFIGS what is compared.
set -euo pipefail
export LC_ALL=C.UTF-8
cd "$(dirname "$0")/.."
build=${BUILD:-build}
model=${MODEL:?the model file}
folder=${TEXTS:-../shared/data/books}
out=${EVAL_OUT:-$build/eval}
kind=${1:-full}
name=eval passes=1 task=()

# Predictions from 11/16 of the tokens on are compared: at a fifth of the bytes, int4 holds nearly so many rows.
if [ "$kind" = passkey ]; then
    tokens=${EVAL_TOKENS:-2048} name=passkey passes=10 task=(--task passkey)
    standard="streaming,f16,5x h2o,f16,5x pivotal,f16,5x pivotal,k5v4,5x pivotal,fade,5x pivotal,fade,10x"
elif [ "$kind" = quick ]; then
    tokens=${EVAL_TOKENS:-4096}
    standard="streaming,f16,5x h2o,f16,5x pivotal,int4,5x pivotal,fade,5x pivotal,fade,10x pivotal,fade,20x"
else
    tokens=${EVAL_TOKENS:-8192}
    standard="random,f16,5x tova,f16,5x h2o,f16,5x streaming,f16,5x streaming,f16,10x streaming,f16,20x
        scissorhands,f16,5x,window=448,drop=$((tokens / 10)) pivotal,f16,5x pivotal,f16,10x pivotal,f16,20x
        pivotal,int4,5x pivotal,int4,10x pivotal,int4,20x pivotal,k5v4,5x pivotal,k5v4,10x pivotal,k5v4,20x
        pivotal,fade,5x pivotal,fade,10x pivotal,fade,20x pivotal,fade,10x,fresh=32 pivotal,fade,20x,fresh=32
        pivotal,int4,all pivotal,k5v4,all pivotal,fade,all pivotal,int8,all"
fi
read -d '' -ra configs <<<"${EVAL_CONFIGS:-$standard}" || true

shopt -s nullglob
texts=("$folder"/*.txt)
if [ ${#texts[@]} -eq 0 ]; then
    echo "eval: no *.txt in $folder; name a folder with TEXTS=" >&2
    exit 1
fi
[ "$kind" = full ] || texts=("${texts[@]:0:2}")

# How long so many configurations take here for a short piece; later tokens take longer, as they see more rows.
short=$((tokens < 512 ? tokens : 512))
seconds=$("$build/scissor-eval" "$model" --tokens "$short" $(printf -- '--config all %.0s' "${configs[@]}") --json \
    --text "${texts[0]}" | python3 -c 'import json, sys; print(json.load(sys.stdin)["seconds"])')
awk -v s="$seconds" -v short="$short" -v tokens="$tokens" -v texts=${#texts[@]} -v configs=${#configs[@]} \
    -v passes=$passes 'BEGIN {
    minutes = (1 + tokens / 12000) * s / short * tokens * texts * passes / 60
    printf "%d texts of %d tokens, %d configurations and the full cache: about %.0f minutes\n", texts, tokens, configs,
        minutes + 0.5 }'

mkdir -p "$out"
rm -f "$out/$name".*
arguments=()
for config in "${configs[@]}"; do arguments+=(--config "$config"); done
"$build/scissor-eval" "$model" "${task[@]}" --tokens "$tokens" "${arguments[@]}" --json --text "${texts[@]}" \
    >"$out/$name.part"
mv "$out/$name.part" "$out/$name.json"

python3 tests/eval_report.py "$out/$name.json" "$out/$name.md" "$out/$name.gnuplot"
cat "$out/$name.md"
if [ ! -e "$out/$name.gnuplot" ]; then
    echo "written to $out: $name.json, $name.md"
elif command -v gnuplot >/dev/null; then
    (cd "$out" && gnuplot "$name.gnuplot")
    echo "written to $out: $name.json, $name.md, $name.svg, $name.png"
else
    echo "written to $out: $name.json, $name.md; no plot, as there is no gnuplot ($name.gnuplot draws it)"
fi
