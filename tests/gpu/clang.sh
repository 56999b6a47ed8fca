#!/usr/bin/env bash
# Each kernel before clang's front end for CUDA, with the warnings that the C code is compiled with: a second opinion on
# what is written, from a compiler that needs no Toolkit. One test a file; the last lines are cmocka's, so that
# tests/run.sh can count them.
set -u
cd "$(dirname "$0")/../.."
export LC_ALL=C
clang=${CLANG:-clang}
if ! command -v "$clang" >/dev/null; then
    echo "SKIP: there is no clang"
    echo "[  SKIPPED ] 1 test(s), listed below:"
    exit 0
fi
good=0 bad=0
for file in kernels/cuda/*.cu; do
    if "$clang" -fsyntax-only -x cuda --cuda-device-only --cuda-gpu-arch=sm_80 -nocudainc -nocudalib \
        -Wno-unknown-cuda-version -std=c++17 -Wall -Wextra -Wshadow -Wpointer-arith -Werror -Ikernels \
        -Itests/gpu/include -include tests/gpu/clang_device.h "$file"; then
        good=$((good + 1))
    else
        echo "$file: not accepted"
        bad=$((bad + 1))
    fi
done
echo "[  PASSED  ] $good test(s)."
[ $bad -eq 0 ] || echo "[  FAILED  ] $bad test(s), listed below:"
[ $bad -eq 0 ]
