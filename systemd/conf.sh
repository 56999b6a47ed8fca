#!/bin/sh
# conf.sh install NEW CONF EXAMPLE  - puts the default configuration NEW at CONF and EXAMPLE.
# conf.sh uninstall CONF EXAMPLE    - takes CONF away again.
#
# EXAMPLE is the default as it was when CONF was installed last: a CONF that differs from it belongs to the
# administrator. It is never written or removed; a new default then goes beside it, as CONF.new.
set -eu

same() {
    cmp -s "$1" "$2"
}

install_conf() {
    new=$1 conf=$2 example=$3
    if [ ! -e "$conf" ] || same "$conf" "$example"; then
        install -m 644 "$new" "$conf"
        rm -f "$conf.new"
    elif ! same "$conf" "$new"; then
        install -m 644 "$new" "$conf.new"
        echo "install: $conf has been changed and stays as it is; the new default is $conf.new"
    fi
    install -m 644 "$new" "$example"
}

uninstall_conf() {
    conf=$1 example=$2
    ! same "$conf.new" "$example" || rm -f "$conf.new"
    if same "$conf" "$example"; then
        rm -f "$conf"
    elif [ -e "$conf" ]; then
        echo "uninstall: $conf has been changed and stays"
    fi
}

command=$1
shift
"${command}_conf" "$@"
