/* test_client_reattach.c - libscissor when the daemon that it finds after a loss is not what it should be: nobody, one
 * without the sessions, one that answers REATTACH with nonsense. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc.h"
#include "client_set_up.h"
#include "internal.h"

static struct scissor_client *patient_client(void) {
    struct scissor_client *client = client_connected();
    client_be_patient(client);
    return client;
}

static struct scissor_session *opened(struct scissor_client *client) {
    struct scissor_session_spec spec = client_spec();
    struct scissor_session *session = NULL;
    assert_int_equal(scissor_open(client, &spec, &session), 0);
    return session;
}

/* With 16 settled rows and 5 fresh ones. */
static struct scissor_session *used(struct scissor_client *client) {
    struct scissor_session *session = opened(client);
    assert_int_equal(attention_step(&client_model, session, 16, 0, NULL), 0);
    assert_int_equal(scissor_settle(session), 0);
    assert_int_equal(attention_step(&client_model, session, 5, 0, NULL), 0);
    return session;
}

static void assert_each_call_gives(struct scissor_session *session, int code) {
    uint32_t position, count;
    assert_int_equal(scissor_step_begin(session, 1), code);
    assert_int_equal(scissor_settle(session), code);
    assert_int_equal(scissor_positions(session, 0, 0, &position, 1, &count), code);
}

/* ---------- nobody ---------- */

static void set_away(bool away, bool keep) {
    FAKE_SET(&client_fake, keep, keep);
    fake_set_away(&client_fake, away);
}

/* It takes as long as is worth waiting: the client's time-out if the daemon can take sessions over, else a second. */
static void nobody_comes_back(void **state) {
    (void)state;
    for (int keep = 0; keep < 2; keep++) {
        set_away(false, keep);
        struct scissor_client *client = patient_client();
        struct scissor_session *session = used(client), *second = opened(client);
        scissor_set_timeout(client, keep ? 1500 : 60000);
        set_away(true, keep);
        fake_hang_up(&client_fake);
        uint64_t begin = scissor__now();
        assert_int_equal(scissor_step_begin(session, 1), SCISSOR_EGONE);
        uint64_t ns = scissor__now() - begin;
        assert_true(ns >= (keep ? 1400000000u : 900000000u) && ns < 30000000000u);
        assert_non_null(strstr(scissor_last_text(client), PROTO_ATTACH_SOCKET));

        /* Said once, it is so at once. */
        begin = scissor__now();
        assert_each_call_gives(session, SCISSOR_EGONE);
        assert_each_call_gives(session, SCISSOR_EGONE);
        assert_int_equal(scissor_step_begin(second, 1), SCISSOR_EGONE);
        assert_int_equal(scissor_close(second), SCISSOR_EGONE);
        assert_true(scissor__now() - begin < 500000000u);

        /* A new open asks again. If a daemon has what was there before, it goes on. */
        set_away(false, keep);
        struct scissor_session *late = opened(client);
        assert_int_equal(attention_step(&client_model, late, 5, 0, NULL), 0);
        if (keep) {
            assert_int_equal(scissor_settle(session), 0);
            assert_int_equal(scissor_tokens_seen(session), 21);
        } else {
            assert_each_call_gives(session, SCISSOR_ERESTARTED);
        }
        assert_int_equal(scissor_close(session), 0);
        assert_int_equal(scissor_close(late), 0);
        scissor_disconnect(client);
    }
}

static void *come_back(void *data) {
    (void)data;
    usleep(250000);
    fake_set_away(&client_fake, false);
    return NULL;
}

/* Calls of several threads wait for one recovery. */
static void *begin_and_end(void *data) {
    int r = scissor_step_begin(data, 1);
    return (void *)(intptr_t)(r ? r : scissor_step_end(data));
}

static void somebody_comes_back_late(void **state) {
    (void)state;
    for (int keep = 0; keep < 2; keep++) {
        set_away(false, keep);
        struct scissor_client *client = patient_client();
        struct scissor_session *sessions[3];
        pthread_t threads[3], helper;
        uint32_t before = FAKE_GET(&client_fake, connections);
        for (int i = 0; i < 3; i++)
            sessions[i] = used(client);
        set_away(true, keep);
        fake_hang_up(&client_fake);
        assert_int_equal(pthread_create(&helper, NULL, come_back, NULL), 0);
        for (int i = 0; i < 3; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, begin_and_end, sessions[i]), 0);
        for (int i = 0; i < 3; i++) {
            void *r;
            pthread_join(threads[i], &r);
            assert_int_equal((intptr_t)r, keep ? 0 : SCISSOR_ERESTARTED);
            assert_int_equal(scissor_close(sessions[i]), 0);
        }
        pthread_join(helper, NULL);
        assert_int_equal(FAKE_GET(&client_fake, connections), before + 1);
        scissor_disconnect(client);
    }
}

/* A call whose time is nearly over when the daemon dies gives up, the next one goes on. */
static void time_out_is_not_the_end(void **state) {
    (void)state;
    set_away(false, true);
    struct scissor_client *client = patient_client();
    struct scissor_session *session = used(client);
    pthread_mutex_lock(&client_fake.lock);
    client_fake.deaf = client_fake.stay_away = true;
    pthread_mutex_unlock(&client_fake.lock);
    pthread_t thread;
    scissor_set_timeout(client, 3000);
    struct fake_session *s = fake_session_at(&client_fake, 0);
    __atomic_store_n(&s->lease->word, PROTO_LEASE_DAEMON, __ATOMIC_RELEASE);
    assert_int_equal(pthread_create(&thread, NULL, begin_and_end, session), 0);
    usleep(2500000);
    fake_hang_up(&client_fake);
    void *r;
    pthread_join(thread, &r);
    assert_int_equal((intptr_t)r, SCISSOR_ETIMEDOUT);
    pthread_mutex_lock(&client_fake.lock);
    client_fake.stay_away = client_fake.deaf = false;
    pthread_mutex_unlock(&client_fake.lock);
    fake_set_away(&client_fake, false);
    assert_int_equal(scissor_step_begin(session, 1), 0);
    assert_int_equal(scissor_step_end(session), 0);
    assert_int_equal(scissor_close(session), 0);
    scissor_disconnect(client);
}

/* ---------- a daemon without the sessions ---------- */

static void session_is_not_there(void **state) {
    (void)state;
    struct scissor_client *client = patient_client();
    struct scissor_session *session = used(client), *second = used(client), *stepping = used(client);
    uint64_t id = scissor_session_id(session);
    float row[32] = {0}, out[32];
    struct scissor_session_info info;
    assert_int_equal(scissor_step_begin(stepping, 1), 0);
    fake_hang_up(&client_fake);
    assert_int_equal(scissor_settle(session), SCISSOR_ERESTARTED);
    scissor_session_info(session, &info);
    assert_int_equal(info.segments_bytes, 0);
    assert_int_equal(info.tokens_seen, 21);
    assert_int_equal(scissor_session_id(session), id);
    assert_each_call_gives(session, SCISSOR_ERESTARTED);
    assert_each_call_gives(second, SCISSOR_ERESTARTED);

    /* A step goes on, on memory that is still mapped. */
    assert_int_equal(scissor_append(stepping, 0, row, row, SCISSOR_F32), 0);
    struct scissor_attend_item item = {stepping, 0, 1, row, out};
    assert_int_equal(scissor_attend(&item, 1), 0);
    assert_int_equal(scissor_step_end(stepping), 0);
    assert_each_call_gives(stepping, SCISSOR_ERESTARTED);
    scissor_session_info(stepping, &info);
    assert_int_equal(info.segments_bytes, 0);

    /* The new daemon may give the number of an old session to a new one. */
    FAKE_SET(&client_fake, next_id, id);
    struct scissor_session *fresh = used(client);
    assert_int_equal(scissor_session_id(fresh), id);
    assert_int_equal(scissor_settle(fresh), 0);
    assert_int_equal(scissor_close(session), 0);
    assert_int_equal(scissor_close(second), 0);
    assert_int_equal(scissor_close(stepping), 0);
    assert_int_equal(fake_open_sessions(&client_fake), 1);
    assert_int_equal(attention_step(&client_model, fresh, 5, 0, NULL), 0);
    assert_int_equal(scissor_close(fresh), 0);
    scissor_disconnect(client);
}

static void last_text_says_so(void **state) {
    (void)state;
    char text[64];
    struct scissor_client *client = patient_client();
    struct scissor_session *session = used(client);
    snprintf(text, sizeof text, "does not have session %llu any more", (unsigned long long)scissor_session_id(session));
    fake_hang_up(&client_fake);
    assert_int_equal(scissor_step_begin(session, 1), SCISSOR_ERESTARTED);
    assert_non_null(strstr(scissor_last_text(client), text));
    scissor_disconnect(client); /* with the session left */
}

/* It is taken up by nobody, and then another daemon still does not have it: no second recovery asks for it. */
static void restarted_twice(void **state) {
    (void)state;
    struct scissor_client *client = patient_client();
    struct scissor_session *session = used(client);
    for (int i = 0; i < 2; i++) {
        fake_hang_up(&client_fake);
        struct scissor_session *other = opened(client);
        assert_int_equal(scissor_close(other), 0);
        assert_each_call_gives(session, SCISSOR_ERESTARTED);
    }
    assert_int_equal(FAKE_GET(&client_fake, received[PROTO_REATTACH]), 1);
    assert_int_equal(scissor_close(session), 0);
    scissor_disconnect(client);
}

static int refusal;
static enum fake_verdict refuse_reattach(struct fake *f, uint16_t type, struct fake_packet *p) {
    struct proto_header h;
    struct proto_failed failed = {.code = refusal, .text = "the daemon's reason"};
    (void)f;
    memcpy(&h, p->bytes, sizeof h);
    if (type == PROTO_FAILED)
        p->size = proto_attach_write(p->bytes, sizeof p->bytes, PROTO_FAILED, h.request, &failed, NULL, 0);
    return FAKE_SEND;
}

static void refusals_of_reattach(void **state) {
    (void)state;
    const int refusals[] = {SCISSOR_ERESTARTED, SCISSOR_ENOSESSION, SCISSOR_ENOMEM, SCISSOR_EPERM, SCISSOR_ECLOSED};
    const int given[] = {SCISSOR_ERESTARTED, SCISSOR_ERESTARTED, SCISSOR_ERESTARTED, SCISSOR_ERESTARTED,
                         SCISSOR_ECLOSED};
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        struct scissor_client *client = patient_client();
        struct scissor_session *session = used(client);
        refusal = refusals[i];
        fake_set_hook(&client_fake, refuse_reattach);
        fake_hang_up(&client_fake);
        assert_each_call_gives(session, given[i]);
        fake_set_hook(&client_fake, NULL);
        assert_int_equal(scissor_close(opened(client)), 0);
        assert_int_equal(scissor_close(session), given[i] == SCISSOR_ECLOSED ? SCISSOR_ECLOSED : 0);
        scissor_disconnect(client);
    }
}

/* ---------- a daemon that is wrong ---------- */

static int wrong_way;

static enum fake_verdict wrong_reattach(struct fake *f, uint16_t type, struct fake_packet *p) {
    (void)f;
    switch (wrong_way) {
    case 0:
        EDIT(PROTO_REATTACHED, proto_reattached, session, b.session + 1) break;
    case 1:
        EDIT(PROTO_REATTACHED, proto_reattached, segments, b.segments + 1) break;
    case 2:
        EDIT(PROTO_REATTACHED, proto_reattached, segments, b.segments - 1) break;
    case 3:
        EDIT(PROTO_REATTACHED, proto_reattached, generation, b.generation - 1) break;
    case 4:
        EDIT(PROTO_REATTACHED, proto_reattached, tokens_seen, b.tokens_seen + 5) break; /* no settle was under way */
    case 5:
        EDIT(PROTO_REATTACHED, proto_reattached, tokens_seen, 0) break;
    case 6:
        EDIT(PROTO_REATTACHED, proto_reattached, tokens_seen, UINT64_MAX) break;
    case 7:
        EDIT(PROTO_REATTACHED, proto_reattached, scores_lost, 2) break;
    case 8:
        if (type == PROTO_GROW)
            client_drop_fd(p);
        break;
    case 9:
        if (type == PROTO_GROW)
            return FAKE_DROP;
        break;
    case 10:
        EDIT(PROTO_GROW, proto_grow, session, b.session + 1) break;
    case 11:
        EDIT_SEGMENT(id, 1) break; /* twice */
    case 12:
        EDIT_SEGMENT(id, 2) break; /* the fresh one is missing */
    case 13:
        EDIT_SEGMENT(kind, 7) break;
    case 14:
        EDIT_SEGMENT(id, UINT32_MAX) break;
    case 15:
        EDIT_SEGMENT(bytes, 4096) break;
    case 16:
        EDIT_HEADER(PROTO_REATTACHED, type, PROTO_SETTLED) break;
    case 17:
        EDIT_HEADER(PROTO_WELCOME, type, PROTO_CLOSED) break;
    case 18:
        EDIT(PROTO_WELCOME, proto_welcome, score_socket, PROTO_SCORE_SOCKETS) break;
    case 19:
        if (type == PROTO_GROW && p->fd_count > 1) { /* the fresh segment is another file */
            int other = dup(p->fds[1]);
            close(p->fds[0]);
            p->fds[0] = other;
        }
        break;
    }
    return FAKE_SEND;
}
#define REATTACH_FAULTS 20

static void reattached_is_checked(void **state) {
    (void)state;
    FAKE_SET(&client_fake, keep, true);
    for (wrong_way = 0; wrong_way < REATTACH_FAULTS; wrong_way++) {
        struct scissor_client *client = patient_client();
        struct scissor_session *session = used(client);
        fake_set_hook(&client_fake, wrong_reattach);
        fake_hang_up(&client_fake);
        int r = scissor_step_begin(session, 1);
        if (r != SCISSOR_EPROTO)
            fail_msg("fault %d: %s", wrong_way, scissor_errname(r));
        assert_each_call_gives(session, SCISSOR_EPROTO);
        fake_set_hook(&client_fake, NULL);
        scissor_close(session);
        scissor_disconnect(client);
    }
}

/* With a settle under way, the count of tokens must be that of before or of after. */
static enum fake_verdict between_the_two(struct fake *f, uint16_t type, struct fake_packet *p) {
    (void)f;
    EDIT(PROTO_REATTACHED, proto_reattached, tokens_seen, b.tokens_seen + 1)
    return FAKE_SEND;
}

static void nonsense_about_a_settle(void **state) {
    (void)state;
    FAKE_SET(&client_fake, keep, true);
    struct scissor_client *client = patient_client();
    struct scissor_session *session = used(client), *other = used(client);
    pthread_mutex_lock(&client_fake.lock);
    client_fake.die_before = PROTO_SETTLE;
    client_fake.hook = between_the_two;
    pthread_mutex_unlock(&client_fake.lock);
    assert_int_equal(scissor_settle(session), SCISSOR_EPROTO);
    assert_int_equal(scissor_step_begin(other, 1), SCISSOR_EPROTO);
    fake_set_hook(&client_fake, NULL);
    struct scissor_session *third = used(client); /* it is about those sessions only */
    assert_int_equal(scissor_close(third), 0);
    assert_int_equal(scissor_close(session), 0);
    scissor_disconnect(client);
}

/* It has fewer segments than before: right after a shrink; and wrong if the control page still speaks of them. */
static void segment_is_not_named(void **state) {
    (void)state;
    FAKE_SET(&client_fake, keep, true);
    for (int way = 0; way < 4; way++) {
        bool shrunk = way & 1, step = way & 2;
        struct scissor_client *client = patient_client();
        struct scissor_session *session = used(client);
        struct scissor_session_info info;
        struct fake_session *s = fake_session_at(&client_fake, 0);
        if (shrunk)
            fake_cut(&client_fake, s, 0);
        if (step)
            assert_int_equal(scissor_step_begin(session, 1), 0);
        pthread_mutex_lock(&client_fake.lock);
        struct kernel_segment *hidden = s->segments[1];
        s->segments[1] = NULL;
        pthread_mutex_unlock(&client_fake.lock);
        fake_hang_up(&client_fake);
        if (step) {
            struct scissor_session *other = opened(client); /* recovers */
            assert_int_equal(scissor_close(other), 0);
            scissor_session_info(session, &info);
            assert_int_equal(info.segments_bytes, 2 * SCISSOR_SEGMENT_BYTES);
            assert_int_equal(scissor_step_end(session), 0);
        }
        int r = scissor_step_begin(session, 1);
        assert_int_equal(r, shrunk ? 0 : SCISSOR_EPROTO);
        scissor_session_info(session, &info);
        assert_int_equal(info.segments_bytes, SCISSOR_SEGMENT_BYTES);
        assert_int_equal(scissor_settled_count(session, 0, 0), shrunk ? 0 : 16);
        scissor_close(session);
        scissor_disconnect(client);
        client_fake.backend->segment_free(client_fake.backend, hidden);
    }
}

/* A request that kills each daemon: the call ends before its time-out. */
static enum fake_verdict die_at_opened(struct fake *f, uint16_t type, struct fake_packet *p) {
    (void)f, (void)p;
    return type == PROTO_OPENED ? FAKE_DIE : FAKE_SEND;
}

static void deadly_request_ends(void **state) {
    (void)state;
    FAKE_SET(&client_fake, keep, true);
    struct scissor_client *client = patient_client();
    struct scissor_session *session = used(client), *none = NULL;
    struct scissor_session_spec spec = client_spec();
    scissor_set_timeout(client, 120000);
    fake_set_hook(&client_fake, die_at_opened);
    assert_int_equal(scissor_open(client, &spec, &none), SCISSOR_EGONE);
    assert_null(none);
    assert_in_range(FAKE_GET(&client_fake, received[PROTO_OPEN]), 4, 20);
    fake_set_hook(&client_fake, NULL);
    assert_int_equal(scissor_settle(session), 0);
    assert_int_equal(scissor_close(session), 0);
    scissor_disconnect(client);
}

/* ---------- noise ---------- */

static uint64_t noise_state;
static uint32_t noise(void) {
    noise_state = noise_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(noise_state >> 33);
}

static enum fake_verdict scribble(struct fake *f, uint16_t type, struct fake_packet *p) {
    (void)f;
    if (type == PROTO_WELCOME || noise() % 3)
        return noise() % 12 ? FAKE_SEND : FAKE_DIE;
    if (noise() % 10 == 0)
        return FAKE_DROP;
    if (noise() % 10 == 0)
        client_drop_fd(p);
    for (uint32_t edits = noise() % 3; edits > 0 && p->size > 0; edits--)
        p->bytes[noise() % p->size] = (char)noise();
    return FAKE_SEND;
}

static void noise_does_not_crash(void **state) {
    (void)state;
    FAKE_SET(&client_fake, keep, true);
    for (uint32_t seed = 1; seed <= 200; seed++) {
        struct scissor_client *client = patient_client();
        struct scissor_session *session = used(client);
        scissor_set_timeout(client, 20);
        noise_state = seed;
        fake_set_hook(&client_fake, scribble);
        fake_hang_up(&client_fake);
        for (int i = 0; i < 6; i++) {
            attention_step(&client_model, session, 4, 0, NULL);
            scissor_settle(session);
        }
        fake_set_hook(&client_fake, NULL);
        scissor_close(session);
        scissor_disconnect(client);
    }
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, client_set_up, client_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(nobody_comes_back),    TEST(somebody_comes_back_late), TEST(time_out_is_not_the_end),
        TEST(session_is_not_there), TEST(last_text_says_so),        TEST(restarted_twice),
        TEST(refusals_of_reattach), TEST(reattached_is_checked),    TEST(nonsense_about_a_settle),
        TEST(segment_is_not_named), TEST(deadly_request_ends),      TEST(noise_does_not_crash),
    };
    return cmocka_run_group_tests_name("client reattach", tests, NULL, NULL);
}
