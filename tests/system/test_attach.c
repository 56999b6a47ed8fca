/* test_attach.c - the attach socket against peers that are wrong, rude or many: each gets a refusal or a hang-up, and
 * the daemon goes on. */
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "harness.h"
#include "scissor_error.h"

static struct harness_daemon daemon_;

static int group_start(void **state) {
    (void)state;
    return harness_start(&daemon_, NULL);
}

static int group_stop(void **state) {
    (void)state;
    return harness_stop(&daemon_);
}

/* After each test all is as before: nothing is charged, and the daemon answers. */
static int nothing_left(void **state) {
    (void)state;
    struct proto_pool_stat stat;
    if (harness_wait_sessions(&daemon_, 0, HARNESS_PATIENCE_MS) < 0 || harness_stat(&daemon_, &stat) < 0)
        return -1;
    if (stat.charged_bytes != 0 || stat.guaranteed_bytes != 0 || stat.segments != 0)
        fprintf(stderr, "left: %llu bytes charged\n", (unsigned long long)stat.charged_bytes);
    return stat.charged_bytes == 0 && stat.guaranteed_bytes == 0 && stat.segments == 0 ? 0 : -1;
}

static size_t daemon_descriptors(void) {
    char path[64];
    size_t count = 0;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)daemon_.pid);
    DIR *dir = opendir(path);
    while (dir && readdir(dir))
        count++;
    if (dir)
        closedir(dir);
    return count;
}

/* The daemon must refuse what was sent: FAILED with a text, then or at once the end. Gives the code, 1 for none. */
static int expect_refusal(int fd) {
    char packet[PROTO_ATTACH_MAX];
    struct proto_header h;
    struct proto_failed failed;
    int code = 1;
    for (;;) {
        ssize_t n = harness_receive(fd, packet, sizeof packet, HARNESS_PATIENCE_MS, NULL, NULL);
        if (n == 0 || n == -ECONNRESET)
            return code;
        assert_true(n >= (ssize_t)sizeof h);
        memcpy(&h, packet, sizeof h);
        assert_int_equal(h.type, PROTO_FAILED);
        memcpy(&failed, proto_attach_body(packet), sizeof failed);
        assert_true(proto_text_valid(failed.text, sizeof failed.text));
        assert_int_not_equal(failed.text[0], 0);
        code = failed.code;
    }
}

static struct proto_hello good_hello(void) {
    return (struct proto_hello){.major = PROTO_VERSION_MAJOR,
                                .minor = PROTO_VERSION_MINOR,
                                .capabilities = PROTO_CAP_HOST | PROTO_CAP_CUDA,
                                .name = "test"};
}

/* ---------- the greeting ---------- */

static void test_hello_first(void **state) {
    (void)state;
    struct proto_open open;
    harness_open_default(&open);
    int fd = harness_attach(&daemon_);
    assert_int_equal(harness_send_message(fd, PROTO_OPEN, 1, &open), 0);
    assert_int_equal(expect_refusal(fd), SCISSOR_EPROTO);
    close(fd);
}

static void test_version(void **state) {
    (void)state;
    struct proto_failed failed;
    struct proto_hello hello = good_hello();
    char packet[64], ours[16];
    hello.major = 97;
    int fd = harness_attach(&daemon_);
    assert_int_equal(harness_send_message(fd, PROTO_HELLO, 1, &hello), 0);
    assert_int_equal(harness_expect(fd, PROTO_WELCOME, 1, NULL, 0, &failed), -EREMOTEIO);
    assert_int_equal(failed.code, SCISSOR_EVERSION);
    assert_non_null(strstr(failed.text, "97"));
    snprintf(ours, sizeof ours, "%d", PROTO_VERSION_MAJOR);
    assert_non_null(strpbrk(failed.text, ours));
    assert_int_equal(harness_receive(fd, packet, sizeof packet, HARNESS_PATIENCE_MS, NULL, NULL), 0);
    close(fd);
}

static void test_hello_twice(void **state) {
    (void)state;
    struct proto_hello hello = good_hello();
    int fd = harness_hello(&daemon_);
    assert_int_equal(harness_send_message(fd, PROTO_HELLO, 2, &hello), 0);
    assert_int_equal(expect_refusal(fd), SCISSOR_EPROTO);
    close(fd);
}

/* ---------- packets that are none ---------- */

static void refuse_packet(bool greeted, const void *packet, size_t size) {
    int fd = greeted ? harness_hello(&daemon_) : harness_attach(&daemon_);
    assert_true(fd >= 0);
    assert_int_equal(harness_send(fd, packet, size), 0);
    int code = expect_refusal(fd);
    assert_true(code == SCISSOR_EPROTO || (size == 0 && code == 1));
    close(fd);
}

static void test_malformed(void **state) {
    (void)state;
    static char packet[PROTO_ATTACH_MAX + 100000], zeros[PROTO_ATTACH_MAX];
    for (uint16_t type = 0; type < 24; type++) {
        const struct proto_attach_info *info = proto_attach_lookup(type);
        struct proto_header h = {.magic = PROTO_ATTACH_MAGIC, .type = type, .size = sizeof h, .request = 9};
        if (!info || info->sender == 'D') {
            h.size += info ? info->body_bytes : 0;
            memset(packet, 0, sizeof packet);
            memcpy(packet, &h, sizeof h);
            refuse_packet(true, packet, h.size);
            continue;
        }
        size_t size = proto_attach_write(packet, sizeof packet, type, 9, zeros, NULL, 0);
        for (int greeted = 0; greeted < 2; greeted++) {
            refuse_packet(greeted, packet, size - 1);
            refuse_packet(greeted, packet, size + 8);
            refuse_packet(greeted, packet, sizeof h);
            refuse_packet(greeted, packet, sizeof h - 1);
        }
        for (size_t field = 0; field < sizeof h - sizeof h.request; field++) {
            packet[field] ^= 0x40;
            refuse_packet(true, packet, size);
            packet[field] ^= 0x40;
        }
    }
    memset(packet, 0x5a, sizeof packet);
    for (int greeted = 0; greeted < 2; greeted++) {
        refuse_packet(greeted, packet, 0);
        refuse_packet(greeted, packet, 1);
        refuse_packet(greeted, packet, PROTO_ATTACH_MAX);
        refuse_packet(greeted, packet, PROTO_ATTACH_MAX + 1);
        refuse_packet(greeted, packet, sizeof packet);
    }
}

static void test_garbage(void **state) {
    (void)state;
    unsigned seed = 42;
    char packet[400];
    for (int i = 0; i < 300; i++) {
        size_t size = 1 + (size_t)rand_r(&seed) % sizeof packet;
        for (size_t j = 0; j < size; j++)
            packet[j] = (char)rand_r(&seed);
        if (i % 2 && size > 8)
            memcpy(packet, &(uint32_t){PROTO_ATTACH_MAGIC}, 4);
        refuse_packet(i % 3 != 0, packet, size);
    }
}

/* ---------- every field of OPEN ---------- */

#define WRONG(name, text, assignment)                \
    static void wrong_##name(struct proto_open *o) { \
        assignment;                                  \
    }
#define WRONG_MAP(X)                                                                                                \
    X(layers_0, "layers", o->groups[0].layers = 0)                                                                  \
    X(layers_many, "layers", o->groups[0].layers = PROTO_MAX_LAYERS + 1)                                            \
    X(layers_max, "layers", o->groups[0].layers = UINT32_MAX)                                                       \
    X(kv_heads_0, "kv_heads", o->groups[0].kv_heads = 0)                                                            \
    X(kv_heads_max, "kv_heads", o->groups[0].kv_heads = UINT32_MAX)                                                 \
    X(heads_product, "heads", (o->groups[0].layers = 1024, o->groups[0].kv_heads = o->groups[0].q_heads = 1 << 22)) \
    X(q_heads_0, "q_heads", o->groups[0].q_heads = 0)                                                               \
    X(q_heads_odd, "q_heads", o->groups[0].q_heads = 5)                                                             \
    X(q_heads_max, "q_heads", o->groups[0].q_heads = UINT32_MAX - 1)                                                \
    X(head_dim_0, "head_dim", o->groups[0].head_dim = 0)                                                            \
    X(head_dim_8, "head_dim", o->groups[0].head_dim = 8)                                                            \
    X(head_dim_72, "head_dim", o->groups[0].head_dim = 72)                                                          \
    X(head_dim_272, "head_dim", o->groups[0].head_dim = 272)                                                        \
    X(head_dim_max, "head_dim", o->groups[0].head_dim = 0xfffffff0u)                                                \
    X(guaranteed_0, "guaranteed", o->groups[0].guaranteed_rows = 0)                                                 \
    X(guaranteed_f, "guaranteed", o->groups[0].guaranteed_rows = 31)                                                \
    X(guaranteed_max, "guaranteed", o->groups[0].guaranteed_rows = PROTO_MAX_ROWS + 1)                              \
    X(max_low, "max", o->groups[0].max_rows = 63)                                                                   \
    X(max_max, "max", o->groups[0].max_rows = UINT32_MAX)                                                           \
    X(policy_none, "policy", strcpy(o->groups[0].policy, "nosuch"))                                                 \
    X(policy_open, "policy", memset(o->groups[0].policy, 'x', sizeof o->groups[0].policy))                          \
    X(param_none, "zzz", strcpy(o->groups[0].params[0].name, "zzz"))                                                \
    X(param_open, "param", memset(o->groups[0].params[0].name, 'x', sizeof o->groups[0].params[0].name))            \
    X(param_nan, "sinks", (strcpy(o->groups[0].params[0].name, "sinks"), o->groups[0].params[0].value = 0.0 / 0.0)) \
    X(param_low, "sinks", (strcpy(o->groups[0].params[0].name, "sinks"), o->groups[0].params[0].value = -1))        \
    X(name_open, "name", memset(o->name, 'x', sizeof o->name))                                                      \
    X(compute_3, "compute", o->compute_dtype = 3)                                                                   \
    X(compute_max, "compute", o->compute_dtype = UINT32_MAX)                                                        \
    X(storage_7, "storage", o->storage_dtype = 7)                                                                   \
    X(storage_max, "storage", o->storage_dtype = UINT32_MAX)                                                        \
    X(fresh_8, "fresh", o->fresh_rows = 8)                                                                          \
    X(fresh_17, "fresh", o->fresh_rows = 17)                                                                        \
    X(fresh_1040, "fresh", o->fresh_rows = 1040)                                                                    \
    X(fresh_max, "fresh", o->fresh_rows = UINT32_MAX)                                                               \
    X(wait_max, "wait_ms", o->wait_ms = 600001)                                                                     \
    X(priority_1001, "priority", o->priority = 1001)                                                                \
    X(pool_1, "pool", o->pool = 1)                                                                                  \
    X(pool_max, "pool", o->pool = UINT32_MAX - 1)                                                                   \
    X(groups_0, "group", o->group_count = 0)                                                                        \
    X(groups_9, "group", o->group_count = 9)                                                                        \
    X(groups_max, "group", o->group_count = UINT32_MAX)                                                             \
    X(second_group, "layers", o->group_count = 2)
WRONG_MAP(WRONG)

static void test_open_fields(void **state) {
    (void)state;
    static const struct {
        const char *name, *text;
        void (*spoil)(struct proto_open *);
    } wrong[] = {
#define WRONG_ROW(name, text, assignment) {#name, text, wrong_##name},
        WRONG_MAP(WRONG_ROW)
#undef WRONG_ROW
    };
    int fd = harness_hello(&daemon_);
    struct proto_open open;
    struct proto_opened opened;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct proto_failed failed = {0};
        harness_open_default(&open);
        wrong[i].spoil(&open);
        int r = harness_open(fd, &open, &opened, &failed);
        if (r != -EREMOTEIO || failed.code != SCISSOR_EINVAL || !strstr(failed.text, wrong[i].text))
            fail_msg("%s: r %d, code %d, text '%.192s' (expected '%s' in it)", wrong[i].name, r, failed.code,
                     failed.text, wrong[i].text);
    }
    /* The connection is as good as before. */
    harness_open_default(&open);
    assert_int_equal(harness_open(fd, &open, &opened, NULL), 0);
    close(fd);
}

/* More than the pool can ever hold: at once, with both figures. */
static void test_open_too_large(void **state) {
    (void)state;
    struct proto_open open;
    struct proto_opened opened;
    struct proto_failed failed = {0};
    int fd = harness_hello(&daemon_);
    harness_open_default(&open);
    open.groups[0].guaranteed_rows = open.groups[0].max_rows = PROTO_MAX_ROWS;
    open.wait_ms = 60000;
    uint64_t begin = harness_now_ns();
    assert_int_equal(harness_open(fd, &open, &opened, &failed), -EREMOTEIO);
    assert_int_equal(failed.code, SCISSOR_FULL);
    assert_true(harness_now_ns() - begin < 5000000000u);
    close(fd);
}

/* ---------- the other requests ---------- */

/* The request must fail with this code; the connection may live on or not. Gives a usable one. */
static int refuse_request(int fd, uint16_t type, const void *body, int code) {
    struct proto_failed failed = {0};
    assert_int_equal(harness_send_message(fd, type, 4242, body), 0);
    assert_int_equal(harness_expect(fd, 0xffff, 4242, NULL, 0, &failed), -EREMOTEIO);
    assert_int_equal(failed.code, code);
    assert_int_not_equal(failed.text[0], 0);
    return fd;
}

static void test_request_fields(void **state) {
    (void)state;
    struct proto_open open;
    struct proto_opened opened;
    struct proto_settled settled;
    harness_open_default(&open);
    int fd = harness_hello(&daemon_), other = harness_hello(&daemon_);
    assert_int_equal(harness_open(fd, &open, &opened, NULL), 0);
    uint64_t id = opened.session;
    const uint32_t rows[] = {0, 17, 1024, UINT32_MAX};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        refuse_request(fd, PROTO_SETTLE, &(struct proto_settle){.session = id, .rows = rows[i]}, SCISSOR_EINVAL);
    const uint64_t sessions[] = {0, id + 1, id | 1ull << 63, UINT64_MAX};
    for (size_t i = 0; i < sizeof sessions / sizeof *sessions; i++) {
        refuse_request(fd, PROTO_SETTLE, &(struct proto_settle){.session = sessions[i], .rows = 1}, SCISSOR_ENOSESSION);
        refuse_request(fd, PROTO_CLOSE, &(struct proto_close){.session = sessions[i]}, SCISSOR_ENOSESSION);
        refuse_request(fd, PROTO_POSITIONS, &(struct proto_positions){.session = sessions[i]}, SCISSOR_ENOSESSION);
    }
    /* Somebody else's session is none. */
    refuse_request(other, PROTO_SETTLE, &(struct proto_settle){.session = id, .rows = 1}, SCISSOR_ENOSESSION);
    refuse_request(other, PROTO_CLOSE, &(struct proto_close){.session = id}, SCISSOR_ENOSESSION);
    refuse_request(fd, PROTO_POSITIONS, &(struct proto_positions){.session = id, .layer = 2}, SCISSOR_EINVAL);
    refuse_request(fd, PROTO_POSITIONS, &(struct proto_positions){.session = id, .kv_head = 2}, SCISSOR_EINVAL);
    refuse_request(fd, PROTO_POSITIONS, &(struct proto_positions){.session = id, .layer = UINT32_MAX}, SCISSOR_EINVAL);
    assert_int_equal(harness_settle(fd, id, 0, 16, &settled), 0);
    assert_int_equal(settled.session, id);
    close(other);
    close(fd);
}

/* ---------- descriptors, crowds, silence ---------- */

static void test_descriptors_are_dropped(void **state) {
    (void)state;
    struct proto_hello hello = good_hello();
    char packet[256], control[CMSG_SPACE(32 * sizeof(int))] = {0};
    size_t size = proto_attach_write(packet, sizeof packet, PROTO_HELLO, 1, &hello, NULL, 0);
    int fd = harness_attach(&daemon_), memory = memfd_create("gift", MFD_CLOEXEC);
    struct iovec part = {packet, size};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(32 * sizeof(int));
    for (size_t i = 0; i < 32; i++)
        memcpy(CMSG_DATA(c) + i * sizeof(int), &memory, sizeof(int));
    size_t before = daemon_descriptors();
    assert_int_equal(sendmsg(fd, &message, 0), (ssize_t)size);
    assert_int_equal(harness_expect(fd, PROTO_WELCOME, 1, NULL, 0, NULL), 0);
    assert_in_range(daemon_descriptors(), before - 1, before + 2);
    close(memory);
    close(fd);
}

static void test_many_connections(void **state) {
    (void)state;
    enum { COUNT = 400 };
    int fds[COUNT];
    size_t before = daemon_descriptors();
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < COUNT; i++) {
            fds[i] = harness_hello(&daemon_);
            assert_true(fds[i] >= 0);
        }
        for (int i = 0; i < COUNT; i++)
            close(fds[i]);
    }
    for (int i = 0; i < 2000 && daemon_descriptors() > before; i++)
        harness_sleep_ms(1);
    assert_in_range(daemon_descriptors(), 1, before);
}

/* Connections that come and go without a word. */
static void test_silent_connections(void **state) {
    (void)state;
    for (int i = 0; i < 500; i++) {
        int fd = harness_attach(&daemon_);
        assert_true(fd >= 0);
        close(fd);
    }
}

/* A client that asks and never reads is hung up when too much waits for it; others do not notice. */
static void test_never_reads(void **state) {
    (void)state;
    struct proto_open open;
    struct proto_opened opened, other_opened;
    struct proto_settled settled;
    harness_open_default(&open);
    int fd = harness_hello(&daemon_), other = harness_hello(&daemon_), r = 0;
    assert_int_equal(harness_open(fd, &open, &opened, NULL), 0);
    assert_int_equal(harness_open(other, &open, &other_opened, NULL), 0);
    struct proto_positions ask = {.session = opened.session};
    for (int i = 0; i < 100000 && r == 0; i++) {
        r = harness_send_message(fd, PROTO_POSITIONS, (uint32_t)i + 1, &ask);
        if (i % 100 == 0)
            assert_int_equal(harness_settle(other, other_opened.session, 0, 1, &settled), 0);
    }
    assert_int_equal(r, -EPIPE);
    assert_int_equal(harness_wait_log(&daemon_, "does not read its packets", HARNESS_PATIENCE_MS), 0);
    assert_int_equal(harness_wait_sessions(&daemon_, 1, HARNESS_PATIENCE_MS), 0);
    close(fd);
    close(other);
}

/* Sessions go with their connection, also those that are being opened. On a device their memory stays, while this
 * process lives. */
static void test_gone(void **state) {
    (void)state;
    struct proto_open open;
    harness_open_default(&open);
    for (int i = 0; i < (harness_device() ? 6 : 50); i++) {
        int fd = harness_hello(&daemon_);
        for (uint32_t j = 0; j < 3; j++)
            assert_int_equal(harness_send_message(fd, PROTO_OPEN, j + 1, &open), 0);
        if (i % 2)
            assert_int_equal(harness_expect(fd, PROTO_OPENED, 1, NULL, 0, NULL), 0);
        close(fd);
    }
}

int main(void) {
    harness_init(240);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_hello_first, nothing_left),
        cmocka_unit_test_teardown(test_version, nothing_left),
        cmocka_unit_test_teardown(test_hello_twice, nothing_left),
        cmocka_unit_test_teardown(test_malformed, nothing_left),
        cmocka_unit_test_teardown(test_garbage, nothing_left),
        cmocka_unit_test_teardown(test_open_fields, nothing_left),
        cmocka_unit_test_teardown(test_open_too_large, nothing_left),
        cmocka_unit_test_teardown(test_request_fields, nothing_left),
        cmocka_unit_test_teardown(test_descriptors_are_dropped, nothing_left),
        cmocka_unit_test_teardown(test_many_connections, nothing_left),
        cmocka_unit_test_teardown(test_silent_connections, nothing_left),
        cmocka_unit_test_teardown(test_never_reads, nothing_left),
        cmocka_unit_test_teardown(test_gone, nothing_left),
    };
    return cmocka_run_group_tests(tests, group_start, group_stop);
}
