#!/usr/bin/env bash
# Runs test programs and adds up what cmocka says at their ends.
#
#   tests/run.sh PROGRAM...
#
# Those in unit, sim and emulation run side by side, TEST_JOBS (one per core) of them, the others one after another.
# Each has a fresh $TMPDIR, removed afterwards, and TEST_SECONDS (300) to end. With SCISSOR_TEST_DEVICE=cuda the daemons
# that it starts are on that device, of a driver that is a fake (tests/fakecuda) and that no other test shares, or, with
# SCISSOR_TEST_GPU=1, of the one that the machine has. A crash, a time-out and a process left behind count as a failed
# test. A test that cannot run here prints "SKIP: reason" and calls skip(); of one that passes, "NOTE: text" is shown,
# too. What failed is named again at the end. The last line is "N passed, N failed, N skipped"; the exit status is 1 if
# anything failed or nothing ran.
set -u
export LC_ALL=C
limit=${TEST_SECONDS:-300}
# Short names: the path of a socket has no more than 107 bytes.
base=${TMPDIR:-/tmp}
[ ${#base} -le 20 ] || base=/tmp
work=$(mktemp -d "$base/scissor.XXXXXX") || exit 1
number=0 shown=0 most=${TEST_JOBS:-$(nproc)}
[ "$most" -ge 1 ] 2>/dev/null || most=1
programs=()
passed=0 failed=0 skipped=0
failures=

# Processes whose environment says that they stem from the test in directory $1, however they left its group.
survivors() {
    grep -lzxF "TMPDIR=$1" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3
}

finish() {
    kill $(jobs -p) 2>/dev/null && wait 2>/dev/null
    for _ in 1 2 3 4 5 6 7 8 9 10; do # one that is just being started may not be seen the first time
        local left=
        for directory in "$work"/*/; do
            for pid in $(survivors "${directory%/}"); do left=1 && kill -9 "$pid" 2>/dev/null; done
        done
        [ -n "$left" ] || break
        sleep 0.1
    done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

# Sum of the counts in lines like "[  PASSED  ] 3 test(s)." or "[  FAILED  ] group: 3 test(s), listed below:".
count() {
    sed -nE "s/^\[  $1 *\] (.*: )?([0-9]+) test\(s\).*/\2/p" "$2" | awk '{n += $1} END {print n + 0}'
}

# Leaves "passed failed skipped" in $2.sum and what failed in $2.failures.
run_one() {
    local program=$1 directory=$2 log=$2.log name start status seconds left
    name=${program##*/tests/}${SCISSOR_TEST_DEVICE:+, $SCISSOR_TEST_DEVICE}
    mkdir "$directory" || return 1
    start=$(date +%s.%N)
    local -a device=()
    if [ -n "${SCISSOR_TEST_DEVICE:-}" ] && [ -z "${SCISSOR_TEST_GPU:-}" ]; then
        mkdir "$directory/gpu"
        device=(LD_LIBRARY_PATH="$(realpath "${BUILD:-build}")/tests/fakecuda/unwatched" FAKECUDA_DIR="$directory/gpu")
    fi
    env TMPDIR="$directory" "${device[@]}" timeout --kill-after=5 "$limit" "$program" >"$log" 2>&1 </dev/null
    status=$?
    seconds=$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN {printf "%.1f", b - a}')

    local good bad none why=
    good=$(count PASSED "$log") bad=$(count FAILED "$log") none=$(count SKIPPED "$log")
    # A test whose set-up failed is in none of these sums.
    bad=$((bad + $(grep -c '^\[  ERROR   \] [^-]' "$log")))
    if [ $status -eq 124 ] || [ $status -eq 137 ]; then
        why="did not end within $limit s"
    elif [ $status -gt 128 ]; then
        why="ended by signal $((status - 128))"
    elif [ $status -ne 0 ] && [ "$bad" -eq 0 ]; then
        why="exit status $status"
    elif [ $((good + bad + none)) -eq 0 ]; then
        why="ran no test"
    fi
    # What was told to end may need a moment.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        left=$(survivors "$directory")
        [ -z "$left" ] && break
        sleep 0.2
    done
    for pid in $left; do
        why="${why:+$why; }left process $pid behind ($(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null))"
        kill -9 "$pid" 2>/dev/null
    done
    [ -n "$why" ] && [ "$bad" -eq 0 ] && bad=1

    printf '%-32s %4d passed %3d failed %3d skipped %7s s%s\n' "$name" "$good" "$bad" "$none" "$seconds" "${why:+  $why}"
    if [ "$bad" -gt 0 ]; then
        sed 's/^/    /' "$log"
        echo "$name  ${why:-$bad failed}" >"$directory.failures"
        grep -aE '^\[  (FAILED|ERROR)  |error:|ERROR:|runtime error' "$log" | head -n 8 | cut -c1-160 | sed 's/^/    /' >>"$directory.failures"
    else
        sed -n 's/^SKIP: /    skipped: /p; s/^NOTE: /    /p' "$log"
    fi
    rm -rf "$directory" "$log"
    echo "$good $bad $none" >"$directory.sum"
}

# What has ended, in the order in which it began; a run that left no sum counts as a failure.
show() {
    local good bad none
    while [ $shown -lt $number ] && { [ -e "$work/$((shown + 1)).sum" ] || [ "${1:-}" = all ]; }; do
        shown=$((shown + 1))
        cat "$work/$shown.out"
        good=0 bad=1 none=0
        if [ -e "$work/$shown.sum" ]; then
            read -r good bad none <"$work/$shown.sum"
        else
            failures+="${programs[shown]}  left no result"$'\n'
        fi
        passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + none))
        [ ! -e "$work/$shown.failures" ] || failures+=$(cat "$work/$shown.failures")$'\n'
    done
}

# Until fewer than $1 are running.
await() {
    while [ "$(jobs -pr | wc -l)" -ge "$1" ]; do
        wait -n
        show
    done
}

for program in "$@"; do
    case $program in
    */unit/* | */sim/* | */emulation/*) at_once=$most ;;
    *) at_once=1 ;;
    esac
    await "$at_once"
    number=$((number + 1))
    programs[number]=$program
    run_one "$program" "$work/$number" >"$work/$number.out" &
    [ "$at_once" -gt 1 ] || await 1
done
await 1
show all
[ $((passed + failed)) -gt 0 ] || echo "no test ran"
# Once more, as the log of a long run may be read from its end alone.
[ -z "$failures" ] || printf '\nfailed:\n%s' "$failures"
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
