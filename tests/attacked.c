/* attacked.c - see attacked.h. */
#include "attacked.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "harness.h"
#include "scissor_error.h"

struct manager attacked;
unsigned attacked_random;
const char *const attacked_patient[] = {"--orphan-wait", "60", NULL};

unsigned attacked_random_below(unsigned n) {
    return (unsigned)rand_r(&attacked_random) % n;
}

uint64_t attacked_end(void) {
    const char *seconds = getenv("SCISSOR_TEST_SECONDS");
    return harness_now_ns() + (seconds ? strtoull(seconds, NULL, 10) : 1) * 1000000000u;
}

void attacked_start(uint32_t store, const char *const *args) {
    attacked_random = (unsigned)harness_now_ns();
    print_message("seed %u\n", attacked_random);
    assert_int_equal(manager_init(&attacked, store, true), 0);
    assert_int_equal(manager_start(&attacked, args), 0);
}

void attacked_nothing_is_left(void) {
    struct proto_pool_stat stat = {0};
    struct proto_open open;
    struct proto_opened opened;
    assert_int_equal(harness_wait_sessions(&attacked.daemon, 0, HARNESS_PATIENCE_MS), 0);
    for (int i = 0; i < 500; i++) {
        assert_int_equal(harness_stat(&attacked.daemon, &stat), 0);
        if (!stat.stored && !stat.charged_bytes && !manager_count(&attacked))
            break;
        harness_sleep_ms(10);
    }
    assert_int_equal(stat.charged_bytes, 0);
    assert_int_equal(stat.guaranteed_bytes, 0);
    assert_int_equal(stat.segments, 0);
    assert_int_equal(stat.orphans, 0);
    assert_int_equal(stat.stored, 0);
    assert_int_equal(manager_count(&attacked), 0);
    int fd = harness_hello(&attacked.daemon);
    assert_true(fd >= 0);
    harness_open_default(&open);
    assert_int_equal(harness_open(fd, &open, &opened, NULL), 0);
    close(fd);
    assert_int_equal(harness_wait_sessions(&attacked.daemon, 0, HARNESS_PATIENCE_MS), 0);
}

void attacked_stop(void) {
    attacked_nothing_is_left();
    assert_int_equal(harness_stop(&attacked.daemon), 0);
    manager_deinit(&attacked);
}

int attacked_greet(void) {
    int fd = harness_hello(&attacked.daemon);
    assert_true(fd >= 0);
    return fd;
}

struct proto_opened attacked_open(int fd, uint32_t settles) {
    struct proto_open open;
    struct proto_opened ret;
    struct proto_settled settled;
    harness_open_default(&open);
    open.groups[0].guaranteed_rows = open.groups[0].max_rows = 256;
    assert_int_equal(harness_open(fd, &open, &ret, NULL), 0);
    for (uint32_t i = 0; i < settles; i++)
        assert_int_equal(harness_settle(fd, ret.session, 0, 16, &settled), 0);
    return ret;
}

struct proto_reattach attacked_reattach_of(const struct proto_opened *session) {
    struct proto_reattach ret = {.session = session->session};
    memcpy(ret.token, session->token, sizeof ret.token);
    return ret;
}

int attacked_reattach(int fd, const struct proto_reattach *body, struct proto_reattached *ret) {
    static uint32_t request = 1000;
    struct proto_failed failed = {0};
    struct proto_reattached reattached;
    assert_int_equal(harness_send_message(fd, PROTO_REATTACH, ++request, body), 0);
    int r = harness_expect(fd, PROTO_REATTACHED, request, ret ? ret : &reattached, sizeof reattached, &failed);
    assert_true(r == 0 || r == -EREMOTEIO || r == -ECONNRESET);
    return r == -ECONNRESET ? 1 : failed.code;
}

int attacked_control(uint32_t op, uint64_t session, const uint8_t *token, uint32_t first, uint64_t a, uint64_t b,
                     uint64_t c) {
    static char answer[PROTO_ANSWER_MAX];
    struct proto_answer head;
    struct proto_request request = {.op = op, .first = first, .session = session, .value = {a, b, c}};
    request.id = (uint64_t)rand_r(&attacked_random) << 32 | (uint64_t)rand_r(&attacked_random);
    if (token)
        memcpy(request.token, token, sizeof request.token);
    assert_true(harness_control(&attacked.daemon, &request, answer, sizeof answer) >= (ssize_t)sizeof head);
    memcpy(&head, answer, sizeof head);
    return head.code;
}

/* As the operator; it takes a while for one that is busy. */
void attacked_close_all(void) {
    static char answer[PROTO_ANSWER_MAX];
    uint8_t pass[PROTO_TOKEN_BYTES];
    struct proto_answer head;
    int tool = harness_pass(&attacked.daemon, pass);
    assert_true(tool >= 0);
    struct proto_request request = {.op = PROTO_OP_SESSIONS};
    assert_true(harness_control(&attacked.daemon, &request, answer, sizeof answer) >= (ssize_t)sizeof head);
    memcpy(&head, answer, sizeof head);
    for (uint32_t i = 0; i < head.count; i++) {
        struct proto_session_stat stat;
        memcpy(&stat, answer + sizeof head + i * sizeof stat, sizeof stat);
        attacked_control(PROTO_OP_CLOSE_SESSION, stat.session, pass, 0, 0, 0, 0);
    }
    assert_int_equal(harness_wait_sessions(&attacked.daemon, 0, HARNESS_PATIENCE_MS), 0);
    close(tool);
}

int attacked_ask(int fd, uint16_t type, uint32_t request, const void *body, uint16_t wanted) {
    struct proto_failed failed = {0};
    assert_int_equal(harness_send_message(fd, type, request, body), 0);
    int r = harness_expect(fd, wanted, request, NULL, 0, &failed);
    assert_true(r == 0 || r == -EREMOTEIO);
    return failed.code;
}
