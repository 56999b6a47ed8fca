#!/usr/bin/env bash
# `make gpu-check` on the driver without a GPU: that it runs through, counted as its own tests and one for the benchmark.
set -u
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$(dirname "$0")/check.sh" --fake 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
if [ "$status" -eq 77 ]; then
    echo "SKIP: $(sed -n 1p "$log")"
    echo "[  SKIPPED ] 1 test(s), listed below:"
    exit 0
fi
read -r passed failed < <(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed.*/\1 \2/p' "$log")
rows=$(grep -c '^| .* | .* | [0-9]' "$log")
[ "$rows" -eq 14 ] || { echo "the benchmark has $rows rows"; status=1; }
[ "$status" -eq 0 ] && passed=$((passed + 1)) || failed=$((failed + 1))
echo "[  PASSED  ] $passed test(s)."
[ "$failed" -eq 0 ] || echo "[  FAILED  ] $failed test(s), listed below:"
exit "$status"
