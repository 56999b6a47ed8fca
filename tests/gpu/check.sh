#!/usr/bin/env bash
# What a machine with a GPU is for: the kernels' own tests and the backend's on its device, processes that share it, the
# system tests with their daemons on it, a model's text from it against the host's, the kernels' tests again under
# compute-sanitizer where there is one, and the benchmark, as tables for the README.
#
#   tests/gpu/check.sh [--fake] [PROGRAM...]    system tests, below $BUILD/tests
#
# The tables come last, after the counts of all tests, and why some were skipped. Exit status 77 with the reason where
# there is no GPU or no driver. MODEL is the test model's file, fetched if it is not there. --fake: on the driver in
# tests/fakecuda as if it were a real one, all in short, to show that this works.
set -uo pipefail
cd "$(dirname "$0")/../.."
build=$(realpath "${BUILD:-build}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export SCISSOR_TEST_DEVICE=cuda SCISSOR_TEST_GPU=1
bench=("$build/tests/gpu/bench")
short=
if [ "${1:-}" = --fake ]; then
    shift
    short=--short
    # The benchmark is watched by the emulator; what is late is not what is to be shown.
    export FAKECUDA_DIR=$work/gpu FAKECUDA_DELAY_US=20 TEXT_SHORT=1
    mkdir "$FAKECUDA_DIR"
    bench=(env "LD_LIBRARY_PATH=$build/tests/fakecuda" "${bench[@]}")
    export LD_LIBRARY_PATH=$build/tests/fakecuda/unwatched
fi

"${bench[@]}" devices 2>"$work/why" || {
    status=$?
    echo "gpu-check: no GPU to check on: $(tail -n 1 "$work/why")"
    exit $status
}
# Without persistence mode a driver starts the device with its first process and stops it with the last: seconds each.
exec 9> >("${bench[@]}" hold)
export MODEL=${MODEL:-${XDG_CACHE_HOME:-$HOME/.cache}/scissord/SmolLM2-135M-Instruct.Q4_1.gguf}
[ -n "$short" ] || tests/fetch-model.sh "$MODEL"

status=0
run() {
    echo
    tests/run.sh "$@" 9>&- | tee -a "$work/log" || status=1
}

kernels=("$build"/tests/gpu/test_cuda_{move,attend} "$build/tests/system/test_cuda_work")
run "${kernels[@]}" "$build/tests/gpu/test_processes" "${@/#/$build/tests/}" "$PWD/tests/gpu/text.sh"

# A program of its own for each, as run.sh takes no arguments.
sanitizer=$(command -v compute-sanitizer /usr/local/cuda/bin/compute-sanitizer | head -n 1)
if [ -n "$short" ]; then
    echo "a fake driver has no compute-sanitizer"
elif [ -n "$sanitizer" ]; then
    mkdir -p "$work/tests"
    for tool in memcheck racecheck synccheck; do
        for program in "${kernels[@]}"; do
            printf '#!/bin/sh\nexec "%s" --tool %s --error-exitcode 9 "%s"\n' "$sanitizer" $tool "$program" \
                >"$work/tests/$tool ${program##*/}"
        done
    done
    chmod +x "$work"/tests/*
    TEST_SECONDS=1200 run "$work"/tests/*
else
    printf '%s\n' "    skipped: there is no compute-sanitizer: races and bounds are left to the emulator" \
        "0 passed, 0 failed, 1 skipped" | tee -a "$work/log"
fi

"${bench[@]}" $short >"$work/tables" || status=1
echo
sed -nE 's/^    skipped: /skipped: /p' "$work/log" | sort | uniq -c
awk '/^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$/ {p += $1; f += $3; s += $5}
     END {printf "gpu-check: %d passed, %d failed, %d skipped\n", p, f, s}' "$work/log"
[ $status -eq 0 ] || echo "gpu-check: something failed: see above"
echo
cat "$work/tables"
exit $status
