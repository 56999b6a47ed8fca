#!/usr/bin/env bash
# Installs the Debian packages that the given lists name (deps.txt: one a line, '#' begins a comment), as root or with
# sudo. Asks dpkg first, so it takes no time when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v dpkg-query >/dev/null || {
    echo "deps: this is not a Debian system; install what deps.txt names by other means" >&2
    exit 1
}
mapfile -t wanted < <(sed 's/#.*//' "${@:-deps.txt}" | tr -s ' \t' '\n' | sed '/^$/d')
missing=()
for package in "${wanted[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    # Of a package in two architectures both stand in the answer.
    [[ $status == *installed* && $status != *not-installed* ]] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
        echo "deps: these packages are missing, and installing them needs root (there is no sudo):" >&2
        echo "  apt-get install ${missing[*]}" >&2
        exit 1
    }
    as_root=(sudo)
fi
echo "deps: installing ${missing[*]}"
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0)
"${apt[@]}" update </dev/null
"${apt[@]}" install -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null
