#!/usr/bin/env bash
# What a machine with a GPU is for: the kernels' own tests and the backend's on its device, processes that share it, the
# system tests with their daemons on it, all of the first again under compute-sanitizer where there is one, and the
# benchmark, as a table for the README.
#
#   tests/gpu/check.sh [--fake] [PROGRAM...]    system tests, below $BUILD/tests
#
# Exit status 77 with the reason where there is no GPU or no driver. --fake: on the driver in tests/fakecuda, with a
# benchmark of next to nothing, to show that all of this works.
set -u
cd "$(dirname "$0")/../.."
build=$(realpath "${BUILD:-build}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export SCISSOR_TEST_DEVICE=cuda
bench=("$build/tests/gpu/bench")
short=
if [ "${1:-}" = --fake ]; then
    shift
    bench=(env LD_LIBRARY_PATH="$build/tests/fakecuda" FAKECUDA_DIR="$work" "${bench[@]}")
    short=--short
    # What is late is not what is to be shown.
    export FAKECUDA_DELAY_US=20
else
    export SCISSOR_TEST_GPU=1
fi

"${bench[@]}" devices || {
    status=$?
    echo "gpu-check: no GPU to check on"
    exit $status
}
kernels=("$build"/tests/gpu/test_cuda_{move,attend} "$build/tests/system/test_cuda_work")
status=0
echo
tests/run.sh "${kernels[@]}" "$build/tests/gpu/test_processes" "${@/#/$build/tests/}" | tee "$work/log" || status=1
[ "${PIPESTATUS[0]}" -eq 0 ] || status=1

# A program of its own for each, as run.sh takes no arguments.
sanitizer=$(command -v compute-sanitizer /usr/local/cuda/bin/compute-sanitizer | head -n 1)
if [ -n "$sanitizer" ] && [ -z "$short" ]; then
    mkdir -p "$work/tests"
    for tool in memcheck racecheck synccheck; do
        for program in "${kernels[@]}"; do
            printf '#!/bin/sh\nexec "%s" --tool %s --error-exitcode 9 "%s"\n' "$sanitizer" $tool "$program" \
                >"$work/tests/$tool ${program##*/}"
        done
    done
    chmod +x "$work"/tests/*
    echo
    TEST_SECONDS=1200 tests/run.sh "$work"/tests/* || status=1
else
    echo "no compute-sanitizer${short:+ on a fake driver}: races and bounds on the device are left to the emulator"
fi

echo
"${bench[@]}" $short || status=1
exit $status
