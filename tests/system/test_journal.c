/* test_journal.c - what the daemon writes when its stderr goes to the journal: priorities before lines, and fields to
 * the journal's own socket. That socket has a fixed place, so a journal of ours is put there in a mount namespace that
 * only this program and its daemons see. */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "harness.h"

static struct harness_daemon d;
static int journal = -1; /* our socket */

/* $JOURNAL_STREAM says which file the journal reads. */
static void be_a_stream(void *data) {
    const uint64_t *off = data;
    struct stat st;
    char text[64];
    fstat(STDERR_FILENO, &st);
    snprintf(text, sizeof text, "%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)(st.st_ino + *off));
    setenv("JOURNAL_STREAM", text, 1);
}

static void start(uint64_t off) {
    const char *argv[] = {
        harness_program("scissord"), "--config", "/dev/null", "--dir", d.dir, "--pool", "64MiB", NULL};
    assert_int_equal(harness_directory(d.base, sizeof d.base), 0);
    snprintf(d.dir, sizeof d.dir, "%s/run", d.base);
    snprintf(d.log, sizeof d.log, "%s/log", d.base);
    assert_int_equal(harness_spawn_prepared(argv, d.log, be_a_stream, &off, &d.pid), 0);
    assert_int_equal(harness_wait_log(&d, ": ready; ", HARNESS_PATIENCE_MS), 0);
}

/* Opens a session, and gives its number. */
static uint64_t come_and_go(void) {
    struct proto_open open;
    struct proto_opened opened;
    int client = harness_hello(&d);
    harness_open_default(&open);
    strcpy(open.name, "two\nlines");
    assert_int_equal(harness_open(client, &open, &opened, NULL), 0);
    close(client);
    assert_int_equal(harness_wait_sessions(&d, 0, HARNESS_PATIENCE_MS), 0);
    return opened.session;
}

static void lines(char log[], size_t bytes) {
    assert_int_equal(harness_stop(&d), 0);
    assert_true(harness_read_file(d.log, log, bytes) > 0);
}

/* Without the journal's socket the fields are lost, and nothing else. */
static void lines_begin_with_their_priority(void **state) {
    (void)state;
    char log[8192];
    if (journal >= 0)
        assert_int_equal(unlink("/run/systemd/journal/socket"), 0);
    start(0);
    come_and_go();
    lines(log, sizeof log);
    if (access("/run/systemd/journal/socket", W_OK) < 0) /* else a real journal has it */
        assert_non_null(strstr(log, "\n<6>session opened: "));
    assert_non_null(strstr(log, "\n<5>Terminated: ending"));
    assert_null(strstr(log, "scissord: "));
}

/* A daemon whose stderr was redirected inherits the variable all the same. */
static void other_files_are_no_stream(void **state) {
    (void)state;
    char log[8192];
    start(1);
    come_and_go();
    lines(log, sizeof log);
    assert_non_null(strstr(log, "\nscissord: Terminated: ending"));
    assert_null(strstr(log, "<5>"));
    assert_null(strstr(log, "session opened: "));
}

/* ---------- fields ---------- */

static int open_journal(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/run/systemd/journal/socket"};
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("tmpfs", "/run", "tmpfs", 0, NULL) < 0 || mkdir("/run/systemd", 0755) < 0 ||
        mkdir("/run/systemd/journal", 0755) < 0)
        return -errno;
    journal = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    return journal < 0 || bind(journal, (struct sockaddr *)&address, sizeof address) < 0 ? -errno : 0;
}

/* The next entry with this text in it; its lines are NAME=value. */
static void entry_with(const char *part, char *entry, size_t bytes) {
    struct pollfd ready = {journal, POLLIN, 0};
    while (poll(&ready, 1, HARNESS_PATIENCE_MS) == 1) {
        ssize_t n = recv(journal, entry, bytes - 1, 0);
        assert_true(n > 0);
        entry[n] = 0;
        if (strstr(entry, part))
            return;
    }
    fail_msg("the journal was not told: %s", part);
}

static void must_have(const char *entry, const char *field) {
    char line[256];
    snprintf(line, sizeof line, "%s\n", field);
    if (!strstr(entry, line))
        fail_msg("no %s in: %s", field, entry);
}

static void sessions_have_fields(void **state) {
    (void)state;
    char entry[4096], log[8192], field[64];
    int r = open_journal();
    if (r < 0) {
        printf("SKIP: no mount namespace of our own here: %s\n", strerror(-r));
        skip();
    }
    start(0);
    uint64_t session = come_and_go();
    static const char *const parts[] = {"MESSAGE=session opened: ", "MESSAGE=session closed: "};
    for (size_t i = 0; i < 2; i++) {
        entry_with(parts[i], entry, sizeof entry);
        snprintf(field, sizeof field, "SESSION=%llu", (unsigned long long)session);
        must_have(entry, field);
        snprintf(field, sizeof field, "CLIENT_PID=%d", (int)getpid());
        must_have(entry, field);
        must_have(entry, "PRIORITY=6");
        must_have(entry, "SYSLOG_IDENTIFIER=scissord");
        assert_non_null(strstr(entry, "(two?lines)")); /* a name makes no line of its own */
    }
    lines(log, sizeof log);
    assert_null(strstr(log, "session opened: ")); /* not twice */
}

int main(void) {
    harness_init(100);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(other_files_are_no_stream),
        cmocka_unit_test(sessions_have_fields),
        cmocka_unit_test(lines_begin_with_their_priority),
    };
    return cmocka_run_group_tests_name("journal", tests, NULL, NULL);
}
