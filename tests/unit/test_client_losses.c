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
#include "client_set_up.h"
#include "internal.h"

/* ---------- a daemon that goes ---------- */

static int whole_life(struct scissor_client *client, const struct scissor_session_spec *spec) {
    struct scissor_session *session = NULL;
    uint32_t positions[160], count;
    float out[16 * 2 * 16];
    client_be_patient(client);
    int r = scissor_open(client, spec, &session), wrong = 0;
    for (int i = 0; i < 12 && !r; i++) {
        r = attention_step(&client_model, session, 16, 1, out);
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

enum after { GONE, BACK_WITHOUT, BACK_WITH, AFTERS };

static void set_fake(enum after after, int64_t hang_up_after) {
    fake_set_away(&client_fake, false);
    pthread_mutex_lock(&client_fake.lock);
    client_fake.stay_away = after == GONE;
    client_fake.keep = after == BACK_WITH;
    client_fake.hang_up_after = hang_up_after;
    pthread_mutex_unlock(&client_fake.lock);
}

/* A daemon that hangs up stays dead, or is there again: with the sessions of before, or without. */
static void daemon_goes_at_each_message(void **state) {
    (void)state;
    struct scissor_session_spec spec = client_spec();
    const int first[AFTERS] = {SCISSOR_EGONE, SCISSOR_ERESTARTED, 0};
    for (enum after after = GONE; after < AFTERS; after++) {
        int r = -1, lost = 0;
        /* Whether a daemon is gone takes a second to say. */
        for (int messages = 1; messages < 60; messages += after == GONE ? 6 : 1) {
            struct scissor_client *client = client_connected();
            set_fake(after, messages);
            r = whole_life(client, &spec);
            assert_true(r == first[after] || (r == 0 && (after == BACK_WITHOUT || messages > 14)));
            lost += r != 0;
            scissor_disconnect(client);
            set_fake(after, -1);
        }
        assert_int_equal(r, 0);
        assert_true(after == BACK_WITH ? lost == 0 : lost > 2);
    }
}

static void *hang_up_soon(void *data) {
    (void)data;
    usleep(30000);
    fake_hang_up(&client_fake);
    return NULL;
}

static enum fake_verdict drop_settled(struct fake *f, uint16_t type, struct fake_packet *p) {
    (void)f;
    (void)p;
    return type == PROTO_SETTLED ? FAKE_DROP : FAKE_SEND;
}

/* While the library waits: for the lease, for an answer; and with a step open. */
static void go_while_waiting(int way, enum after after) {
    const int expected[AFTERS] = {SCISSOR_EGONE, SCISSOR_ERESTARTED, 0};
    struct scissor_session_spec spec = client_spec();
    struct scissor_session *session = NULL;
    struct scissor_client *client = client_connected();
    float row[32] = {0};
    pthread_t thread;
    client_be_patient(client);
    if (after == GONE)
        scissor_set_timeout(client, 2000); /* all of it goes by */
    set_fake(after, -1);
    assert_int_equal(scissor_open(client, &spec, &session), 0);
    assert_int_equal(attention_step(&client_model, session, 5, 0, NULL), 0);
    if (way == 0)
        __atomic_store_n(&fake_session_at(&client_fake, 0)->lease->word, PROTO_LEASE_DAEMON, __ATOMIC_RELEASE);
    if (way == 1)
        fake_set_hook(&client_fake, drop_settled);
    if (way == 2)
        assert_int_equal(scissor_step_begin(session, 1), 0);
    assert_int_equal(pthread_create(&thread, NULL, hang_up_soon, NULL), 0);
    if (way == 0)
        assert_int_equal(scissor_step_begin(session, 1), expected[after]);
    if (way == 1)
        assert_int_equal(scissor_settle(session), expected[after]);
    pthread_join(thread, NULL);
    if (way == 2)
        assert_int_equal(scissor_append(session, 0, row, row, SCISSOR_F32), 0);
    if (way == 2 || (way == 0 && after == BACK_WITH))
        assert_int_equal(scissor_step_end(session), 0);
    fake_set_hook(&client_fake, NULL);
    assert_int_equal(scissor_step_begin(session, 1), expected[after]);
    if (after == BACK_WITH)
        assert_int_equal(scissor_step_end(session), 0);
    assert_int_equal(scissor_settle(session), expected[after]);
    assert_int_equal(scissor_close(session), after == GONE ? SCISSOR_EGONE : 0);
    scissor_disconnect(client);
    set_fake(after, -1);
}

static void daemon_goes_while_waiting(void **state) {
    (void)state;
    for (int way = 0; way < 3; way++)
        for (enum after after = GONE; after < AFTERS; after++)
            go_while_waiting(way, after);
}

/* ---------- scores that nobody takes ---------- */

#define SOON_NS 5000000000u /* far more than the second after which the library helps itself */

/* Settles until nanomsg has taken the scores; gives the number of settles that had to go without, or -1 if something
 * went wrong (cmocka's assertions are for the test's own thread). */
static int settle_until_taken(struct scissor_session *session) {
    uint64_t begin = scissor__now();
    int lost = 0;
    for (;; lost++) {
        int r = attention_step(&client_model, session, 16, 0, NULL);
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
    struct scissor_session_spec spec = client_spec();
    struct scissor_session *sessions[2];
    struct scissor_client *client = client_connected();
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
    struct scissor_session_spec spec = client_spec();
    struct scissor_session *session = NULL;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char url[128];
    struct proto_score score;
    static char frame[PROTO_SCORE_MAX];
    int mute = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), patience = 5000;
    snprintf(address.sun_path, sizeof address.sun_path, "%s/" PROTO_SCORE_SOCKET_FORMAT, client_fake.dir, 1);
    snprintf(url, sizeof url, "ipc://%s", address.sun_path);
    assert_int_equal(bind(mute, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(mute, 8), 0);
    FAKE_SET(&client_fake, score_socket, 1);
    struct scissor_client *client = client_connected();
    int held = accept(mute, NULL, NULL);
    assert_true(held >= 0);
    assert_int_equal(scissor_open(client, &spec, &session), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(attention_step(&client_model, session, 16, 0, NULL), 0);
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
    struct scissor_session_spec spec = client_spec();
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        int r = SCISSOR_ENOMEM;
        for (size_t k = 0; k < 200 && r; k++) {
            struct scissor_client *client = NULL;
            alloc_fail_after(k, for_ever ? SIZE_MAX : 1);
            r = scissor_connect(client_fake.dir, &client);
            if (!r)
                r = whole_life(client, &spec);
            alloc_fail_never();
            assert_true(r == 0 || r == SCISSOR_ENOMEM);
            if (client) {
                assert_int_equal(fake_open_sessions(&client_fake), 0);
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
    struct scissor_session_spec spec = client_spec();
    struct scissor_client *client = client_connected();
    struct scissor_session *session = NULL;
    float row[32] = {0}, out[32];
    size_t failures = 0;
    client_be_patient(client);
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
        client_drop_fd(p);
    for (uint32_t edits = noise() % 8 == 0 ? 1 + noise() % 4 : 0; edits > 0 && p->size > 0; edits--)
        p->bytes[noise() % p->size] = (char)noise();
    return FAKE_SEND;
}

static void noise_does_not_crash(void **state) {
    (void)state;
    struct scissor_session_spec spec = client_spec();
    int well = 0;
    for (uint32_t seed = 1; seed <= 400; seed++) {
        struct scissor_client *client = client_connected();
        noise_state = seed;
        scissor_set_timeout(client, 5);
        fake_set_hook(&client_fake, scribble);
        well += whole_life(client, &spec) == 0;
        fake_set_hook(&client_fake, NULL);
        scissor_disconnect(client);
    }
    assert_true(well > 0 && well < 400);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, client_set_up, client_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(daemon_goes_at_each_message),  TEST(daemon_goes_while_waiting), TEST(allocation_fails_at_each_place),
        TEST(failed_calls_can_be_repeated), TEST(noise_does_not_crash),      TEST(socket_that_does_not_connect_again),
        TEST(reader_that_never_greets),
    };
    return cmocka_run_group_tests_name("client losses", tests, NULL, NULL);
}
