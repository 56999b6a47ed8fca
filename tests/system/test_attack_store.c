/* test_attack_store.c - a store for the daemon's next process that loses, mixes up or damages what it keeps, or that is
 * smaller than it was, and clients that take what it needs.
 *
 * $SCISSOR_TEST_SECONDS: for how long what is random goes on (1). */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "attacked.h"
#include "scissor_error.h"

/* ---------- a store that lies ---------- */

static int strange_descriptor(void) {
    int fds[2] = {-1, -1};
    switch (attacked_random_below(5)) {
    case 0:
        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
        break;
    case 1:
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        break;
    case 2:
        fds[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
        break;
    case 3:
        fds[0] = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        break;
    default:
        fds[0] = open(attacked.daemon.log, O_RDWR | O_CLOEXEC);
    }
    if (fds[1] >= 0)
        close(fds[1]);
    return fds[0];
}

static void flip_bytes(int fd, uint32_t most) {
    struct stat status;
    if (fstat(fd, &status) < 0 || status.st_size == 0)
        return;
    for (uint32_t i = 1 + attacked_random_below(most); i > 0; i--) {
        off_t at =
            attacked_random_below(2) ? attacked_random_below(4096) : attacked_random_below((unsigned)status.st_size);
        uint8_t byte = (uint8_t)attacked_random_below(256);
        (void)!pwrite(fd, &byte, 1, at);
    }
}

/* One thing that is wrong with what is kept. */
static void lie(void) {
    uint32_t i = attacked_random_below(attacked.count), k = attacked_random_below(attacked.count);
    char name[16];
    int fd;
    switch (attacked_random_below(9)) {
    case 0: /* lost */
        close(attacked.kept[i].fd);
        attacked.kept[i] = attacked.kept[--attacked.count];
        return;
    case 1: /* twice */
        attacked.kept[attacked.count].fd = fcntl(attacked.kept[i].fd, F_DUPFD_CLOEXEC, 0);
        memcpy(attacked.kept[attacked.count++].name, attacked.kept[i].name, sizeof attacked.kept[i].name);
        return;
    case 2: /* taken for each other */
        fd = attacked.kept[i].fd;
        attacked.kept[i].fd = attacked.kept[k].fd;
        attacked.kept[k].fd = fd;
        return;
    case 3: /* renamed */
        snprintf(name, sizeof name, "%c%s", "abclfspx"[attacked_random_below(8)], attacked.kept[i].name + 1);
        memcpy(attacked.kept[i].name, name, sizeof name);
        return;
    case 4: /* something else */
        close(attacked.kept[i].fd);
        attacked.kept[i].fd = strange_descriptor();
        return;
    case 5: /* cut */
        if (strchr("ab", *attacked.kept[i].name))
            (void)!ftruncate(attacked.kept[i].fd, attacked_random_below(16) * 1000);
        return;
    default:
        if (strchr("abc", *attacked.kept[i].name))
            flip_bytes(attacked.kept[i].fd, 4);
    }
}

static void test_lying_store(void **state) {
    (void)state;
    enum { SESSIONS = 5 };
    struct proto_pool_stat stat;
    attacked_start(400, attacked_patient);
    uint64_t end = attacked_end();
    uint32_t rounds = 0, lost = 0;
    do {
        struct proto_opened sessions[SESSIONS];
        struct proto_settle settle = {.rows = 16};
        int fd = attacked_greet(), status;
        for (uint32_t i = 0; i < SESSIONS; i++)
            sessions[i] = attacked_open(fd, 1 + attacked_random_below(20));
        kill(attacked.daemon.pid, SIGKILL);
        assert_int_equal(harness_wait(attacked.daemon.pid, HARNESS_PATIENCE_MS, &status), 0);
        close(fd);
        harness_sleep_ms(1);
        uint32_t before = attacked.count;
        for (uint32_t lies = 1 + attacked_random_below(6);
             lies > 0 && attacked.count > 1 && attacked.count + 1 < MANAGER_KEPT; lies--)
            lie();
        assert_true(before > 0);
        assert_int_equal(manager_start(&attacked, attacked_patient), 0);
        assert_int_equal(harness_stat(&attacked.daemon, &stat), 0);
        lost += stat.lost;
        fd = attacked_greet();
        for (uint32_t i = 0; i < SESSIONS; i++) {
            struct proto_reattach back = attacked_reattach_of(&sessions[i]);
            settle.session = sessions[i].session;
            if (attacked_reattach(fd, &back, NULL) == 0)
                attacked_ask(fd, PROTO_SETTLE, 1 + i, &settle, PROTO_SETTLED);
        }
        close(fd);
        attacked_close_all(); /* one whose owner is not known any more would be waited for */
        assert_int_equal(harness_stat(&attacked.daemon, &stat), 0);
        assert_int_equal(stat.charged_bytes, 0);
        assert_int_equal(stat.stored, 0);
        rounds++;
    } while (harness_now_ns() < end);
    print_message("%u rounds, %u sessions lost\n", rounds, lost);
    attacked_stop();
}

/* A name with the highest number that there is uses up no numbers. */
static void test_highest_number(void **state) {
    (void)state;
    static const char *const names[] = {"szzzzzzz", "azzzzzzz", "pzzzzzzz", "fzzzzzzz"};
    attacked_start(100, NULL);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int status, fd = strange_descriptor();
        kill(attacked.daemon.pid, SIGKILL);
        assert_int_equal(harness_wait(attacked.daemon.pid, HARNESS_PATIENCE_MS, &status), 0);
        strcpy(attacked.kept[attacked.count].name, names[i]);
        attacked.kept[attacked.count++].fd = fd;
        assert_int_equal(manager_start(&attacked, NULL), 0);
        attacked_nothing_is_left();
    }
    attacked_stop();
}

/* ---------- a full pool, a full store ---------- */

static void test_full_at_restart(void **state) {
    (void)state;
    enum { MANY = 200 };
    static const char *const smaller[] = {"--orphan-wait", "60", "--pool", "21MiB", NULL};
    struct proto_opened sessions[MANY];
    struct proto_pool_stat stat;
    struct proto_open open;
    uint32_t count = 0, back = 0;
    attacked_start(60, attacked_patient);
    int fd = attacked_greet(), code = 0;
    harness_open_default(&open);
    while (code == 0 && count < MANY)
        code = harness_open(fd, &open, &sessions[count], NULL) ? 1 : (count++, 0);
    assert_in_range(count, 5, MANY - 1);
    for (int i = 0; i < 2; i++) {
        attacked.store_max = i == 0 ? 60 : 12; /* a smaller store, and then a smaller pool, too */
        assert_int_equal(manager_restart(&attacked, SIGKILL, i == 0 ? attacked_patient : smaller), 0);
        close(fd);
        fd = attacked_greet();
        assert_int_equal(harness_stat(&attacked.daemon, &stat), 0);
        assert_int_equal(stat.taken_over + stat.lost, count);
        assert_true(stat.charged_bytes <= stat.limit_bytes);
        assert_int_equal(i == 0 ? stat.lost : 0, 0);
        back = 0;
        for (uint32_t k = 0; k < count; k++) {
            struct proto_reattach reattach_ = attacked_reattach_of(&sessions[k]);
            struct proto_settled settled;
            code = attacked_reattach(fd, &reattach_, NULL);
            assert_true(code == 0 || code == SCISSOR_ERESTARTED);
            back += code == 0;
            if (code == 0)
                assert_int_equal(harness_settle(fd, sessions[k].session, 0, 16, &settled), 0);
        }
        assert_int_equal(back, stat.taken_over);
    }
    print_message("%u sessions, %u of them in the smaller pool\n", count, back);
    assert_in_range(back, 1, count);
    close(fd);
    attacked_stop();
}

/* Whoever takes all connections leaves descriptors for memory, though the daemon has one more of each: its process. */
static void test_connections_leave_descriptors(void **state) {
    (void)state;
    enum { MANY = 300 };
    int fds[MANY];
    struct proto_settled settled;
    assert_int_equal(manager_init(&attacked, 100, true), 0);
    attacked.descriptors = 200;
    assert_int_equal(manager_start(&attacked, NULL), 0);
    int fd = attacked_greet();
    for (int i = 0; i < MANY; i++)
        fds[i] = harness_attach(&attacked.daemon);
    harness_sleep_ms(20);
    struct proto_opened session = attacked_open(fd, 0);
    for (int i = 0; i < 20; i++)
        assert_int_equal(harness_settle(fd, session.session, 0, 16, &settled), 0);
    for (int i = 0; i < MANY; i++)
        close(fds[i]);
    close(fd);
    attacked_stop();
}

int main(void) {
    const char *seconds = getenv("SCISSOR_TEST_SECONDS");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lying_store),
        cmocka_unit_test(test_highest_number),
        cmocka_unit_test(test_full_at_restart),
        cmocka_unit_test(test_connections_leave_descriptors),
    };
    harness_init(120 + 8 * (seconds ? (unsigned)atoi(seconds) : 0));
    return cmocka_run_group_tests_name("attack on stores", tests, NULL, NULL);
}
