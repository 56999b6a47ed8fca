#!/usr/bin/env bash
# `make gpu-check` on the driver without a GPU, with a few of its system tests: that it runs through, counted as its own
# tests and one for the tables at its end.
set -u
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$(dirname "$0")/check.sh" --fake system/test_{attach,session,cuda_daemon} 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
if [ "$status" -eq 77 ]; then
    echo "SKIP: $(sed -n 1p "$log")"
    echo "[  SKIPPED ] 1 test(s), listed below:"
    exit 0
fi
read -r passed failed skipped < \
    <(sed -nE 's/^gpu-check: ([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped$/\1 \2 \3/p' "$log")
rows=$(grep -cE '^\| .* \| .* \| [0-9.]+ \|( [0-9.]+ \|){2} [0-9]+ % \| [0-9]+ % \|$' "$log")
goals=$(grep -cE '^\| .* \| (reached|missed|not measured) \|$' "$log")
[ "$rows" -eq 30 ] || { echo "the benchmark has $rows rows"; status=1; }
[ "$goals" -eq 4 ] || { echo "the benchmark tells of $goals things to reach"; status=1; }
[ "$status" -eq 0 ] && passed=$((passed + 1)) || failed=$((failed + 1))
sed -n 's/^    skipped: /SKIP: /p' "$log"
echo "[  PASSED  ] $passed test(s)."
echo "[  SKIPPED ] $skipped test(s), listed below:"
[ "$failed" -eq 0 ] || echo "[  FAILED  ] $failed test(s), listed below:"
exit "$status"
