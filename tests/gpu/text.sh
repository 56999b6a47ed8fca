#!/usr/bin/env bash
# scissor-run on the device against scissor-run on the host, as tests for tests/run.sh: how likely a text is to the
# model (1,024 tokens of it), and what the model writes (200 tokens), with a cache that has to evict.
#
# Both sides choose the likeliest token. Sums are rounded differently on a device, so a near tie may fall out the other
# way, after which two sound texts have nothing in common: they must be the same up to a quarter of the host's, and a
# NOTE says where they part. Likelihoods have no such jumps.
#
# MODEL is the model file. TEXT_SHORT=1: some tokens only, to show that this works.
set -u
export LC_ALL=C
build=${BUILD:-build}
text=/usr/share/common-licenses/GPL-3
read_tokens=512 new=200 budget=256 fresh=64
[ -z "${TEXT_SHORT:-}" ] || read_tokens=24 new=6 budget=32 fresh=16
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

skip_all() {
    printf 'SKIP: %s\n[  SKIPPED ] 2 test(s), listed below:\n' "$1"
    exit 0
}

# on DEVICE OPTION...: standard output goes to $work/DEVICE.
on() {
    local device=$1
    shift
    "$build/scissor-run" "$MODEL" --device "$device" --budget $budget --fresh $fresh "$@" >"$work/$device" || {
        echo "scissor-run --device $device: exit status $?"
        return 1
    }
}

result() {
    [ "$1" = good ] && passed=$((passed + 1)) || failed=$((failed + 1))
}

likelihood() {
    local host device
    on host --nll $text --tokens $((2 * read_tokens)) --score-from $read_tokens --json &&
        on cuda --nll $text --tokens $((2 * read_tokens)) --score-from $read_tokens --json || return 1
    host=$(sed -nE 's/.*"nll": ([0-9.]+).*/\1/p' "$work/host")
    device=$(sed -nE 's/.*"nll": ([0-9.]+).*/\1/p' "$work/cuda")
    echo "NOTE: negative log likelihood on the device $device, on the host $host"
    awk -v a="$host" -v b="$device" 'BEGIN {d = a - b; exit !(a > 0 && b > 0 && d < 0.01 && d > -0.01)}'
}

written() {
    local bytes apart
    on host --file $text --max-tokens $read_tokens -n $new && on cuda --file $text --max-tokens $read_tokens -n $new ||
        return 1
    bytes=$(stat -c %s "$work/host")
    if cmp -s "$work/host" "$work/cuda"; then
        echo "NOTE: $new tokens on the device are the same as on the host"
        [ "$bytes" -gt 0 ]
        return
    fi
    # "differ: char N", "EOF on FILE after byte N" or "EOF on FILE which is empty".
    apart=$(cmp "$work/host" "$work/cuda" 2>&1 | sed -nE 's/.*(char|byte) ([0-9]+).*/\2/p')
    echo "NOTE: $new tokens on the device are those on the host up to byte ${apart:=0} of $bytes"
    head -n 100 "$work/host" "$work/cuda"
    echo
    [ $((4 * apart)) -gt "$bytes" ]
}

[ -r "${MODEL:-}" ] || skip_all "the test model is missing (make model)"
[ -r $text ] || skip_all "there is no text to read at $text"
likelihood && result good || result bad
written && result good || result bad
echo "[  PASSED  ] $passed test(s)."
[ $failed -eq 0 ] || echo "[  FAILED  ] $failed test(s), listed below:"
exit $((failed > 0))
