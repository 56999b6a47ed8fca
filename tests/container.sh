#!/usr/bin/env bash
# container.sh FOLDER PACKAGES [OPTION]... - boots a Debian with systemd that is thrown away, and runs FOLDER/main in it.
#
# FOLDER is /life in the container, which has a loopback interface and no other network, and which ends when main ends.
# What main prints is in FOLDER/log. OPTIONs are systemd-nspawn's (--bind-ro=...). Exit status: 0 if main was run, 77
# if no container can be had here (the last line on stderr says why).
#
# From the outside in:
#   root        made once by debootstrap from the machine's own mirror, with PACKAGES (a list with commas). It is kept in
#               the cache folder, named after what is in it, and never written again. Runs at the same time wait for the
#               one that makes it; who uses it has a lock on its folder.
#   cgroup      below the one of this script; the container sees it as the root of all cgroups
#   namespaces  all mounts are in there, and all processes end with the first one
#   overlay     the root below, memory above
# The cgroup and a root half made are not gone with the namespaces: a process that waits for the end of this one removes
# them, so also if this one is killed.
set -euo pipefail
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
self=$(readlink -f "$0")

cannot() {
    echo "$*" >&2
    exit 77
}

# ---------- in the namespaces ----------

boot() {
    local root=$1 folder=$2 name=$3 units=/run/life/root/etc/systemd/system
    shift 3
    [ -d /sys/fs/cgroup ] || mount -t sysfs sysfs /sys
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    # What nspawn leaves in /run goes with the namespace, and it sees no other systemd there.
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p /run/life
    mount -t tmpfs -o mode=755 tmpfs /run/life
    mkdir /run/life/upper /run/life/work /run/life/root
    mount -t overlay -o "lowerdir=$root,upperdir=/run/life/upper,workdir=/run/life/work" overlay /run/life/root
    mkdir -p "$units/multi-user.target.wants" /run/life/root/life
    cat >"$units/life.service" <<END
[Unit]
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
ExecStart=/life/main
StandardOutput=append:/life/log
StandardError=append:/life/log
END
    ln -s ../life.service "$units/multi-user.target.wants/"
    # Nobody logs in, and nothing happens because a time has come.
    ln -sf /dev/null "$units/console-getty.service"
    ln -sf /dev/null "$units/timers.target"
    SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 exec systemd-nspawn --quiet --boot --directory=/run/life/root --private-network \
        --register=no --keep-unit --machine="$name" --console=pipe --resolv-conf=off --timezone=off --link-journal=no \
        --bind="$folder:/life" "$@" </dev/null
}

if [ "${1:-}" = --boot ]; then
    shift
    boot "$@"
fi

# ---------- before them ----------

if [ "${1:-}" != --private ]; then
    [ $# -ge 2 ] || cannot "usage: container.sh FOLDER PACKAGES [OPTION]..."
    [ "$(id -u)" -eq 0 ] || cannot "only root can make a container"
    missing=
    for tool in debootstrap systemd-nspawn unshare setpriv flock; do
        command -v $tool >/dev/null || missing+=" $tool"
    done
    [ -z "$missing" ] || cannot "there is no$missing (apt-get install debootstrap systemd-container)"
    why=$(unshare --mount true 2>&1) || cannot "no mount namespace can be made here ($why)"
    exec unshare --mount "$self" --private "$@"
fi
shift
folder=$(readlink -f "$1") packages=systemd-sysv,$2
shift 2
cache=${XDG_CACHE_HOME:-$HOME/.cache}/scissord
work=$(mktemp -d)
name=life-$$-${work##*.}
half_made=$cache/$name
mkdir -p "$work/cgroup" "$cache"
mount -t cgroup2 cgroup2 "$work/cgroup" 2>/dev/null || { rmdir "$work/cgroup" "$work"; cannot "no cgroups (version 2) here"; }
cgroup=$work/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/$name

clean_up() {
    trap '' INT TERM HUP
    # Until nobody has the other end any more.
    cat >/dev/null
    # A cgroup is busy until the last of its processes is.
    for _ in {1..50}; do
        [ -d "$cgroup" ] || break
        find "$cgroup" -depth -type d -exec rmdir {} \; 2>/dev/null
        sleep 0.05
    done
    umount "$work/cgroup"
    rm -rf --one-file-system "$work" "$half_made"
}
exec {alive}> >(clean_up)
cleaner=$! child=

finish() {
    [ -z "$child" ] || kill -KILL "$child" 2>/dev/null || true
    exec {alive}>&-
    wait "$cleaner" || true
}
trap finish EXIT
trap 'exit 130' INT TERM HUP
mkdir "$cgroup" 2>/dev/null || cannot "no cgroup can be made here"

# Runs a command in the cgroup, in namespaces whose processes all end with the first of them, and with this script.
run() {
    { echo "$BASHPID" >"$cgroup/cgroup.procs" &&
        exec setpriv --pdeathsig KILL unshare --mount --cgroup --pid --fork --kill-child --mount-proc "$@"; } &
    child=$!
    local status=0
    wait "$child" || status=$?
    child=
    return $status
}

make_root() {
    local suite mirror http_proxy=${http_proxy:-} https_proxy=${https_proxy:-}
    suite=$1
    eval "$(apt-config shell http_proxy Acquire::http::Proxy https_proxy Acquire::https::Proxy)"
    export http_proxy https_proxy
    mirror=$(apt-get indextargets --format '$(RELEASE) $(SITE)' 'Created-By: Packages' 'Component: main' |
        awk -v suite="$suite" '$1 ~ "^(" suite "|stable|testing|unstable|sid)$" {print $2; exit}')
    [ -n "$mirror" ] || cannot "apt's sources name no mirror of $suite"
    echo "container: making a root of $suite in $cache (once; a minute)"
    run debootstrap --variant=minbase "--include=$packages" "$suite" "$half_made" "$mirror" >"$work/log" 2>&1 ||
        cannot "debootstrap could not make a root: $(tail -n 1 "$work/log")"
    rm -f "$half_made"/var/cache/apt/archives/*.deb
    mv "$half_made" "$root"
}

# Roots that nobody has used for a month; roots are taken into use under the same lock.
remove_old_roots() {
    local old
    find "$cache" -maxdepth 1 -name 'root-*' -mtime +30 | while read -r old; do
        flock --exclusive --nonblock "$old" rm -rf --one-file-system "$old" || true
    done
}

suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
command -v apt-get >/dev/null && [ -n "$suite" ] || cannot "this is not a Debian system"
root=$cache/root-$suite-$(echo "$packages" | sha256sum | cut -c 1-12)
exec {making}>"$cache/roots.lock"
flock "$making"
# Half made, by somebody who cannot be making them any more.
rm -rf --one-file-system "$cache"/life-*
[ -d "$root" ] || make_root "$suite"
touch "$root"
exec {in_use}<"$root"
flock --shared "$in_use"
remove_old_roots
exec {making}>&-

status=0
run "$self" --boot "$root" "$folder" "$name" "$@" >"$folder/console" 2>&1 || status=$?
[ -e "$folder/log" ] || cannot "the container did not start (status $status): $(tail -n 1 "$folder/console")"
