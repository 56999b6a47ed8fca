#!/usr/bin/env bash
# Three model processes read licences through caches that one small pool cannot hold in full.
#
# Two start and borrow what is free above their guarantees; the third comes when that is gone, and its guarantee is
# taken back from them. Shows the pool while they run, prints what became of each, and writes
# $BUILD/demo/summary.json. DEMO_TOKENS, DEMO_NEW and DEMO_POOL_MIB change the size, DEMO_OUT the place, DEMO_DEVICE the
# device (host).
set -euo pipefail
export LC_ALL=C.UTF-8
build=${BUILD:-build}
model=${MODEL:?the model file}
tokens=${DEMO_TOKENS:-4096}
new=${DEMO_NEW:-120}
pool_mib=${DEMO_POOL_MIB:-64}
device=${DEMO_DEVICE:-host}
budget=1344 guarantee=512
texts=(GPL-3 LGPL-2.1 MPL-2.0)
question=$'\n\nExplain in a few sentences what the text above is about.'

out=${DEMO_OUT:-$build/demo}
# The path of a socket has no more than 107 bytes.
base=${TMPDIR:-/tmp}
[ ${#base} -le 40 ] || base=/tmp
work=$(mktemp -d "$base/scissord-demo.XXXXXX")
mkdir -p "$out"
rm -f "$out"/*
running=()
finish() {
    status=$?
    trap '' INT TERM HUP
    if [ ${#running[@]} -gt 0 ]; then
        kill "${running[@]}" 2>/dev/null || true
        wait "${running[@]}" 2>/dev/null || true
    fi
    rm -rf "$work"
    exit $status
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

ctl() { "$build/scissorctl" --dir "$work/run" "$@"; }

# figure FILTER: a figure of the pool or the sessions, by a Python expression over `pool` and `sessions`.
figure() {
    ctl top --once --json | python3 -c '
import json, sys
frame = json.load(sys.stdin)
pool, sessions = frame["pools"][0], frame["sessions"]
print(int(eval(sys.argv[1])))' "$1"
}

start_daemon() {
    mkdir -m 700 "$work/run"
    "$build/scissord" --device "$device" --pool "${pool_mib}MiB" --dir "$work/run" 2>"$out/scissord.log" </dev/null &
    daemon=$!
    running+=("$daemon")
    for _ in $(seq 100); do
        ctl stat >/dev/null 2>&1 && return
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.1
    done
    echo "demo: scissord did not start:" >&2
    cat "$out/scissord.log" >&2
    exit 1
}

start_reader() {
    "$build/scissor-run" "$model" --socket "$work/run" --name "$1" --chat --file "/usr/share/common-licenses/$1" \
        --max-tokens "$tokens" --prompt "$question" -n "$new" --budget $budget --guarantee $guarantee \
        --wait 20000 --threads 1 --stats-json "$work/$1.json" >"$out/$1.txt" 2>"$out/$1.log" </dev/null &
    readers+=($!)
    running+=($!)
}

# The table on a terminal redraws itself; in a file it is repeated every few seconds.
shown=0
last=$SECONDS
show() {
    local frame
    if [ -t 1 ]; then
        frame=$(ctl top --once | cut -c "1-$(stty size 2>/dev/null | cut -d ' ' -f 2 | grep . || echo 120)")
        [ $shown -eq 0 ] || printf '\033[%dA\033[J' "$shown"
        printf '%s\n' "$frame"
        shown=$(wc -l <<<"$frame")
    elif [ $((SECONDS - last)) -ge 5 ]; then
        last=$SECONDS
        printf 'after %d s\n' "$SECONDS"
        ctl top --once
        printf '\n'
    fi
}

alive() {
    for pid in "${readers[@]}"; do
        kill -0 "$pid" 2>/dev/null && return
    done
    return 1
}

echo "scissord with a pool of $pool_mib MiB ($device); three processes of SmolLM2-135M read up to $tokens tokens each"
readers=()
start_daemon
start_reader "${texts[0]}"
start_reader "${texts[1]}"
while alive || [ ${#readers[@]} -eq 2 ]; do
    show
    # The third comes when the first two are half way.
    half=$((tokens / 2))
    if [ ${#readers[@]} -eq 2 ] &&
        { ! alive || [ "$(figure "sum(s['tokens_seen'] >= $half for s in sessions) == 2")" = 1 ]; }; then
        start_reader "${texts[2]}"
    fi
    sleep 0.5
done
failed=0
for i in "${!readers[@]}"; do
    if ! wait "${readers[$i]}"; then
        echo "demo: the reader of ${texts[$i]} failed:" >&2
        tail -5 "$out/${texts[$i]}.log" >&2
        failed=1
    fi
done
[ $failed -eq 0 ] || exit 1

ctl stat --json >"$work/stat.json"
kill -TERM "$daemon"
wait "$daemon"
running=()

python3 - "$work" "$out/summary.json" "${texts[@]}" <<'PYTHON'
import json, sys
work, target, names = sys.argv[1], sys.argv[2], sys.argv[3:]
pool = json.load(open(f"{work}/stat.json"))["pools"][0]
keys = ["name", "tokens_seen", "rows_per_head", "bytes", "bytes_full", "evictions", "tokens_per_second", "text"]
sessions = [{k: json.load(open(f"{work}/{name}.json"))[k] for k in keys} for name in names]
summary = {"pool": {k: pool[k] for k in ("limit_bytes", "peak_bytes", "reclaims")}, "sessions": sessions}
with open(target, "w") as f:
    json.dump(summary, f, indent=2)
    f.write("\n")

def mib(n):
    return f"{n / 2**20:.1f} MiB"

full = sum(s["bytes_full"] for s in sessions)
p = summary["pool"]
print(f"\npool      limit {mib(p['limit_bytes'])}, peak {mib(p['peak_bytes'])} "
      f"({100 * p['peak_bytes'] / p['limit_bytes']:.1f} %), {p['reclaims']} segments taken back under pressure")
print(f"sessions  full f16 caches of all three would have taken {mib(full)}; what each held at its end:\n")
head = ("session", "tokens seen", "rows/head", "held", "full cache", "evicted rows", "tokens/s")
rows = [head] + [(s["name"], f"{s['tokens_seen']:,}", f"{s['rows_per_head']:,}", mib(s["bytes"]), mib(s["bytes_full"]),
                  f"{s['evictions']:,}", f"{s['tokens_per_second']:.1f}") for s in sessions]
width = [max(len(r[i]) for r in rows) for i in range(len(head))]
for r in rows:
    print("  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, width))))
for s in sessions:
    print(f"\n{s['name']} was answered with:\n  " + "\n  ".join(s["text"].strip().splitlines()))
print(f"\nwritten to {target}")
if p["peak_bytes"] > p["limit_bytes"]:
    sys.exit("demo: the pool passed its limit")
PYTHON
