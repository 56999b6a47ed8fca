/* test_top.c - `scissorctl top` on a terminal: in tmux at 80 x 24, against the real daemon.
 *
 * The tmux server runs in the foreground, as a child of this program, on a socket in the test's own directory. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "harness.h"
#include "scissor_error.h"

static struct harness_daemon daemon_;
#define HELPS 8                  /* of two keys each */
#define TIMEOUT_NS 2000000000ull /* how long scissorctl waits for an answer */

static pid_t tmux;
static int attach_socket;
static char socket_path[128], out_path[128], text[65536], ctl_path[512];

/* Runs tmux on our server; what it prints is in `text` then. */
static int tmux_run(const char *const *words) {
    const char *argv[20] = {"tmux", "-u", "-S", socket_path, "-f", "/dev/null"};
    int status = -1;
    for (size_t i = 0; i < 13 && words[i]; i++)
        argv[6 + i] = words[i];
    unlink(out_path);
    assert_int_equal(harness_run(argv, out_path, &status), 0);
    text[0] = 0;
    harness_read_file(out_path, text, sizeof text);
    return status;
}
#define TMUX(...) tmux_run((const char *const[]){__VA_ARGS__, NULL})

static bool tmux_missing(void) {
    int status = -1;
    const char *const argv[] = {"tmux", "-V", NULL};
    return harness_run(argv, "/dev/null", &status) < 0 || status != 0;
}

static uint64_t open_session(const char *name, uint32_t priority) {
    struct proto_open open;
    struct proto_opened opened;
    harness_open_default(&open);
    open.priority = priority;
    proto_text_set(open.name, sizeof open.name, name);
    assert_int_equal(harness_open(attach_socket, &open, &opened, NULL), 0);
    return opened.session;
}

static int setup(void **state) {
    (void)state;
    const char *const server[] = {"tmux", "-u", "-S", socket_path, "-f", "/dev/null", "-D", NULL};
    if (harness_start(&daemon_, NULL) < 0)
        return -1;
    attach_socket = harness_hello(&daemon_);
    snprintf(socket_path, sizeof socket_path, "%s/tmux", daemon_.base);
    snprintf(out_path, sizeof out_path, "%s/tmux.out", daemon_.base);
    snprintf(ctl_path, sizeof ctl_path, "%s", harness_program("scissorctl"));
    if (attach_socket < 0 || harness_spawn(server, "/dev/null", &tmux) < 0)
        return -1;
    struct stat st;
    for (int i = 0; stat(socket_path, &st) < 0; i++) {
        if (i == HARNESS_PATIENCE_MS / 20)
            return -1;
        harness_sleep_ms(20);
    }
    return 0;
}

static int teardown(void **state) {
    (void)state;
    harness_kill(tmux);
    close(attach_socket);
    return daemon_.pid ? harness_stop(&daemon_) : 0;
}

/* A terminal with "before" on it, then `environment` scissorctl top, then its status. */
static void start_top(const char *environment) {
    char command[1024], width[8] = "80", height[8] = "24";
    snprintf(command, sizeof command, "echo before; %s %s --dir %s top; echo after $?; exec sleep 1000", environment,
             ctl_path, daemon_.dir);
    if (TMUX("new-session", "-d", "-s", "top", "-x", width, "-y", height, command))
        fail_msg("tmux: %s", text);
}

static const char *capture(void) {
    assert_int_equal(TMUX("capture-pane", "-p", "-t", "top"), 0);
    return text;
}

/* Waits until the screen shows `what`, or does not any more. */
static void wait_screen(const char *what, bool shown) {
    uint64_t start = harness_now_ns();
    while ((strstr(capture(), what) != NULL) != shown) {
        if (harness_now_ns() - start > HARNESS_PATIENCE_MS * 1000000ull)
            fail_msg("'%s' is %s:\n%s", what, shown ? "not there" : "still there", text);
        harness_sleep_ms(50);
    }
}

/* As wait_screen(), for two: a frame may be caught half drawn, so what it shows is waited for, not looked at once. */
static void wait_order(const char *first, const char *second) {
    uint64_t start = harness_now_ns();
    for (;;) {
        const char *a = strstr(capture(), first), *b = strstr(text, second);
        if (a && b && a < b)
            return;
        if (harness_now_ns() - start > HARNESS_PATIENCE_MS * 1000000ull)
            fail_msg("'%s' does not stand before '%s':\n%s", first, second, text);
        harness_sleep_ms(50);
    }
}

/* How the line of the pool's bar begins; static. */
static const char *bar(const char *begin) {
    static char line[64];
    snprintf(line, sizeof line, "\n%s %s", harness_device() ? harness_device() : "host", begin);
    return line;
}

static void keys(const char *key) {
    assert_int_equal(TMUX("send-keys", "-t", "top", key), 0);
}

/* Every line has at most `columns` characters, and there are `rows` of them. */
static void assert_fits(unsigned rows, unsigned columns) {
    unsigned lines = 0;
    for (const char *at = text, *end; (end = strchr(at, '\n')); at = end + 1, lines++)
        assert_true(end - at <= (ptrdiff_t)columns);
    assert_int_equal(lines, rows);
}

static void test_live(void **state) {
    (void)state;
    struct proto_settled settled;
    uint64_t first = open_session("first", 1);
    open_session("second_one", 7);
    start_top("TERM=screen");
    wait_screen("second_one", true);
    wait_screen("0.0 tokens", true); /* two frames have come */
    if (getenv("V"))
        fprintf(stderr, "%s", text);
    assert_fits(24, 80);
    wait_screen(bar("[####"), true);
    wait_screen(" of 64.0 MiB, guaranteed ", true);
    wait_screen("sessions 2 open, 0 waiting", true);
    wait_screen("ID NAME ", true);
    wait_screen("streaming", true);
    wait_screen("before", false); /* a screen of its own */

    for (int i = 0; i < 8; i++)
        assert_int_equal(harness_settle(attach_socket, first, 0, 16, &settled), 0);
    wait_screen("\na second 0.0 tokens", false);
    wait_screen(" 48 ", true); /* its rows */

    /* Sorting by name, and back. */
    keys("N");
    wait_screen("by NAME, rising", true);
    wait_order(" first ", "second_one");
    keys("r");
    wait_screen("by NAME, falling", true);
    wait_order("second_one", " first ");

    /* Details of the selected one. */
    keys("Home");
    keys("d");
    wait_screen("LAYER HEADS", true);
    wait_screen("session 2 second_one", true);
    keys("q");
    wait_screen("ID NAME ", true);
    keys("h");
    wait_screen("any key: back", true);
    keys("x");
    wait_screen("any key: back", false);
    keys("q");
    wait_screen("after 0", true);
    wait_screen("before", true); /* what was there is there again */
    wait_screen(bar("["), false);
}

static void test_close(void **state) {
    (void)state;
    struct proto_closed closed;
    uint64_t one = open_session("stays", 1), two = open_session("goes", 1);
    start_top("TERM=screen NO_COLOR=1");
    wait_screen("goes", true);
    keys("N"); /* "goes" is the first */
    keys("Home");
    keys("c");
    wait_screen("(goes)? y: yes, other keys: no", true);
    keys("n");
    wait_screen("stays open", true);
    struct proto_pool_stat stat;
    assert_int_equal(harness_stat(&daemon_, &stat), 0);
    assert_int_equal(stat.sessions, 2);
    keys("c");
    wait_screen("(goes)? y: yes, other keys: no", true);
    keys("y");
    wait_screen("is closed", true);
    wait_screen("sessions 1 open", true);
    assert_int_equal(harness_expect(attach_socket, PROTO_CLOSED, 0, &closed, sizeof closed, NULL), 0);
    assert_int_equal(closed.session, two);
    assert_int_equal(closed.code, SCISSOR_ECLOSED);
    assert_true(one != two);
    keys("q");
    wait_screen("after 0", true);
}

static void test_resize(void **state) {
    (void)state;
    open_session("one", 1);
    start_top("TERM=screen");
    wait_screen(" one ", true);
    assert_int_equal(TMUX("resize-window", "-t", "top", "-x", "120", "-y", "40"), 0);
    for (int i = 0;; i++, harness_sleep_ms(50)) {
        const char *line = strstr(capture(), bar("["));
        const char *end = line ? strchr(line + 1, '\n') : NULL;
        if (end && end - line - 1 > 110)
            break;
        if (i == HARNESS_PATIENCE_MS / 50)
            fail_msg("the bar is not wider:\n%s", text);
    }
    assert_fits(40, 120);
    assert_int_equal(TMUX("resize-window", "-t", "top", "-x", "40", "-y", "8"), 0);
    wait_screen("guaranteed", false);
    wait_screen(" one ", true);
    assert_fits(8, 40);
    assert_int_equal(TMUX("resize-window", "-t", "top", "-x", "10", "-y", "3"), 0);
    wait_screen("too small", true);
    keys("C-c"); /* a signal restores the terminal, too */
    assert_int_equal(TMUX("resize-window", "-t", "top", "-x", "80", "-y", "24"), 0);
    wait_screen("after 0", true);
    wait_screen("too small", false);
}

static void test_gone_and_back(void **state) {
    (void)state;
    open_session("one", 1);
    start_top("TERM=screen");
    wait_screen(" one ", true);
    close(attach_socket);
    assert_int_equal(harness_stop(&daemon_), 0);
    wait_screen("no daemon, trying again", true);
    wait_screen(" one ", true); /* what was known last */
    keys("c");
    wait_screen("other keys: no", true);
    keys("y");
    wait_screen("not closed: ", true);
    assert_int_equal(harness_start_again(&daemon_, NULL), 0);
    attach_socket = harness_hello(&daemon_);
    open_session("other", 1);
    wait_screen(" other ", true);
    keys("x");
    keys("q");
    wait_screen("after 0", true);
}

/* Into the help and back, some times; ns. */
static uint64_t help_and_back(void) {
    uint64_t start = harness_now_ns();
    for (int i = 0; i < HELPS; i++) {
        keys("h");
        wait_screen("up, down, k, j", true);
        keys("x");
        wait_screen("up, down, k, j", false);
    }
    return harness_now_ns() - start;
}

/* A daemon that stands still is waited for, but the keys live. */
static void test_hung(void **state) {
    (void)state;
    open_session("one", 1);
    start_top("TERM=screen");
    wait_screen(" one ", true);
    uint64_t live = help_and_back();
    pid_t front = harness_front_pid(&daemon_);
    kill(front, SIGSTOP);
    kill(daemon_.pid, SIGSTOP);
    wait_screen("no daemon, trying again", true);
    uint64_t hung = help_and_back();
    kill(daemon_.pid, SIGCONT);
    kill(front, SIGCONT);
    /* Keys that wait for the time-out, nearly all the time one runs, need one each. */
    if (hung > 4 * live + HELPS * TIMEOUT_NS)
        fail_msg("keys take %.1f s, with a daemon that answers %.1f s", (double)hung / 1e9, (double)live / 1e9);
    wait_screen("no daemon", false);
    keys("q");
    wait_screen("after 0", true);
}

/* A terminal that cannot move its cursor gets one frame as text. */
static void test_dumb(void **state) {
    (void)state;
    open_session("one", 1);
    start_top("TERM=dumb");
    wait_screen("after 0", true);
    wait_screen("of 64.0 MiB charged", true);
    wait_screen("before", true);
}

static void test_skipped(void **state) {
    (void)state;
    printf("SKIP: tmux is not installed\n");
    skip();
}

int main(void) {
    harness_init(240);
    if (tmux_missing()) {
        const struct CMUnitTest none[] = {cmocka_unit_test(test_skipped)};
        return cmocka_run_group_tests_name("scissorctl top in tmux", none, NULL, NULL);
    }
#define IN_TMUX(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        IN_TMUX(test_live),          IN_TMUX(test_close), IN_TMUX(test_resize),
        IN_TMUX(test_gone_and_back), IN_TMUX(test_hung),  IN_TMUX(test_dumb),
    };
    return cmocka_run_group_tests_name("scissorctl top in tmux", tests, NULL, NULL);
}
