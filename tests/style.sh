#!/usr/bin/env bash
# Fails if a source is not formatted, is too long, or includes what its layer must not know:
#   proto/ and kernels/   nothing of ours outside of themselves (kernels/ may use proto/'s allocator)
#   client/, daemon/      proto/ and kernels/, never each other
#   nanomsg               in one file on each side
set -u
cd "$(dirname "$0")/.."
status=0
complain() {
    printf '%s\n' "$@" >&2
    status=1
}

if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    # A file that is not committed yet counts, too; one that was deleted does not.
    mapfile -t sources < <(git ls-files -co --exclude-standard '*.c' '*.h' '*.cu' '*.cuh' | sort -u | xargs ls -d 2>/dev/null)
else
    mapfile -t sources < <(find . -name build -prune -o \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) -print | sed 's|^\./||' | sort)
fi
[ ${#sources[@]} -gt 0 ] || complain "style: no sources found"

clang-format --dry-run -Werror "${sources[@]}" || complain "style: run make format"

for file in "${sources[@]}"; do
    lines=$(wc -l <"$file")
    [ "$lines" -le 600 ] || complain "$file: $lines lines; split it (600 at most)"
done

# Folder in which a header of ours lies, seen from the layer of the including file.
layer_of() {
    case $1 in
    proto/*) echo proto ;;
    kernels/*) echo kernels ;;
    client/*) echo client ;;
    daemon/*) echo daemon ;;
    *) echo other ;;
    esac
}
allowed() {
    case $1 in
    proto) echo " proto " ;;
    kernels) echo " kernels proto " ;;
    client) echo " client kernels proto " ;;
    daemon) echo " daemon kernels proto " ;;
    *) echo " proto kernels client daemon other " ;;
    esac
}
declare -A header_layers
for file in "${sources[@]}"; do
    [[ $file == *.h ]] && header_layers[${file##*/}]+=" $(layer_of "$file")"
done
nn_client= nn_daemon=
for file in "${sources[@]}"; do
    layer=$(layer_of "$file")
    while read -r header; do
        layers=${header_layers[${header##*/}]:-}
        [ -n "$layers" ] || continue
        good=
        for one in $layers; do [[ $(allowed "$layer") == *" $one "* ]] && good=1; done
        [ -n "$good" ] || complain "$file: includes $header of$layers, which $layer/ must not know"
    done < <(sed -nE 's/^[ \t]*#[ \t]*include[ \t]*"([^"]+)".*/\1/p' "$file")
    if grep -qE '^[ \t]*#[ \t]*include[ \t]*<nanomsg/nn.h>' "$file"; then
        case $file in
        client/ctl/* | tests/*) ;;
        client/*) nn_client+=" $file" ;;
        daemon/*) nn_daemon+=" $file" ;;
        *) complain "$file: includes nanomsg" ;;
        esac
    fi
done
[ "$(wc -w <<<"$nn_client")" -le 1 ] || complain "more than one file of client/ includes nanomsg:$nn_client"
[ "$(wc -w <<<"$nn_daemon")" -le 1 ] || complain "more than one file of daemon/ includes nanomsg:$nn_daemon"
nn_ctl=$(grep -lE '^[ \t]*#[ \t]*include[ \t]*<nanomsg/nn.h>' client/ctl/*.c | xargs)
[ "$(wc -w <<<"$nn_ctl")" -le 1 ] || complain "more than one file of client/ctl/ includes nanomsg: $nn_ctl"
exit $status
