#!/bin/sh
# fetch-nvdisasm.sh TARGET - puts NVIDIA's disassembler at TARGET, for compiled.sh, where no CUDA Toolkit has it.
#
# It comes out of a Python package, as the test model does (tests/fetch-model.sh). A TARGET that is there is left alone.
set -eu

package=nvidia-cuda-nvdisasm==13.5.37
target=$1
[ ! -x "$target" ] || exit 0
directory=$(dirname "$target")
mkdir -p "$directory"
work=$(mktemp -d "$directory/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

echo "fetching $package to $target"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$package"
python3 -m zipfile -e "$work"/*.whl "$work/unpacked"
find "$work/unpacked" -name nvdisasm -type f -exec mv {} "$work/nvdisasm" \;
chmod 755 "$work/nvdisasm"
mv "$work/nvdisasm" "$target"
