#!/usr/bin/env bash
# Compiles each kernel for CUDA_ARCHS (75 90, or "all") with nvcc: no warnings, nothing spilled, and no more registers
# than registers.txt says. Its last lines are cmocka's, so that tests/run.sh can count them.
set -u
cd "$(dirname "$0")/../.."
export LC_ALL=C
nvcc=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
archs=${CUDA_ARCHS:-75 90}
[ "$archs" != all ] || archs="75 80 86 89 90 100 120"
if ! command -v "$nvcc" >/dev/null; then
    echo "SKIP: there is no nvcc"
    echo "[  SKIPPED ] 1 test(s), listed below:"
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
good=0 bad=0
complain() {
    echo "$*"
    ok=
}
for arch in $archs; do
    for file in kernels/cuda/*.cu; do
        ok=1
        "$nvcc" -arch="sm_$arch" -cubin -Xptxas -v -Ikernels -o "$work/cubin" "$file" >"$work/log" 2>&1 ||
            complain "$file, sm_$arch: does not compile"
        grep -v '^ptxas info\|bytes stack frame' "$work/log" && complain "$file, sm_$arch: has warnings"
        while read -r kernel spilled registers; do
            most=$(awk -v k="$kernel" '$1 == k {print $2}' tests/emulation/registers.txt)
            printf '%-20s sm_%-4s %3s registers\n' "$kernel" "$arch" "$registers"
            [ "$spilled" -eq 0 ] || complain "$kernel, sm_$arch: $spilled bytes spilled"
            [ -n "$most" ] && [ "$registers" -le "$most" ] ||
                complain "$kernel, sm_$arch: $registers registers, ${most:-none} in registers.txt"
        done < <(awk '/Compiling entry function/ {split($0, q, "\047"); kernel = q[2]}
                      /bytes spill stores/ {spilled = $5 + $9}
                      /Used [0-9]+ registers/ {sub(/.*Used /, ""); print kernel, spilled, $1}' "$work/log")
        [ -n "$ok" ] && good=$((good + 1)) || bad=$((bad + 1))
    done
done
echo "[  PASSED  ] $good test(s)."
[ $bad -eq 0 ] || echo "[  FAILED  ] $bad test(s), listed below:"
[ $bad -eq 0 ]
