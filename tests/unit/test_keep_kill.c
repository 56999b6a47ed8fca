/* test_keep_kill.c - a daemon that is killed at every step of what it does, and the next one, which takes over.
 *
 * A child process runs broker, host backend and clients, and ends with SIGKILL at the k-th step: between any two writes
 * that the next process could tell apart, and in the middle of moves. This process has the descriptors, as the service
 * manager would, and what the clients knew (the rig lies in shared memory). It takes over, brings the clients back,
 * goes on with what was not done, and compares with a run in which nobody died. For k = 1, 2, 3 ... until the child
 * lives. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc.h"
#include "keep.h"
#include "sim/dying_backend.h"
#include "test_keep_kill.h"

#define MOST_ROWS 8192u

static struct fake_store store;
static struct broker_store to_parent; /* the child's: what it is given goes to the parent */
static int channel = -1;
static uint32_t die_at;
static struct kernel_backend dying; /* the host backend, with steps between its moves */

/* ---------- death ---------- */

static void point(void) {
    if (shared->armed && ++shared->points == die_at)
        kill(getpid(), SIGKILL);
}

/* A page is being copied. */
static void copying(void) {
    if (shared->armed && !shared->copied)
        shared->copied = shared->points;
}

/* ---------- from child to parent ---------- */

struct order {
    bool put;
    char name[9];
};

static void send_order(bool is_put, const char *name, int fd) {
    struct order order = {.put = is_put};
    strcpy(order.name, name);
    struct iovec part = {&order, sizeof order};
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.head = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))}};
    memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (is_put) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
    }
    if (sendmsg(channel, &message, 0) != sizeof order)
        abort();
}

static int child_put(struct broker_store *s, const char *name, const int *fds, uint32_t count) {
    (void)s, (void)count;
    send_order(true, name, fds[0]);
    return 0;
}

static void child_drop(struct broker_store *s, const char *name) {
    (void)s;
    send_order(false, name, -1);
}

static bool take_order(int from) {
    struct order order;
    struct iovec part = {&order, sizeof order};
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    if (recvmsg(from, &message, MSG_CMSG_CLOEXEC) != sizeof order)
        return false;
    if (!order.put) {
        store.base.drop(&store.base, order.name);
        return true;
    }
    int fd;
    memcpy(&fd, CMSG_DATA(&control.head), sizeof fd);
    store.base.put(&store.base, order.name, &fd, 1);
    close(fd);
    return true;
}

static void run(bool (*scenario)(uint32_t step)) {
    while (scenario(shared->step))
        shared->step++;
}

/* ---------- what is there in the end ---------- */

struct rows {
    uint32_t count;
    uint32_t position[MOST_ROWS];
    uint32_t details[MOST_ROWS]; /* of detail slots: position of the owner's row */
};

/* Each detail slot is nobody's or holds what its row has lost. */
static void read_details(struct rig_session *s, uint32_t h, uint32_t *ret) {
    if (!layout_has_details(storage))
        return;
    for (uint32_t i = 0; i < rig_head(s, h)[1] * LAYOUT_PAGE_DETAILS; i++) {
        const void *page = rig_page(s, h, i / LAYOUT_PAGE_DETAILS);
        uint32_t within = i % LAYOUT_PAGE_DETAILS, slot = stored_detail_owner(page, within, DIM, storage);
        ret[i] = KERNEL_NONE;
        if (slot == KERNEL_NONE)
            continue;
        assert_true(slot < s->position_count);
        assert_true(stored_detail_is(page, within, DIM, storage, s->positions[slot], h));
        ret[i] = s->positions[slot];
    }
}

/* Every row is the one that its position says. */
static void read_rows(struct rows *ret) {
    memset(ret, 0, HEADS * sizeof *ret);
    for (uint32_t h = 0; h < HEADS; h++) {
        struct rig_session *s = &rig.sessions[shared->place[0]];
        rig_positions(&rig, shared->place[0], 0, h);
        assert_int_equal(s->code, SCISSOR_OK);
        ret[h].count = s->position_count;
        assert_int_equal(s->position_count, s->positions_head.total);
        for (uint32_t i = 0; i < s->position_count; i++) {
            ret[h].position[i] = s->positions[i];
            const void *page = rig_page(s, h, i / 64);
            if (storage != KERNEL_F32 && i % 16)
                continue; /* quantising them all anew takes a while */
            assert_true(storage == KERNEL_F32 ? fake_row_is(page, 64, i % 64, DIM, storage, s->positions[i], h)
                                              : stored_row_is(page, i % 64, DIM, storage, s->positions[i], h));
        }
        read_details(s, h, ret[h].details);
    }
}

/* A broker anew, with steps between its moves. */
static void use_dying_backend(void) {
    rig.broker = broker_free(rig.broker);
    dying_backend_init(&dying, point, copying);
    rig.config.pools[0].backend = rig.config.pools[0].host = &dying;
    if (broker_new(&rig.config, &rig.broker) < 0)
        abort();
}

static void shared_clear(void) {
    memset(shared, 0, sizeof *shared);
    shared->place[0] = shared->place[1] = -1;
}

static void finish(void) {
    broker_check(rig.broker);
    rig_deinit(&rig);
    assert_int_equal(store.count, 0);
    fake_store_deinit(&store);
}

static void model(bool (*scenario)(uint32_t step), uint64_t pool_bytes, struct rows *ret) {
    shared_clear();
    fake_store_init(&store, FAKE_STORE_MAX);
    rig_init_kept(&rig, pool_bytes, &store, true);
    use_dying_backend();
    dying_counts = (struct dying_counts){0};
    run(scenario);
    read_rows(ret);
    finish();
}

/* ---------- one death ---------- */

static void child(bool (*scenario)(uint32_t step), uint64_t pool_bytes, int pidfd) {
    to_parent = (struct broker_store){.max = FAKE_STORE_MAX, .put = child_put, .drop = child_drop};
    keep_hook = point;
    rig_init_kept(&rig, pool_bytes, &store, true);
    rig.config.store = &to_parent;
    rig.pidfd = pidfd;
    use_dying_backend();
    run(scenario);
    shared->armed = false;
    _exit(0);
}

/* What this process can know of what the clients in the other one had: all but their mappings. */
static void inherit(void) {
    rig.job_count = 0;
    rig.broker = NULL;
    rig.config.store = &store.base;
    rig.config.pools[0].backend = rig.config.pools[0].host = kernel_host_backend("reference");
    for (int i = 0; i < RIG_PEERS; i++) {
        rig.peers[i].handle = NULL;
        rig.peers[i].welcome = false;
    }
    for (int i = 0; i < RIG_SESSIONS; i++) {
        struct rig_session *s = &rig.sessions[i];
        char name[9];
        memset(s->segment, 0, sizeof s->segment);
        if (s->peer < 0 || !s->opened) {
            s->control = NULL;
            s->lease = NULL;
            s->peer = -1;
            continue;
        }
        keep_name('c', s->id, name);
        s->control = mmap(NULL, s->control_bytes, PROT_READ, MAP_SHARED, fake_store_find(&store, name), 0);
        keep_name('l', s->id, name);
        s->lease = mmap(NULL, PROTO_LEASE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fake_store_find(&store, name), 0);
        if (s->control == MAP_FAILED || s->lease == MAP_FAILED) { /* it was being closed */
            s->control = NULL;
            s->lease = NULL;
        }
    }
}

/* Both clients come back; a session that its client was closing may be gone. */
static void bring_back(void) {
    for (int which = 0; which < 2; which++) {
        int place = shared->place[which];
        if (rig.peers[which].uid)
            rig_reconnect(&rig, which);
        for (int i = 0; i < RIG_SESSIONS; i++)
            if (rig.sessions[i].peer == which && rig.sessions[i].opened) {
                bool closing = shared->ousted || (rig.sessions[i].request && !rig.sessions[i].asked);
                rig_reattach(&rig, i);
                assert_true(rig.sessions[i].code == SCISSOR_OK || (closing && which == 1));
            }
        if (place >= 0 && rig.sessions[place].peer < 0)
            shared->place[which] = -1;
        /* It was answered, but its client had not noted it yet. */
        for (int i = 0; i < RIG_SESSIONS; i++)
            if (rig.sessions[i].peer == which && rig.sessions[i].opened)
                shared->place[which] = i;
    }
}

/* True if the child lived to its end. */
static bool die_once(bool (*scenario)(uint32_t step), uint64_t pool_bytes, const struct rows *expected) {
    static struct rows rows[HEADS];
    int pair[2], status;
    size_t live = alloc_live();
    shared_clear();
    fake_store_init(&store, FAKE_STORE_MAX);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        close(pair[0]);
        channel = pair[1];
        child(scenario, pool_bytes, pidfd);
    }
    close(pair[1]);
    while (take_order(pair[0]))
        ;
    close(pair[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    bool lived = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    assert_true(lived || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));

    uint32_t counted = store.count;
    rig.pidfd = pidfd;
    inherit();
    rig_take_over(&rig);
    struct proto_pool_stat stat;
    broker_pool_stat(rig.broker, 0, rig.now, &stat);
    assert_int_equal(stat.lost, 0);
    assert_int_equal(stat.stored, store.count);
    assert_true(store.count <= counted);
    broker_check(rig.broker);
    bring_back();
    rig_jobs(&rig);
    /* A session of which no client knows, as its opening was not answered, ends when its process does, or in time. */
    rig_pass(&rig, 2 * rig.config.orphan_wait_ns);
    rig_jobs(&rig);
    rig_pass(&rig, 2 * rig.config.orphan_wait_ns);
    rig_jobs(&rig);
    broker_check(rig.broker);
    shared->armed = false;
    run(scenario);
    read_rows(rows);
    if (expected)
        assert_memory_equal(rows, expected, sizeof rows);
    close(pidfd);
    rig.pidfd = -1;
    finish();
    assert_int_equal(alloc_live(), live);
    return lived;
}

static void die_everywhere(bool (*scenario)(uint32_t step), uint64_t pool_bytes, bool same) {
    static struct rows expected[HEADS];
    const char *first = getenv("KILL_AT");
    die_at = 0;
    model(scenario, pool_bytes, expected);
    print_message("%llu rows moved from the end, %llu pages copied\n", (unsigned long long)dying_counts.tail_moves,
                  (unsigned long long)dying_counts.page_copies);
    struct dying_counts counts = dying_counts;
    for (die_at = first ? (uint32_t)atoi(first) : 1; !die_once(scenario, pool_bytes, same ? expected : NULL); die_at++)
        ;
    print_message("%u deaths\n", die_at - 1);
    dying_counts = counts;
}

static void test_grows(void **state) {
    (void)state;
    die_everywhere(grows, 32 * MIB, true);
}

static void test_drops(void **state) {
    (void)state;
    die_everywhere(drops, 32 * MIB, true);
    assert_true(dying_counts.tail_moves);
}

static void test_shrinks(void **state) {
    (void)state;
    die_everywhere(shrinks, 15 * MIB, true);
    assert_true(dying_counts.tail_moves && dying_counts.page_copies);
}

static void test_shrinks_within(void **state) {
    (void)state;
    die_everywhere(shrinks_within, 15 * MIB, false);
    assert_true(dying_counts.tail_moves && dying_counts.page_copies);
}

static void test_shrinks_and_settles(void **state) {
    (void)state;
    die_everywhere(shrinks_and_settles, 15 * MIB, false);
    assert_true(dying_counts.tail_moves && dying_counts.page_copies);
}

static void test_closes_in_a_step(void **state) {
    (void)state;
    die_everywhere(closes_in_a_step, 32 * MIB, true);
}

/* Not at every moment, as each costs 200 MiB: when pages are copied, and when segments are given back. */
static void test_shrinks_far(void **state) {
    static struct rows expected[HEADS];
    (void)state;
    die_at = 0;
    model(shrinks_far, 256 * MIB, expected);
    assert_true(dying_counts.page_copies);
    die_at = UINT32_MAX;
    assert_true(die_once(shrinks_far, 256 * MIB, expected));
    uint32_t moments[] = {shared->copied - 1, shared->copied, shared->points / 2};
    for (size_t i = 0; i < sizeof moments / sizeof *moments; i++) {
        die_at = moments[i];
        assert_false(die_once(shrinks_far, 256 * MIB, expected));
    }
}

/* Rows lose their details to newer ones, and with the pages in which these are. */
static void test_fades(void **state) {
    (void)state;
    storage = KERNEL_FADE;
    die_everywhere(grows, 32 * MIB, true);
    die_everywhere(drops, 32 * MIB, true);
    die_everywhere(fades, 12 * MIB, false);
    storage = KERNEL_F32;
    assert_true(dying_counts.detail_moves && dying_counts.tail_moves);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grows),
        cmocka_unit_test(test_drops),
        cmocka_unit_test(test_shrinks),
        cmocka_unit_test(test_shrinks_within),
        cmocka_unit_test(test_shrinks_and_settles),
        cmocka_unit_test(test_closes_in_a_step),
        cmocka_unit_test(test_shrinks_far),
        cmocka_unit_test(test_fades),
    };
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return shared == MAP_FAILED ? 1 : cmocka_run_group_tests_name("keep, killed", tests, NULL, NULL);
}
