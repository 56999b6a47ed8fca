/* test_client_losses.c - libscissor when something gives way under it: a daemon that goes away at each message, no
 * memory at the k-th allocation, random noise in messages and in the control page. */
#include <nanomsg/nn.h>
#include <nanomsg/pipeline.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc.h"
#include "attention.h"
#include "fake_daemon.h"
#include "internal.h"
#include "scissor.h"

static const struct attention_model model = {.seed = 1,
                                             .layers = 2,
                                             .kv_heads = 2,
                                             .q_heads = 2,
                                             .head_dim = 16,
                                             .compute_dtype = SCISSOR_F32,
                                             .storage_dtype = SCISSOR_F32,
                                             .scale = 0.25f};

static struct scissor_session_spec good_spec(void) {
    struct scissor_session_spec spec = {.fresh_rows = 16, .group_count = 1};
    spec.groups[0] =
        (struct scissor_group_spec){.layers = 2, .kv_heads = 2, .q_heads = 2, .head_dim = 16, .guaranteed_rows = 160};
    return spec;
}

static struct fake fake;

static int set_up(void **state) {
    (void)state;
    if (fake_start(&fake) < 0)
        return -1;
    fake.drain = true;
    fake.scores[0].planes = 7;
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    alloc_fail_never();
    fake_stop(&fake);
    return alloc_live() == 0 ? 0 : -1;
}

static struct scissor_client *connected(void) {
    struct scissor_client *client = NULL;
    assert_int_equal(scissor_connect(fake.dir, &client), 0);
    return client;
}

/* ---------- a daemon that goes ---------- */

static int whole_life(struct scissor_client *client, const struct scissor_session_spec *spec) {
    struct scissor_session *session = NULL;
    uint32_t positions[160], count;
    float out[16 * 2 * 16];
    int r = scissor_open(client, spec, &session), wrong = 0;
    for (int i = 0; i < 12 && !r; i++) {
        r = attention_step(&model, session, 16, 1, out);
        if (!r)
            r = scissor_settle(session);
    }
    if (!r)
        r = scissor_positions(session, 0, 0, positions, 160, &count);
    if (!r && count != 144)
        wrong = -1000;
    int closed = scissor_close(session);
    return wrong ? wrong : r ? r : closed;
}

static void daemon_goes_at_each_message(void **state) {
    (void)state;
    struct scissor_session_spec spec = good_spec();
    int r = -1;
    for (int after = 1; after < 60 && r; after++) {
        struct scissor_client *client = connected();
        pthread_mutex_lock(&fake.lock);
        fake.hang_up_after = after;
        pthread_mutex_unlock(&fake.lock);
        r = whole_life(client, &spec);
        assert_true(r == SCISSOR_EGONE || (r == 0 && after > 14));
        scissor_disconnect(client);
        pthread_mutex_lock(&fake.lock);
        fake.hang_up_after = -1;
        pthread_mutex_unlock(&fake.lock);
    }
    assert_int_equal(r, 0);
}

static void *hang_up_soon(void *data) {
    (void)data;
    usleep(30000);
    fake_hang_up(&fake);
    return NULL;
}

static enum fake_verdict drop_settled(struct fake *f, uint16_t type, struct fake_packet *p) {
    (void)f;
    (void)p;
    return type == PROTO_SETTLED ? FAKE_DROP : FAKE_SEND;
}

/* While the library waits: for the lease, for an answer; and with a step open. */
static void daemon_goes_while_waiting(void **state) {
    (void)state;
    struct scissor_session_spec spec = good_spec();
    float row[32] = {0};
    for (int way = 0; way < 3; way++) {
        struct scissor_session *session = NULL;
        struct scissor_client *client = connected();
        pthread_t thread;
        assert_int_equal(scissor_open(client, &spec, &session), 0);
        assert_int_equal(attention_step(&model, session, 5, 0, NULL), 0);
        if (way == 0)
            __atomic_store_n(&fake_session_at(&fake, 0)->lease->word, PROTO_LEASE_DAEMON, __ATOMIC_RELEASE);
        if (way == 1)
            fake_set_hook(&fake, drop_settled);
        if (way == 2)
            assert_int_equal(scissor_step_begin(session, 1), 0);
        assert_int_equal(pthread_create(&thread, NULL, hang_up_soon, NULL), 0);
        if (way == 0)
            assert_int_equal(scissor_step_begin(session, 1), SCISSOR_EGONE);
        if (way == 1)
            assert_int_equal(scissor_settle(session), SCISSOR_EGONE);
        pthread_join(thread, NULL);
        if (way == 2) {
            assert_int_equal(scissor_append(session, 0, row, row, SCISSOR_F32), 0);
            assert_int_equal(scissor_step_end(session), 0);
        }
        assert_int_equal(scissor_step_begin(session, 1), SCISSOR_EGONE);
        assert_int_equal(scissor_settle(session), SCISSOR_EGONE);
        fake_set_hook(&fake, NULL);
        assert_int_equal(scissor_close(session), SCISSOR_EGONE);
        scissor_disconnect(client);
    }
}

/* ---------- scores that nobody takes ---------- */

#define SOON_NS 5000000000u /* far more than the second after which the library helps itself */

/* Settles until nanomsg has taken the scores; gives the number of settles that had to go without, or -1 if something
 * went wrong (cmocka's assertions are for the test's own thread). */
static int settle_until_taken(struct scissor_session *session) {
    uint64_t begin = scissor__now();
    int lost = 0;
    for (;; lost++) {
        int r = attention_step(&model, session, 16, 0, NULL);
        if (r == 0)
            r = scissor_settle(session);
        if (r == 0)
            return lost;
        if (r != SCISSOR_SCORES_LOST || scissor__now() - begin >= SOON_NS)
            return -1;
    }
}

static void *settle_in_thread(void *session) {
    return (void *)(intptr_t)settle_until_taken(session);
}

/* nanomsg forgets where to connect to, as it seems to do when the other side dies in the middle of the greeting. Two
 * threads are at it. */
static void socket_that_does_not_connect_again(void **state) {
    (void)state;
    struct scissor_session_spec spec = good_spec();
    struct scissor_session *sessions[2];
    struct scissor_client *client = connected();
    for (int i = 0; i < 2; i++) {
        assert_int_equal(scissor_open(client, &spec, &sessions[i]), 0);
        assert_true(settle_until_taken(sessions[i]) >= 0);
    }
    for (int round = 0; round < 2; round++) {
        pthread_t threads[2];
        assert_int_equal(nn_shutdown(client->push.socket, 1), 0);
        for (int i = 0; i < 2; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, settle_in_thread, sessions[i]), 0);
        for (int i = 0; i < 2; i++) {
            void *lost = NULL;
            pthread_join(threads[i], &lost);
            assert_true((intptr_t)lost > 3);
        }
    }
    scissor_disconnect(client);
}

/* Somebody accepts and never greets; he is still there, with the connection open, when the right one has come. */
static void reader_that_never_greets(void **state) {
    (void)state;
    struct scissor_session_spec spec = good_spec();
    struct scissor_session *session = NULL;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char url[128];
    struct proto_score score;
    static char frame[PROTO_SCORE_MAX];
    int mute = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), patience = 5000;
    snprintf(address.sun_path, sizeof address.sun_path, "%s/" PROTO_SCORE_SOCKET_FORMAT, fake.dir, 1);
    snprintf(url, sizeof url, "ipc://%s", address.sun_path);
    assert_int_equal(bind(mute, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(mute, 8), 0);
    fake.score_socket = 1;
    struct scissor_client *client = connected();
    int held = accept(mute, NULL, NULL);
    assert_true(held >= 0);
    assert_int_equal(scissor_open(client, &spec, &session), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(attention_step(&model, session, 16, 0, NULL), 0);
        assert_int_equal(scissor_settle(session), SCISSOR_SCORES_LOST);
    }
    assert_int_equal(unlink(address.sun_path), 0);
    int pull = nn_socket(AF_SP, NN_PULL);
    nn_setsockopt(pull, NN_SOL_SOCKET, NN_RCVTIMEO, &patience, sizeof patience);
    assert_true(nn_bind(pull, url) >= 0);
    assert_true(settle_until_taken(session) >= 0);
    assert_true(nn_recv(pull, frame, sizeof frame, 0) > (int)sizeof score);
    memcpy(&score, frame, sizeof score);
    assert_int_equal(score.session, scissor_session_id(session));
    assert_int_equal(score.sequence, 1); /* what was not taken has no number */
    scissor_disconnect(client);
    nn_close(pull);
    close(held);
    close(mute);
    unlink(address.sun_path);
}

/* ---------- no memory ---------- */

static void allocation_fails_at_each_place(void **state) {
    (void)state;
    struct scissor_session_spec spec = good_spec();
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        int r = SCISSOR_ENOMEM;
        for (size_t k = 0; k < 200 && r; k++) {
            struct scissor_client *client = NULL;
            alloc_fail_after(k, for_ever ? SIZE_MAX : 1);
            r = scissor_connect(fake.dir, &client);
            if (!r)
                r = whole_life(client, &spec);
            alloc_fail_never();
            assert_true(r == 0 || r == SCISSOR_ENOMEM);
            if (client) {
                assert_int_equal(fake_open_sessions(&fake), 0);
                assert_int_equal(whole_life(client, &spec), 0); /* the client is as good as before */
            }
            scissor_disconnect(client);
            assert_int_equal(alloc_live(), 0);
        }
        assert_int_equal(r, 0);
    }
}

/* A call that failed for want of memory can be made again, and nothing is counted twice. */
static void failed_calls_can_be_repeated(void **state) {
    (void)state;
    struct scissor_session_spec spec = good_spec();
    struct scissor_client *client = connected();
    struct scissor_session *session = NULL;
    float row[32] = {0}, out[32];
    size_t failures = 0;
    assert_int_equal(scissor_open(client, &spec, &session), 0);
    for (int i = 0; i < 40; i++) {
        int r;
        for (size_t k = 0; (alloc_fail_after(k, 1), r = scissor_step_begin(session, 4)) == SCISSOR_ENOMEM; k++)
            failures++;
        assert_int_equal(r, 0);
        for (uint32_t layer = 0; layer < 2; layer++) {
            float rows[4 * 32] = {0}, outs[4 * 32];
            assert_int_equal(scissor_append(session, layer, rows, rows, SCISSOR_F32), 0);
            struct scissor_attend_item item = {session, layer, 1, rows, outs};
            for (size_t k = 0; (alloc_fail_after(k, 1), r = scissor_attend(&item, 1)) == SCISSOR_ENOMEM; k++)
                failures++;
            assert_int_equal(r, 0);
        }
        assert_int_equal(scissor_step_end(session), 0);
        if (scissor_fresh_room(session) == 0) {
            for (size_t k = 0; (alloc_fail_after(k, 1), r = scissor_settle(session)) == SCISSOR_ENOMEM; k++)
                failures++;
            assert_int_equal(r, 0);
        }
    }
    alloc_fail_never();
    assert_true(failures > 3);
    assert_int_equal(scissor_tokens_seen(session), 160);
    assert_int_equal(scissor_step_begin(session, 1), 0);
    assert_int_equal(scissor_append(session, 0, row, row, SCISSOR_F32), 0);
    struct scissor_attend_item item = {session, 0, 1, row, out};
    assert_int_equal(scissor_attend(&item, 1), 0);
    scissor_disconnect(client); /* with a step open and a session left */
}

/* ---------- noise ---------- */

static uint64_t noise_state;
static uint32_t noise(void) {
    noise_state = noise_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(noise_state >> 33);
}

static void drop_fd(struct fake_packet *p) {
    if (p->fd_count > 0)
        close(p->fds[--p->fd_count]);
}

static enum fake_verdict scribble(struct fake *f, uint16_t type, struct fake_packet *p) {
    struct fake_session *s = fake_session_at(f, 0);
    if (type == PROTO_WELCOME)
        return FAKE_SEND;
    if (s && s->control && noise() % 6 == 0)
        fake_head_words(s, noise() % 4)[noise() % 5] = noise() % 2 ? noise() : noise() % 4096;
    if (noise() % 40 == 0)
        return FAKE_DROP;
    if (noise() % 40 == 0)
        p->size = noise() % (p->size + 1);
    if (noise() % 30 == 0)
        drop_fd(p);
    for (uint32_t edits = noise() % 8 == 0 ? 1 + noise() % 4 : 0; edits > 0 && p->size > 0; edits--)
        p->bytes[noise() % p->size] = (char)noise();
    return FAKE_SEND;
}

static void noise_does_not_crash(void **state) {
    (void)state;
    struct scissor_session_spec spec = good_spec();
    int well = 0;
    for (uint32_t seed = 1; seed <= 400; seed++) {
        struct scissor_client *client = connected();
        noise_state = seed;
        scissor_set_timeout(client, 5);
        fake_set_hook(&fake, scribble);
        well += whole_life(client, &spec) == 0;
        fake_set_hook(&fake, NULL);
        scissor_disconnect(client);
    }
    assert_true(well > 0 && well < 400);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(daemon_goes_at_each_message),  TEST(daemon_goes_while_waiting), TEST(allocation_fails_at_each_place),
        TEST(failed_calls_can_be_repeated), TEST(noise_does_not_crash),      TEST(socket_that_does_not_connect_again),
        TEST(reader_that_never_greets),
    };
    return cmocka_run_group_tests_name("client losses", tests, NULL, NULL);
}
