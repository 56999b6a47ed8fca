#!/usr/bin/env bash
# Compiles the kernels with nvcc for CUDA_ARCHS (75 90, or "all") and looks at what came out of it:
#   no warnings, of any kind, from any part of the compiler;
#   nothing spilled, and registers and shared memory leave as much room as kernels.txt says;
#   K and V are loaded 16 bytes at once: what the loops of attend load (sass.awk), where there is an nvdisasm.
# One line for each kernel and architecture. Its last lines are cmocka's, so that tests/run.sh can count them.
set -u
cd "$(dirname "$0")/../.."
export LC_ALL=C
nvcc=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
fetched=${XDG_CACHE_HOME:-$HOME/.cache}/scissord/nvdisasm # by fetch-nvdisasm.sh
nvdisasm=${NVDISASM:-$(command -v nvdisasm /usr/local/cuda/bin/nvdisasm "$fetched" | head -n 1)}
launches=${BUILD:-build}/tests/gpu/launches
archs=${CUDA_ARCHS:-75 90}
[ "$archs" != all ] || archs="75 80 86 89 90 100 120"
if [ "$nvcc" = emulated ] || ! command -v "$nvcc" >/dev/null; then
    echo "SKIP: there is no nvcc"
    echo "[  SKIPPED ] 1 test(s), listed below:"
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
good=0 bad=0 skipped=0 ok=
complain() {
    echo "$*"
    ok=
}
judge() {
    [ -n "$ok" ] && good=$((good + 1)) || bad=$((bad + 1))
}

# Threads, blocks and KiB of shared memory of a processor, and KiB that a block takes beside its own (CUDA C++
# Programming Guide, "Technical Specifications per Compute Capability").
limits() {
    case $1 in
    75) echo 1024 16 64 0 ;;
    80) echo 2048 32 164 1 ;;
    86) echo 1536 16 100 1 ;;
    89) echo 1536 24 100 1 ;;
    90 | 100) echo 2048 32 228 1 ;;
    120) echo 1536 24 100 1 ;;
    esac
}

# Blocks of 128 threads that share a processor of architecture $1, with $2 registers and $3 bytes of shared memory: of
# 65,536 registers a warp gets whole 256s.
blocks() {
    awk -v registers="$2" -v shared="$3" -v of="$(limits "$1")" 'BEGIN {
        split(of, most)
        n = most[1] / 128 < most[2] ? most[1] / 128 : most[2]
        by = int(65536 / (int((registers * 32 + 255) / 256) * 256 * 4)); n = by < n ? by : n
        by = int(most[3] * 1024 / (shared + most[4] * 1024 + 1e-9)); n = by < n ? by : n
        print n}'
}

# "kernel, bytes spilled, registers, bytes of shared memory that ptxas gave it", of ptxas' report.
reported() {
    awk '/Compiling entry function/ {split($0, q, "\047"); kernel = q[2]}
         /bytes spill stores/ {spilled = $5 + $9}
         /Used [0-9]+ registers/ {shared = match($0, /[0-9]+ bytes smem/) ? substr($0, RSTART) + 0 : 0
             sub(/.*Used /, ""); print kernel, spilled, $1 + 0, shared}' "$1" | sort
}

check_kernel() {
    local arch=$1 kernel=$2 spilled=$3 registers=$4 shared=$5 loads=$6 wide=$7 loops=$8 narrow=$9 most least streaming have share
    read -r most least streaming < <(awk -v k="$kernel" '$1 == k {print $2, $3, $4}' tests/gpu/kernels.txt)
    shared=$((shared + $(awk -v k="$kernel" '$1 == k {print $2}' "$work/launches")))
    have=$(blocks "$arch" "$registers" "$shared")
    share="-"
    [ "$loads" = - ] || share=$(awk -v a="$wide" -v b="$loads" 'BEGIN {printf "%.0f %%", 100 * a / b}')
    [ -n "$streaming" ] || loops=-
    printf '%-20s sm_%-4s %9s %8s %8s %7s %10s %7s\n' "$kernel" "$arch" "$registers" "$spilled" "$shared" "$have" \
        "$share" "$loops"
    ok=1
    [ "$spilled" -eq 0 ] || complain "$kernel, sm_$arch: $spilled bytes spilled"
    [ "$registers" -le "${most:-0}" ] ||
        complain "$kernel, sm_$arch: $registers registers, ${most:-none} in kernels.txt"
    [ "$have" -ge "${least:-99}" ] ||
        complain "$kernel, sm_$arch: $have blocks on a processor, ${least:-none} in kernels.txt"
    if [ "$loops" != - ]; then
        [ "$loops" -eq "$streaming" ] || complain "$kernel, sm_$arch: $loops streaming loops, not $streaming"
        [ "$narrow" -eq 0 ] || complain "$kernel, sm_$arch: $narrow streaming loops have loads of less than 128 bits"
    fi
    judge
}

for file in kernels/cuda/*.cu; do echo "#include \"${file#kernels/}\""; done >"$work/all.cu"
"$launches" >"$work/launches" || exit 1
for arch in $archs; do
    [ -n "$(limits "$arch")" ] || { echo "sm_$arch: not in the table of this script"; exit 1; }
    {
        "$nvcc" -arch="sm_$arch" -cubin -Werror all-warnings -Wmissing-launch-bounds \
            -Xptxas -v,-warn-spills,-warn-lmem-usage -Ikernels -o "$work/$arch.cubin" "$work/all.cu" >"$work/$arch.log" 2>&1
        echo $? >"$work/$arch.status"
    } &
done
wait
command -v "${nvdisasm:-none}" >/dev/null || {
    echo "SKIP: there is no nvdisasm to look at the loads with (tests/gpu/fetch-nvdisasm.sh $fetched)"
    skipped=1
}
printf '%-20s %-7s %9s %8s %8s %7s %10s %7s\n' kernel for registers spilled shared blocks "16 bytes" loops
for arch in $archs; do
    ok=1
    [ "$(cat "$work/$arch.status")" -eq 0 ] || complain "sm_$arch: nvcc does not take it"
    grep -v '^ptxas info\|bytes stack frame' "$work/$arch.log" && complain "sm_$arch: has warnings"
    judge
    [ -f "$work/$arch.cubin" ] || continue
    [ $skipped -ne 0 ] || "$nvdisasm" -c "$work/$arch.cubin" | awk -f tests/gpu/sass.awk | sort >"$work/$arch.sass"
    while read -r kernel rest; do
        # Tensor cores as these kernels use them came with sm_80; before it they are never launched.
        [[ $arch != 75 || $kernel != *_mma_* ]] || continue
        read -r loads < <(awk -v k="$kernel" '$1 == k {print $2, $3, $4, $5}' "$work/$arch.sass" 2>/dev/null)
        # shellcheck disable=SC2086
        check_kernel "$arch" "$kernel" $rest ${loads:-- - - -}
    done < <(reported "$work/$arch.log")
done
echo "[  PASSED  ] $good test(s)."
[ $skipped -eq 0 ] || echo "[  SKIPPED ] $skipped test(s), listed below:"
[ $bad -eq 0 ] || echo "[  FAILED  ] $bad test(s), listed below:"
[ $bad -eq 0 ]
