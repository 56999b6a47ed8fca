#!/usr/bin/env bash
# deb.sh VERSION FOLDER - builds the Debian packages of this tree, of which a copy is made, into FOLDER.
#
# Everything that is known elsewhere is taken from there: the version from the Makefile, what has to be installed for a
# build from deps.txt. DEBFULLNAME and DEBEMAIL say whose packages they are.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
tree=$folder/scissord-$version

missing=()
command -v dpkg-buildpackage >/dev/null || missing+=(dpkg-dev)
command -v dh >/dev/null || missing+=(debhelper)
[ ${#missing[@]} -eq 0 ] || {
    echo "make deb: needs what is not installed here: apt-get install ${missing[*]}" >&2
    exit 1
}

rm -rf "$tree"
mkdir "$tree"
cp -a Makefile README.md LICENSE deps.txt client daemon kernels proto systemd tests "$tree"
mv "$tree/systemd/debian" "$tree/debian"
maintainer="${DEBFULLNAME:-scissord developers} <${DEBEMAIL:-scissord@packages.invalid}>"
# Libraries that programs are built with: packages named -dev, but for those that only the tests need.
needed=$(awk '$1 ~ /-dev$/ && $1 != "libc6-dev" && !/# *tests/ {printf " %s,\n", $1}' deps.txt)
awk -v maintainer="$maintainer" -v needed="$needed" \
    '/^@BUILD_DEPENDS@$/ {print needed "\n pkg-config"; next} {sub(/@MAINTAINER@/, maintainer); print}' \
    "$tree/debian/control.in" >"$tree/debian/control"
rm "$tree/debian/control.in"
seconds=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
printf 'scissord (%s) unstable; urgency=medium\n\n  * Version %s.\n\n -- %s  %s\n' "$version" "$version" "$maintainer" \
    "$(LC_ALL=C date -u -R -d "@$seconds")" >"$tree/debian/changelog"

# What an outer make was given is not for the package.
unset MAKEFLAGS MFLAGS MAKEOVERRIDES MAKELEVEL BUILD DESTDIR PREFIX SANITIZE WERROR CFLAGS LDFLAGS
cd "$tree"
dpkg-buildpackage -b -us -uc >"$folder/log" 2>&1 || {
    tail -n 40 "$folder/log" >&2
    echo "make deb: failed; all of it is in $folder/log" >&2
    exit 1
}
rm -rf "$tree"
ls "$folder"/*"_${version}_"*.deb
