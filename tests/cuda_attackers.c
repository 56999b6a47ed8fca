/* cuda_attackers.c - see cuda_attackers.h. */
#include "cuda_attackers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "attention.h"
#include "cuda_false_daemon.h"
#include "cuda_roles.h"
#include "harness.h"
#include "scissor.h"

/* 16 pages of it, one of each head, fill a segment: 64 rows more are a segment more. */
static const struct attention_model model = {.seed = 5,
                                             .layers = 16,
                                             .kv_heads = 1,
                                             .q_heads = 1,
                                             .head_dim = 256,
                                             .compute_dtype = SCISSOR_F16,
                                             .storage_dtype = SCISSOR_F32,
                                             .scale = 0.0625f};

struct proto_open attackers_open(uint32_t guaranteed_rows, uint32_t max_rows) {
    struct proto_open open;
    harness_open_default(&open);
    open.storage_dtype = model.storage_dtype;
    open.groups[0].layers = model.layers;
    open.groups[0].kv_heads = model.kv_heads;
    open.groups[0].q_heads = model.q_heads;
    open.groups[0].head_dim = model.head_dim;
    open.groups[0].guaranteed_rows = 16 + guaranteed_rows;
    open.groups[0].max_rows = 16 + max_rows;
    strcpy(open.groups[0].policy, "window");
    return open;
}

static void leave_mark(const char *path) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    REQUIRE(fd >= 0);
    close(fd);
}

/* A daemon of another process. */
static struct harness_daemon daemon_at(const char *directory) {
    struct harness_daemon d = {0};
    snprintf(d.dir, sizeof d.dir, "%s", directory);
    return d;
}

/* The answer to any of the settles. */
static void hear_not_yet(int fd) {
    static char packet[PROTO_ATTACH_MAX];
    struct proto_header h;
    struct proto_failed failed;
    REQUIRE(harness_receive(fd, packet, sizeof packet, HARNESS_PATIENCE_MS, NULL, NULL) > 0);
    memcpy(&h, packet, sizeof h);
    memcpy(&failed, packet + sizeof h, sizeof failed);
    REQUIRE(h.type == PROTO_FAILED && failed.code == SCISSOR_ESTATE);
}

/* A session whose event comes on the stream. */
static uint64_t open_signalled(int fd, const struct cuda_driver *driver, cuda_stream stream) {
    struct proto_open open;
    struct proto_opened opened;
    cuda_event event;
    cuda_event_handle handle;
    harness_open_default(&open);
    REQUIRE(harness_open(fd, &open, &opened, NULL) == 0);
    memcpy(handle.reserved, opened.events[0], sizeof handle.reserved);
    REQUIRE(driver->event_open(&event, handle) == 0);
    REQUIRE(driver->event_record(event, stream) == 0);
    return opened.session;
}

/* Sessions of one client that speaks the protocol itself, and whose work on the device goes on and on
 * ($FAKECUDA_DELAY_US): it asks for settles of all of them all the time, and must be told soon each time that there is
 * nothing to be settled yet. */
static void role_never_done(const char *mark, const char *directory) {
    static uint64_t sessions[ATTACKERS_NEVER_DONE];
    struct harness_daemon d = daemon_at(directory);
    cuda_stream stream;
    const struct cuda_driver *driver = role_driver(&stream);
    int fd = harness_hello(&d);
    cuda_address memory = role_memory(driver, 4096);
    REQUIRE(driver->fill(memory, 1, 1024, stream) == 0);
    for (int i = 0; i < ATTACKERS_NEVER_DONE; i++)
        sessions[i] = open_signalled(fd, driver, stream);
    for (uint32_t round = 1;; round++) {
        uint64_t begin = harness_now_ns();
        for (int i = 0; i < ATTACKERS_NEVER_DONE; i++) {
            struct proto_settle settle = {.session = sessions[i], .rows = 16};
            REQUIRE(harness_send_message(fd, PROTO_SETTLE, (uint32_t)i + 1, &settle) == 0);
        }
        for (int i = 0; i < ATTACKERS_NEVER_DONE; i++)
            hear_not_yet(fd);
        REQUIRE(harness_now_ns() - begin < 2000000000u);
        if (round == 1)
            leave_mark(mark);
    }
}

/* A small life with all that a daemon does for sessions, whatever comes of it; but each request has an answer. It ends
 * without a word. */
static void role_lives(const char *mark, const char *directory) {
    struct harness_daemon d = daemon_at(directory);
    struct proto_open open = attackers_open(64, 512), want = attackers_open(192, 192);
    struct proto_opened opened;
    struct proto_close close_it;
    int fd = harness_hello(&d), r;
    (void)mark;
    want.wait_ms = 300;
    REQUIRE(fd >= 0);
    r = harness_open(fd, &open, &opened, NULL);
    for (int i = 0; i < 28 && r == 0; i++)
        r = harness_settle(fd, opened.session, 0, 16, &(struct proto_settled){0});
    REQUIRE(r == 0 || r == -EREMOTEIO);
    close_it.session = opened.session;
    r = harness_open(fd, &want, &opened, NULL);
    REQUIRE(r == 0 || r == -EREMOTEIO);
    REQUIRE(harness_send_message(fd, PROTO_CLOSE, 9, &close_it) == 0);
    r = harness_expect(fd, PROTO_CLOSED, 9, NULL, 0, NULL);
    REQUIRE(r == 0 || r == -EREMOTEIO);
    r = harness_open(fd, &want, &opened, NULL);
    REQUIRE(r == 0 || r == -EREMOTEIO);
    if (r == 0)
        r = harness_settle(fd, opened.session, 0, 16, &(struct proto_settled){0});
    REQUIRE(r == 0 || r == -EREMOTEIO);
    _exit(0);
}

static struct scissor_session_spec borrower(void) {
    struct scissor_session_spec spec = {.name = "borrower", .fresh_rows = 16, .group_count = 1, .wait_ms = 15000};
    spec.compute_dtype = model.compute_dtype;
    spec.storage_dtype = model.storage_dtype;
    spec.groups[0] = (struct scissor_group_spec){.layers = model.layers,
                                                 .kv_heads = model.kv_heads,
                                                 .q_heads = model.q_heads,
                                                 .head_dim = model.head_dim,
                                                 .guaranteed_rows = 16 + 64,
                                                 .max_rows = 16 + 512,
                                                 .policy = "window"};
    return spec;
}

/* One step of 16 rows, and their settle. */
static int borrower_step(struct scissor_session *s) {
    static float rows[16 * 256];
    int r = scissor_step_begin(s, 16);
    for (uint32_t layer = 0; layer < model.layers && r == 0; layer++)
        r = scissor_append(s, layer, rows, rows, SCISSOR_F32);
    if (r == 0)
        r = scissor_step_end(s);
    return r == 0 ? scissor_settle(s) : r;
}

static bool daemon_has_gone(int r) {
    return r == SCISSOR_ERESTARTED || r == SCISSOR_EGONE;
}

/* Opens, appends, settles, borrows and closes with libscissor, over and over, until it is killed or something is not
 * as it should be; then its exit status is not 0. 10: the daemon has gone. */
static void borrow(const char *mark, const char *directory, bool beside_one_that_rests) {
    struct scissor_session_spec spec = borrower();
    struct scissor_client *client;
    struct scissor_session *s, *rests = NULL;
    REQUIRE(scissor_connect(directory, &client) == 0);
    if (beside_one_that_rests)
        REQUIRE(scissor_open(client, &spec, &rests) == 0 && borrower_step(rests) >= 0);
    leave_mark(mark);
    for (;;) {
        int r = scissor_open(client, &spec, &s);
        bool opened = r == 0;
        for (int i = 0; i < 40 && r >= 0; i++)
            r = borrower_step(s);
        int end = opened ? scissor_close(s) : 0;
        if (r < 0)
            fprintf(stderr, "borrower: %s: %s\n", scissor_strerror(r), scissor_last_text(client));
        if (daemon_has_gone(r) || daemon_has_gone(end)) {
            REQUIRE(end == 0 || daemon_has_gone(end));
            r = scissor_close(rests);
            REQUIRE(r == 0 || daemon_has_gone(r));
            _exit(10);
        }
        REQUIRE(r >= 0 && end == 0);
    }
}

static void role_borrows(const char *mark, const char *directory) {
    borrow(mark, directory, false);
}

static void role_borrows_beside(const char *mark, const char *directory) {
    borrow(mark, directory, true);
}

unsigned attackers_files(const char *directory) {
    unsigned count = 0;
    DIR *d = opendir(directory);
    while (d && readdir(d))
        count++;
    if (d)
        closedir(d);
    return count;
}

/* Opens and closes, with rows that are settled, with libscissor. */
static void opens(struct scissor_client *client, int times) {
    static float rows[16 * 256];
    struct scissor_session_spec spec = borrower();
    struct scissor_session *s;
    for (int i = 0; i < times; i++) {
        REQUIRE(scissor_open(client, &spec, &s) == 0);
        REQUIRE(scissor_step_begin(s, 16) == 0);
        for (uint32_t layer = 0; layer < model.layers; layer++)
            REQUIRE(scissor_append(s, layer, rows, rows, SCISSOR_F32) == 0);
        REQUIRE(scissor_step_end(s) == 0);
        REQUIRE(scissor_settle(s) >= 0);
        REQUIRE(scissor_close(s) == 0);
    }
}

unsigned attackers_events(const struct cuda_driver *driver) {
    static cuda_event events[4096];
    unsigned count = 0;
    while (count < 4096 && driver->event_new(&events[count], CUDA_EVENT_DISABLE_TIMING) == 0)
        count++;
    for (unsigned i = 0; i < count; i++)
        REQUIRE(driver->event_free(events[i]) == 0);
    return count;
}

static void settle_often(const char *directory, int times) {
    struct harness_daemon d = daemon_at(directory);
    struct proto_open open = attackers_open(64, 64);
    struct proto_opened opened;
    struct proto_settled settled;
    int fd = harness_hello(&d);
    REQUIRE(fd >= 0 && harness_open(fd, &open, &opened, NULL) == 0);
    for (int i = 0; i < times; i++)
        REQUIRE(harness_settle(fd, opened.session, 0, 1, &settled) == 0);
    struct proto_close close_it = {.session = opened.session};
    REQUIRE(harness_send_message(fd, PROTO_CLOSE, 9, &close_it) == 0);
    REQUIRE(harness_expect(fd, PROTO_CLOSED, 9, NULL, 0, NULL) == 0);
    close(fd);
}

/* Afterwards there are as many descriptors, allocations and events as before. */
static void role_opens(const char *mark, const char *directory) {
    struct scissor_client *client;
    cuda_stream stream;
    const struct cuda_driver *driver = role_driver(&stream);
    REQUIRE(scissor_connect(directory, &client) == 0);
    settle_often(directory, 520);
    opens(client, 35); /* until both sides have all that they keep */
    unsigned events = attackers_events(driver);
    unsigned descriptors = attackers_files("/proc/self/fd"), files = attackers_files(getenv("FAKECUDA_DIR"));
    leave_mark(mark);
    opens(client, ATTACKERS_OPENS);
    REQUIRE(attackers_files("/proc/self/fd") == descriptors);
    REQUIRE(attackers_files(getenv("FAKECUDA_DIR")) == files);
    REQUIRE(attackers_events(driver) == events);
    scissor_disconnect(client);
    _exit(0);
}

/* One of many that do so at the same time. */
static void role_opens_some(const char *mark, const char *directory) {
    struct scissor_client *client;
    REQUIRE(scissor_connect(directory, &client) == 0);
    leave_mark(mark);
    opens(client, ATTACKERS_OPENS_SOME);
    scissor_disconnect(client);
    _exit(0);
}

/* ---------- to be killed at a step ---------- */

/* A session with work on its stream that goes on for a while, and whose event is behind it. */
static uint64_t open_at_work(int fd) {
    cuda_stream stream;
    const struct cuda_driver *driver = role_driver(&stream);
    cuda_address memory = role_memory(driver, 4096);
    REQUIRE(driver->fill(memory, 1, 1024, stream) == 0);
    return open_signalled(fd, driver, stream);
}

static void wait_to_be_killed(const char *mark) {
    leave_mark(mark);
    for (;;)
        pause();
}

/* It has been granted what it asked for, and has not looked. */
static void role_dies_unanswered(const char *mark, const char *directory) {
    struct harness_daemon d = daemon_at(directory);
    struct proto_open open;
    struct proto_pool_stat stat = {0};
    int fd = harness_hello(&d);
    harness_open_default(&open);
    REQUIRE(harness_send_message(fd, PROTO_OPEN, 1, &open) == 0);
    while (stat.charged_bytes == 0)
        REQUIRE(harness_stat(&d, &stat) == 0);
    wait_to_be_killed(mark);
}

/* Its event is recorded, and not reached; SETTLE is not sent. */
static void role_dies_recorded(const char *mark, const char *directory) {
    struct harness_daemon d = daemon_at(directory);
    (void)open_at_work(harness_hello(&d));
    wait_to_be_killed(mark);
}

/* SETTLE is sent, for scores that do not come. */
static void role_dies_settling(const char *mark, const char *directory) {
    struct harness_daemon d = daemon_at(directory);
    int fd = harness_hello(&d);
    struct proto_settle settle = {.session = open_at_work(fd), .rows = 16, .score_sequence = 1000};
    REQUIRE(harness_send_message(fd, PROTO_SETTLE, 2, &settle) == 0);
    wait_to_be_killed(mark);
}

/* CLOSE is sent, and nobody hears that it is done. */
static void role_dies_closing(const char *mark, const char *directory) {
    struct harness_daemon d = daemon_at(directory);
    struct proto_open open;
    struct proto_opened opened;
    int fd = harness_hello(&d);
    harness_open_default(&open);
    REQUIRE(harness_open(fd, &open, &opened, NULL) == 0);
    struct proto_close close_it = {.session = opened.session};
    REQUIRE(harness_send_message(fd, PROTO_CLOSE, 2, &close_it) == 0);
    wait_to_be_killed(mark);
}

/* It has borrowed, and will be asked for it. */
static void role_dies_asked(const char *mark, const char *directory) {
    struct harness_daemon d = daemon_at(directory);
    struct proto_open open = attackers_open(64, 512);
    struct proto_opened opened;
    int fd = harness_hello(&d);
    REQUIRE(harness_open(fd, &open, &opened, NULL) == 0);
    for (int i = 0; i < 36; i++)
        REQUIRE(harness_settle(fd, opened.session, 0, 16, &(struct proto_settled){0}) == 0);
    wait_to_be_killed(mark);
}

/* ---------- */

/* Closes sessions with work queued, which the operator may do, too. */
static void role_closes_late(const char *mark, const char *directory) {
    enum { SESSIONS = 12 };
    static float rows[16 * 256];
    struct scissor_session_spec spec = borrower();
    struct scissor_client *client;
    struct scissor_session *s;
    cuda_stream stream;
    int closed = 0;
    const struct cuda_driver *driver = role_driver(&stream);
    REQUIRE(scissor_connect(directory, &client) == 0);
    leave_mark(mark);
    for (int i = 0; i < SESSIONS; i++) {
        cuda_address vectors = role_memory(driver, 2 * sizeof rows);
        void *q = (void *)(uintptr_t)vectors, *out = (void *)(uintptr_t)(vectors + sizeof rows);
        struct scissor_attend_item item = {NULL, 0, model.scale, q, out};
        REQUIRE(driver->fill(vectors, 0, 2 * sizeof rows / 4, stream) == 0);
        int r = scissor_open(client, &spec, &s);
        if (r == SCISSOR_ECLOSED)
            continue; /* while it was being opened */
        REQUIRE(r == 0);
        item.session = s;
        /* The operator closes those with odd numbers. */
        int steps = scissor_session_id(s) % 2 ? 1000 : 4;
        for (int step = 0; step < steps && r == 0; step++) {
            if (step > 0 && step % 2 == 0)
                r = scissor_settle_device(s, stream);
            r = r < 0 ? r : scissor_step_begin(s, 8);
            if (r == 0)
                r = scissor_append_device(s, 0, q, q, SCISSOR_F32, stream);
            if (r == 0)
                r = scissor_attend_device(&item, 1, stream);
            if (r == 0 && (step + 1 < steps || i % 2))
                r = scissor_step_end(s);
        }
        REQUIRE(r >= 0 || r == SCISSOR_ECLOSED);
        r = scissor_close(s);
        REQUIRE(r == 0 || r == SCISSOR_ECLOSED);
        REQUIRE(steps == 4 || r == SCISSOR_ECLOSED);
        closed += r == SCISSOR_ECLOSED;
    }
    scissor_disconnect(client);
    fprintf(stderr, "the operator closed %d of %d sessions\n", closed, SESSIONS);
    _exit(closed > 0 ? 0 : 1);
}

static void role_hears_lies(const char *mark, const char *directory) {
    (void)mark;
    (void)directory;
    false_daemon_play();
}

int attackers_play(const char *name, const char *mark, const char *directory) {
    static const struct {
        const char *name;
        void (*run)(const char *mark, const char *directory);
    } roles[] = {{"never-done", role_never_done},
                 {"lives", role_lives},
                 {"borrows", role_borrows},
                 {"borrows-beside", role_borrows_beside},
                 {"opens", role_opens},
                 {"opens-some", role_opens_some},
                 {"hears-lies", role_hears_lies},
                 {"dies-unanswered", role_dies_unanswered},
                 {"dies-recorded", role_dies_recorded},
                 {"dies-settling", role_dies_settling},
                 {"dies-closing", role_dies_closing},
                 {"dies-asked", role_dies_asked},
                 {"closes-late", role_closes_late}};
    alarm(120);
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (!strcmp(roles[i].name, name))
            roles[i].run(mark, directory);
    return 1;
}
