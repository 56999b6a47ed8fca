#!/usr/bin/env bash
# life.sh start FOLDER PART... - what the service goes through from the installation of its package to the purge, part by
# part, in a container of tests/container.sh, which see for the exit status. FOLDER then has a line "PART passed MS" or
# "PART failed MS" for each in `results`, a trace of it in PART.log, and the container's `journal`.
#
# Each part goes on from where the one before ended. Nothing here waits for a fixed time: `until_ok` asks until
# something is so.
set -eu
export LC_ALL=C DEBIAN_FRONTEND=noninteractive PAGER=cat
self=$(readlink -f "$0")

# ---------- outside: what the container needs ----------

packages=(scissord scissor-run libscissor0)

# Their dependencies, but for those among them, as debootstrap wants them.
dependencies() {
    for deb in "$1"/*.deb; do dpkg-deb --field "$deb" Depends; done | tr ',' '\n' |
        sed -E 's/[|(].*//; s/ //g; /^(lib)?scissor/d; /^systemd$/d; /^$/d' | sort -u | paste -sd,
}

start() {
    local folder=$1 name deb tree=$1/tree
    shift
    for tool in dpkg-buildpackage dh; do
        command -v $tool >/dev/null || { echo "there is no $tool (apt-get install dpkg-dev debhelper)"; exit 77; }
    done
    [ -r "${MODEL:-}" ] || { echo "needs the test model (\$MODEL)"; exit 77; }
    cd "$(dirname "$self")/.."
    make --no-print-directory deb "BUILD=${BUILD:-build}"
    mkdir "$folder/packages" "$folder/newer"
    for name in "${packages[@]}"; do
        deb=("${BUILD:-build}/deb/${name}"_[0-9]*.deb)
        cp "${deb[0]}" "$folder/packages"
        # The same build as a package of a later version.
        dpkg-deb --raw-extract "${deb[0]}" "$tree"
        sed -i -E 's/^Version: .*/&+newer/' "$tree/DEBIAN/control"
        dpkg-deb --build --root-owner-group "$tree" "$folder/newer" >/dev/null
        rm -r "$tree"
    done
    # Something to read that is the same everywhere.
    head -c 4000 LICENSE >"$folder/text"
    cp "$self" "$folder/life.sh"
    printf '#!/bin/sh\nexec /life/life.sh run %s\n' "$*" >"$folder/main"
    chmod 755 "$folder" "$folder/main"
    touch "$folder/model.gguf"
    container "$folder" "$folder" --bind-ro="$(readlink -f "$MODEL"):/life/model.gguf"
}

# A container with the root that the packages of $1 need, in which $2/main runs.
container() {
    exec "${self%/*}/container.sh" "$2" "$(dependencies "$1/packages")" "${@:3}"
}

# ---------- in the container ----------

model=/life/model.gguf

# The command's status turns 0 within 60 s (or the part failed).
until_ok() {
    local end=$((SECONDS + 60))
    set +x
    until "$@" >/tmp/until 2>&1; do
        [ $SECONDS -lt $end ] || { echo "was never so: $*"; cat /tmp/until; exit 1; }
        sleep 0.05
    done
    set -x
}
fails() { ! "$@"; }
# The main process of the service.
pid() { systemctl show --property=MainPID --value scissord; }
as() { runuser -u "$1" -- "${@:2}"; }
# A line of the journal since `mark` was called has this text.
mark() { journalctl --sync && journalctl -u scissord -n 0 --show-cursor | sed -n 's/^-- cursor: //p' >/tmp/mark; }
says() { journalctl --sync && journalctl -u scissord --after-cursor="$(cat /tmp/mark)" -o cat | grep -F -- "$1"; }
# A number out of `scissorctl --json stat`.
stat_of() { scissorctl --json stat | tr ',{}[]' '\n\n\n\n\n' | sed -n "s/^ *\"$1\": *\([0-9]*\)\$/\1/p" | head -n 1; }
stat_is() { [ "$(stat_of "$1")" = "$2" ]; }

# What the model goes on with, written to $1, in the same way each time.
text() {
    as alice scissor-run $model --socket /run/scissord --file /life/text --max-tokens 500 --prompt " The" --threads 1 --budget 256 \
        --guarantee 128 -n 100 --name life >"$1" 2>"$1.stderr"
}

part_install() {
    dpkg -i /life/packages/*.deb
    [ -z "$(dpkg --audit)" ]
    [ "$(systemctl is-enabled scissord)" = enabled ]
    systemctl is-active scissord
    # Not the machine's memory decides what this test sees.
    sed -i 's/^;* *pool *=.*//; s/^;* *score-wait *=.*//' /etc/scissord.conf
    printf 'pool = 256MiB\nscore-wait = 10000\n' >>/etc/scissord.conf
    scissord --check
    systemctl restart scissord
    until_ok scissorctl stat
    stat_is limit_bytes $((256 << 20))
}

has_status() { systemctl show --property=StatusText --value scissord | grep '256'; }
# What the unit says that systemd knows of the service while it runs.
part_status() {
    until_ok has_status
    has_status
    [ "$(systemctl show --property=MemoryMax --value scissord)" = "$(scissord --memory-max)" ]
}

# Whoever comes first starts the daemon.
part_socket() {
    systemctl stop scissord
    fails systemctl is-active scissord
    systemctl is-active scissord.socket
    as alice scissor-run $model --socket /run/scissord --prompt Hello -n 2
    systemctl is-active scissord
    stat_is limit_bytes $((256 << 20))
}

part_exposure() {
    # Fails above this many tenths.
    systemd-analyze security --no-pager --threshold=10 scissord
}

part_users() {
    getent passwd scissord | grep ':/usr/sbin/nologin$'
    getent group scissord
    [ "$(ps_of "$(pid)")" = scissord ]
    [ "$(stat -c '%U:%G %a' /run/scissord)" = "scissord:scissord 750" ]
    useradd --no-create-home --groups scissord alice
    useradd --no-create-home bob
}
ps_of() { stat -c %U "/proc/$1"; }

part_use() {
    text /tmp/reference
    [ "$(wc -c </tmp/reference)" -gt 150 ]
    until_ok stat_is sessions 0
}

part_stranger() {
    fails as bob scissor-run $model --socket /run/scissord --prompt Hello -n 4 >/tmp/bob 2>&1
    grep 'not allowed' /tmp/bob
    fails as bob scissorctl stat >/tmp/bob 2>&1
    grep 'you may not talk to the scissord in /run/scissord; .* member of the group scissord$' /tmp/bob
}

part_tools() {
    text /tmp/second &
    until_ok stat_is sessions 1
    as alice scissorctl stat
    as alice scissorctl sessions | grep life
    as alice scissorctl --json sessions
    as alice scissorctl top --once | grep life
    as alice scissorctl watch --help
    wait $!
    cmp /tmp/reference /tmp/second
}

# The figures over HTTP: off at first, and from a process that cannot open a network socket by itself.
http() {
    exec 9<>/dev/tcp/127.0.0.1/9743
    printf 'GET /metrics HTTP/1.0\r\n\r\n' >&9
    timeout 20 cat <&9 | tr -d '\r'
    exec 9>&-
}
part_metrics() {
    fails systemctl is-enabled scissord-metrics.socket
    fails systemctl is-active scissord-metrics.socket
    systemctl enable --now scissord-metrics.socket
    http | grep -F 'scissord_pool_limit_bytes{pool="host"} 268435456'
    local user
    user=$(ps_of "$(systemctl show --property=MainPID --value scissord-metrics)")
    [ "$user" != root ] && [ "$user" != scissord ]
    systemd-analyze security --no-pager --threshold=10 scissord-metrics
    systemctl disable --now scissord-metrics.socket
    systemctl stop scissord-metrics
}

part_reload() {
    mark
    sed -i 's/^score-wait = .*/score-wait = 9999/' /etc/scissord.conf
    systemctl reload scissord
    until_ok says 'score-wait is 9999 now, was 10000'
    cp /etc/scissord.conf /tmp/good
    printf 'score-wait = often\n' >/etc/scissord.conf
    mark
    local before
    before=$(pid)
    systemctl reload scissord || true
    until_ok says '/etc/scissord.conf:1: score-wait'
    until_ok says 'all values stay as they were'
    [ "$(pid)" = "$before" ]
    cp /tmp/good /etc/scissord.conf
    systemctl reload scissord
    systemctl is-active scissord
}

part_journal() {
    journalctl --sync
    journalctl -u scissord -o json >/tmp/journal
    # A notice, the error of the reload, and the fields of the sessions that there were.
    grep -qm 1 '"PRIORITY":"5"' /tmp/journal
    grep -qm 1 '"PRIORITY":"[34]"' /tmp/journal
    grep -qm 1 '"SESSION":"' /tmp/journal
    grep -qm 1 '"CLIENT_PID":"' /tmp/journal
}

tokens_above() { [ "$(scissorctl --json sessions | tr ',{}' '\n\n\n' | sed -n 's/^ *"tokens_seen": *\([0-9]*\)$/\1/p')" -ge "$1" ]; }

# A session goes through what "$@" does to the service, and its text is what it would have been.
survives() {
    local before run
    before=$(pid)
    text /tmp/survivor &
    run=$!
    until_ok tokens_above 300
    "$@"
    until_ok another_than "$before"
    wait $run
    cmp /tmp/reference /tmp/survivor
    # It is the same session, and did not read its text again.
    stat_is sessions_taken_over 1
    stat_is sessions_lost 0
    until_ok stat_is sessions 0
}
another_than() { local now; now=$(pid); [ "$now" -ne 0 ] && [ "$now" -ne "$1" ]; }

part_kill() {
    survives kill_it KILL
}
kill_it() { kill -s "$1" "$(pid)"; }

part_restart() {
    survives systemctl restart scissord
}

part_watchdog() {
    # Shorter than what the unit says, so that nobody has to wait for that.
    mkdir -p /etc/systemd/system/scissord.service.d
    printf '[Service]\nWatchdogSec=2\n' >/etc/systemd/system/scissord.service.d/watchdog.conf
    systemctl daemon-reload
    systemctl restart scissord
    mark
    survives kill_it STOP
    until_ok says 'Watchdog timeout'
    rm /etc/systemd/system/scissord.service.d/watchdog.conf
    systemctl daemon-reload
}

part_upgrade() {
    survives dpkg -i /life/newer/*.deb
    dpkg-query -W -f '${Version}\n' scissord | grep '+newer$'
    grep '^pool = 256MiB$' /etc/scissord.conf
    [ "$(systemctl is-enabled scissord)" = enabled ]
}

part_remove() {
    dpkg --remove scissord scissor-run libscissor0
    fails systemctl is-active scissord
    fails pgrep_user scissord
    [ -e /etc/scissord.conf ]
    [ ! -e /usr/bin/scissord ]
}
pgrep_user() { find /proc -maxdepth 1 -name '[0-9]*' -user "$1" | grep .; }

# The user stays, as is usual in Debian: its number must not become somebody else's. Nothing else does.
part_purge() {
    dpkg --purge scissord scissor-run libscissor0
    fails grep -E '^(scissor|libscissor)' <(dpkg-query -W)
    find / -xdev -path /proc -prune -o -path /life -prune -o -path /sys -prune -o -path /tmp -prune -o \
        -iname '*scissor*' -print | tee /tmp/left
    [ ! -s /tmp/left ]
    find /run -iname '*scissor*' | tee /tmp/left
    [ ! -s /tmp/left ]
    getent passwd scissord
}

run() {
    local part outcome start
    for part in "$@"; do
        start=$(date +%s%N) outcome=failed
        "$self" part "$part" >"/life/$part.log" 2>&1 </dev/null && outcome=passed
        echo "$part $outcome $((($(date +%s%N) - start) / 1000000))" >>/life/results
    done
    journalctl -o short-precise >/life/journal
}

# In a shell of its own, as `set -e` does nothing where somebody asks for the status.
part() {
    set -x
    "part_$1"
}

"$@"
