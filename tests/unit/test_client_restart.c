/* test_client_restart.c - libscissor when the daemon dies at any point and is there again with its sessions: nothing
 * may differ from a life without it, neither a value that attention gives nor a score that the daemon gets. Daemons
 * that come back otherwise, or not at all, are in test_client_reattach.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc.h"
#include "client_set_up.h"
#include "internal.h"

static int set_up(void **state) {
    int r = client_set_up(state);
    FAKE_SET(&client_fake, drain, false);
    FAKE_SET(&client_fake, fold, true);
    FAKE_SET(&client_fake, keep, true);
    return r;
}

static struct scissor_client *patient_client(void) {
    struct scissor_client *client = client_connected();
    client_be_patient(client);
    return client;
}

/* Whether a death was still to come: the fake forgets it when it dies. */
static bool death_was_left(void) {
    pthread_mutex_lock(&client_fake.lock);
    bool left = client_fake.die_before != 0;
    pthread_mutex_unlock(&client_fake.lock);
    return left;
}

/* ---------- a life ---------- */

struct life {
    uint64_t digest; /* of all values that attention gave, and of the positions at the end */
    uint64_t tokens, evicted, settles, scores_lost;
};

static void add_bytes(uint64_t *digest, const void *bytes, size_t count) {
    for (const unsigned char *p = bytes; count > 0; count--, p++)
        *digest = (*digest ^ *p) * 1099511628211u;
}

/* A session of 16 settles, beyond its budget; the first code that is not 0. */
static int live(struct scissor_client *client, uint32_t seed, struct life *ret) {
    struct scissor_session_spec spec = client_spec();
    struct attention_model mine = client_model;
    struct scissor_session *session = NULL;
    struct life life = {0};
    struct scissor_session_info info;
    uint32_t positions[160] = {0}, count;
    float out[16 * 2 * 16];
    mine.seed = seed;
    int r = scissor_open(client, &spec, &session);
    uint64_t id = r ? 0 : scissor_session_id(session);
    for (uint32_t i = 0; i < 32 && !r; i++) {
        uint32_t rows = i % 2 ? 5 : 11;
        r = attention_step(&mine, session, rows, i % 2, out);
        add_bytes(&life.digest, out, rows * 2 * 16 * sizeof *out);
        if (!r && i % 2)
            r = scissor_settle(session);
    }
    if (!r)
        r = scissor_positions(session, 0, 1, positions, 160, &count);
    if (!r) {
        scissor_session_info(session, &info);
        life.tokens = info.tokens_seen;
        life.evicted = info.evicted_rows;
        life.settles = info.settles;
        life.scores_lost = info.scores_lost;
        add_bytes(&life.digest, positions, sizeof positions);
        r = scissor_session_id(session) == id ? 0 : SCISSOR_ENOSESSION;
    }
    int closed = scissor_close(session);
    *ret = life;
    return r ? r : closed;
}

static struct life undisturbed(uint32_t seed) {
    struct life life;
    struct scissor_client *client = patient_client();
    assert_int_equal(live(client, seed, &life), 0);
    assert_int_equal(life.tokens, 256);
    assert_int_equal(life.settles, 16);
    assert_int_equal(life.evicted, (256 - 144) * 4);
    assert_int_equal(life.scores_lost, 0);
    scissor_disconnect(client);
    return life;
}

/* ---------- at each message ---------- */

/* Deaths in order: at the `skip`-th packet of a type that the fake sends, counted from the death before. */
struct death {
    uint16_t type;
    uint32_t skip;
};
static struct death deaths[4];
static uint32_t deaths_left;

static enum fake_verdict die_at(struct fake *f, uint16_t type, struct fake_packet *p) {
    (void)f, (void)p;
    struct death *next = &deaths[0];
    if (deaths_left == 0 || type != next->type || next->skip-- > 0)
        return FAKE_SEND;
    memmove(deaths, deaths + 1, sizeof deaths - sizeof *deaths);
    deaths_left--;
    return FAKE_DIE;
}

static void dies_in_a_life(const struct life *expected, const struct death *plan, uint32_t count) {
    struct life life;
    struct scissor_client *client = patient_client();
    pthread_mutex_lock(&client_fake.lock);
    uint32_t before = client_fake.connections;
    memset(deaths, 0, sizeof deaths);
    memcpy(deaths, plan, count * sizeof *plan);
    deaths_left = count;
    client_fake.hook = die_at;
    pthread_mutex_unlock(&client_fake.lock);
    int r = live(client, 1, &life);
    fake_set_hook(&client_fake, NULL);
    if (r || memcmp(&life, expected, sizeof life) != 0 || FAKE_GET(&client_fake, score_faults) || deaths_left)
        fail_msg("death at message %u: %s, %u of the scores wrong, %u deaths left, lost %u", plan->type,
                 scissor_errname(r), FAKE_GET(&client_fake, score_faults), deaths_left, (unsigned)life.scores_lost);
    assert_int_equal(FAKE_GET(&client_fake, connections), before + count);
    scissor_disconnect(client);
}

static void dies_at_each_answer(void **state) {
    (void)state;
    struct life expected = undisturbed(1);
    const struct death plans[][4] = {
        {{PROTO_GROW, 0}},          /* in OPEN */
        {{PROTO_OPENED, 0}},        /* the same, but the session is there */
        {{PROTO_GROW, 1}},          /* in the first settle */
        {{PROTO_SETTLED, 0}},       /* the settle was done */
        {{PROTO_SETTLED, 14}},      /* also one that evicts */
        {{PROTO_POSITIONS_ARE, 0}}, /* in the middle of the pages, too */
        {{PROTO_POSITIONS_ARE, 1}},
        {{PROTO_CLOSED, 0}},
        {{PROTO_SETTLED, 3}, {PROTO_WELCOME, 0}}, /* and again while it is back */
        {{PROTO_SETTLED, 3}, {PROTO_GROW, 0}},
        {{PROTO_SETTLED, 3}, {PROTO_REATTACHED, 0}},
        {{PROTO_SETTLED, 3}, {PROTO_REATTACHED, 0}, {PROTO_SETTLED, 0}, {PROTO_SETTLED, 0}},
    };
    for (size_t i = 0; i < sizeof plans / sizeof *plans; i++) {
        uint32_t count = 0;
        while (count < 4 && plans[i][count].type)
            count++;
        dies_in_a_life(&expected, plans[i], count);
    }
}

static void dies_before_each_request(void **state) {
    (void)state;
    const uint16_t types[] = {PROTO_OPEN, PROTO_SETTLE, PROTO_POSITIONS, PROTO_CLOSE};
    struct life expected = undisturbed(1), life;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct scissor_client *client = patient_client();
        pthread_mutex_lock(&client_fake.lock);
        client_fake.die_before = types[i];
        pthread_mutex_unlock(&client_fake.lock);
        assert_int_equal(live(client, 1, &life), 0);
        assert_memory_equal(&life, &expected, sizeof life);
        assert_false(death_was_left());
        assert_int_equal(FAKE_GET(&client_fake, score_faults), 0);
        scissor_disconnect(client);
    }
}

/* So that the daemon can tell whom it had opened a session for. */
static void asks_for_the_same(void **state) {
    (void)state;
    struct scissor_client *client = patient_client();
    struct scissor_session_spec spec = client_spec();
    struct scissor_session *first, *second;
    pthread_mutex_lock(&client_fake.lock);
    deaths[0] = (struct death){PROTO_OPENED, 0};
    deaths_left = 1;
    client_fake.hook = die_at;
    pthread_mutex_unlock(&client_fake.lock);
    assert_int_equal(scissor_open(client, &spec, &first), 0);
    assert_int_equal(scissor_open(client, &spec, &second), 0);
    fake_set_hook(&client_fake, NULL);
    assert_int_equal(FAKE_GET(&client_fake, buried_count), 1);
    const struct proto_open *unheard = &client_fake.buried[0].shape;
    assert_true(unheard->attempt != 0);
    assert_memory_equal(unheard, &fake_session_at(&client_fake, 0)->shape, sizeof *unheard);
    assert_true(unheard->attempt != fake_session_at(&client_fake, 1)->shape.attempt);
    assert_int_equal(scissor_close(first), 0);
    assert_int_equal(scissor_close(second), 0);
    scissor_disconnect(client);
}

static enum fake_verdict die_behind_welcome(struct fake *f, uint16_t type, struct fake_packet *p) {
    (void)p;
    if (type == PROTO_WELCOME && deaths_left > 0) {
        deaths_left--;
        f->dying = true;
    }
    return FAKE_SEND;
}

/* Its last words may be read together with its end. Neither a new client nor one that comes back may take it for one
 * that is there; how close the two come differs from time to time. */
static void dies_behind_its_welcome(void **state) {
    (void)state;
    struct scissor_session_spec spec = client_spec();
    struct scissor_session *session;
    for (int i = 0; i < 200; i++) {
        FAKE_SET(&client_fake, hook, i % 2 ? die_behind_welcome : NULL);
        deaths_left = 1;
        struct scissor_client *client = client_connected();
        fake_set_hook(&client_fake, die_behind_welcome);
        if (i % 2 == 0)
            fake_hang_up(&client_fake);
        assert_int_equal(scissor_open(client, &spec, &session), 0);
        assert_int_equal(deaths_left, 0);
        assert_int_equal(scissor_close(session), 0);
        scissor_disconnect(client);
    }
    fake_set_hook(&client_fake, NULL);
}

/* As often as there are messages: the count of the first connection alone. */
static void dies_after_each_count(void **state) {
    (void)state;
    struct life expected = undisturbed(1), life;
    for (int messages = 1; messages < 24; messages++) {
        struct scissor_client *client = patient_client();
        pthread_mutex_lock(&client_fake.lock);
        client_fake.hang_up_after = messages;
        client_fake.score_socket = messages % 2 ? 2 : 0; /* the next one has another place for scores */
        pthread_mutex_unlock(&client_fake.lock);
        assert_int_equal(live(client, 1, &life), 0);
        assert_memory_equal(&life, &expected, sizeof life);
        assert_int_equal(FAKE_GET(&client_fake, score_faults), 0);
        scissor_disconnect(client);
        FAKE_SET(&client_fake, hang_up_after, -1);
    }
}

/* ---------- between and in steps ---------- */

static void between_steps(void **state) {
    (void)state;
    struct scissor_session_spec spec = client_spec();
    struct scissor_session *session = NULL;
    struct scissor_client *client = patient_client();
    float out[4 * 2 * 16];
    assert_int_equal(scissor_open(client, &spec, &session), 0);
    uint64_t id = scissor_session_id(session);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(attention_step(&client_model, session, 4, 1, out), 0);
        assert_true(attention_error(&client_model, session, 1, 4, out) < 1e-5);
        fake_hang_up(&client_fake);
        assert_int_equal(scissor_tokens_seen(session), (uint64_t)i * 4 + 4);
        if (scissor_fresh_room(session) == 0)
            assert_int_equal(scissor_settle(session), 0);
        assert_int_equal(scissor_session_id(session), id);
    }
    assert_int_equal(FAKE_GET(&client_fake, connections), 9);
    assert_int_equal(FAKE_GET(&client_fake, score_faults), 0);
    assert_int_equal(scissor_close(session), 0);
    scissor_disconnect(client);
}

/* A daemon is the session's again, but memory that it did not need is gone, and some is another file now. */
static void exchange_memory(struct fake_session *s) {
    struct kernel_segment *fresh_copy;
    pthread_mutex_lock(&client_fake.lock);
    struct kernel_backend *backend = client_fake.backend;
    assert_int_equal(backend->segment_new(backend, KERNEL_ACCESS_SETTLED, SCISSOR_SEGMENT_BYTES, &fresh_copy), 0);
    memcpy(backend->segment_address(fresh_copy), backend->segment_address(s->segments[1]), SCISSOR_SEGMENT_BYTES);
    assert_null(s->segments[FAKE_SEGMENTS - 1]);
    s->segments[FAKE_SEGMENTS - 1] = s->segments[1]; /* as long as the step may read it */
    s->segments[1] = fresh_copy;
    pthread_mutex_unlock(&client_fake.lock);
}

static enum fake_verdict hide_last_segment(struct fake *f, uint16_t type, struct fake_packet *p) {
    struct proto_header header;
    struct proto_grow grow;
    struct proto_segment entries[4];
    memcpy(&header, p->bytes, sizeof header);
    memcpy(&grow, p->bytes + sizeof header, sizeof grow);
    bool has = false;
    for (int i = 0; i < FAKE_SESSIONS; i++)
        has |= f->sessions[i].id == grow.session && f->sessions[i].segments[FAKE_SEGMENTS - 1];
    if ((type != PROTO_GROW && type != PROTO_REATTACHED) || !has)
        return FAKE_SEND;
    EDIT(PROTO_REATTACHED, proto_reattached, segments, b.segments - 1)
    if (type == PROTO_REATTACHED)
        return FAKE_SEND;
    memcpy(entries, p->bytes + sizeof header + sizeof grow, header.count * sizeof *entries);
    if (entries[header.count - 1].id != FAKE_SEGMENTS - 1)
        return FAKE_SEND;
    client_drop_fd(p);
    header.count--;
    p->size = proto_attach_write(p->bytes, sizeof p->bytes, PROTO_GROW, header.request, &grow, entries, header.count);
    return FAKE_SEND;
}

struct worker {
    struct scissor_session *session;
    struct attention_model model;
    int code;
};

static void *settle_once(void *data) {
    struct worker *w = data;
    w->code = attention_step(&w->model, w->session, 3, 0, NULL);
    if (!w->code)
        w->code = scissor_settle(w->session);
    return NULL;
}

/* Another thread has a step open; what it reads stays there until the step ends. */
static void while_a_step_is_open(void **state) {
    (void)state;
    struct scissor_session_spec spec = client_spec();
    struct scissor_client *client = patient_client();
    struct worker other = {.model = client_model};
    struct scissor_session *session = NULL;
    struct scissor_session_info info;
    float k[2 * 16], v[2 * 16], q[2 * 16], out[2 * 16], expected[16];
    uint32_t positions[16], count;
    assert_int_equal(scissor_open(client, &spec, &session), 0);
    assert_int_equal(scissor_open(client, &spec, &other.session), 0);
    for (int round = 0; round < 3; round++) {
        assert_int_equal(attention_step(&client_model, session, 16, 0, NULL), 0);
        assert_int_equal(scissor_settle(session), 0);
    }
    assert_int_equal(scissor_step_begin(session, 1), 0);
    exchange_memory(fake_session_at(&client_fake, 0));
    fake_set_hook(&client_fake, hide_last_segment);
    fake_hang_up(&client_fake);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, settle_once, &other), 0);
    pthread_join(thread, NULL);
    assert_int_equal(other.code, 0);
    for (uint32_t layer = 0; layer < 2; layer++) {
        attention_row(&client_model, ATTENTION_K, layer, 48, k);
        attention_row(&client_model, ATTENTION_V, layer, 48, v);
        attention_row(&client_model, ATTENTION_Q, layer, 48, q);
        assert_int_equal(scissor_append(session, layer, k, v, SCISSOR_F32), 0);
        struct scissor_attend_item item = {session, layer, client_model.scale, q, out};
        assert_int_equal(scissor_attend(&item, 1), 0);
    }
    assert_int_equal(scissor_step_end(session), 0);
    fake_set_hook(&client_fake, NULL);
    uint32_t all[48];
    for (uint32_t i = 0; i < 48; i++)
        all[i] = i;
    attention_expect(&client_model, 1, 1, 48, all, 48, 48, 1, expected, NULL);
    for (int c = 0; c < 16; c++)
        assert_true(out[16 + c] - expected[c] < 1e-5f && expected[c] - out[16 + c] < 1e-5f);
    scissor_session_info(session, &info);
    assert_int_equal(info.segments_bytes, 2 * SCISSOR_SEGMENT_BYTES);

    /* From the next step on the new file is read. */
    float rows[16 * 2 * 16];
    assert_int_equal(attention_step(&client_model, session, 15, 1, rows), 0);
    assert_true(attention_error(&client_model, session, 1, 15, rows) < 1e-5);
    assert_int_equal(scissor_settle(session), 0);
    assert_int_equal(scissor_positions(session, 0, 0, positions, 16, &count), 0);
    assert_int_equal(count, 64);
    assert_int_equal(FAKE_GET(&client_fake, score_faults), 0);
    assert_int_equal(scissor_close(session), 0);
    assert_int_equal(scissor_close(other.session), 0);
    scissor_disconnect(client);
}

/* ---------- settles that do not end well at once ---------- */

/* It timed out, then its daemon dies: before it read the request, or after it had done it. */
static void settle_that_timed_out(void **state) {
    (void)state;
    struct scissor_session_spec spec = client_spec();
    for (int done = 0; done < 2; done++) {
        struct scissor_session *session = NULL;
        struct scissor_client *client = patient_client();
        assert_int_equal(scissor_open(client, &spec, &session), 0);
        assert_int_equal(attention_step(&client_model, session, 7, 0, NULL), 0);
        scissor_set_timeout(client, 50);
        pthread_mutex_lock(&client_fake.lock);
        client_fake.deaf = true;
        pthread_mutex_unlock(&client_fake.lock);
        assert_int_equal(scissor_settle(session), SCISSOR_ETIMEDOUT);
        assert_int_equal(scissor_step_begin(session, 1), SCISSOR_ESTATE);
        scissor_set_timeout(client, 10000);
        if (done) {
            deaths[0] = (struct death){PROTO_SETTLED, 0};
            deaths_left = 1;
            fake_set_hook(&client_fake, die_at);
        } else {
            fake_hang_up(&client_fake);
        }
        pthread_mutex_lock(&client_fake.lock);
        client_fake.deaf = false;
        pthread_mutex_unlock(&client_fake.lock);
        assert_int_equal(scissor_settle(session), 0);
        fake_set_hook(&client_fake, NULL);
        assert_int_equal(scissor_tokens_seen(session), 7);
        assert_int_equal(scissor_fresh_count(session), 0);
        assert_int_equal(fake_session_at(&client_fake, 0)->settles, 1);
        assert_int_equal(attention_step(&client_model, session, 16, 0, NULL), 0);
        assert_int_equal(scissor_settle(session), 0);
        assert_int_equal(FAKE_GET(&client_fake, score_faults), 0);
        assert_int_equal(scissor_close(session), 0);
        scissor_disconnect(client);
    }
}

/* A settle that was refused leaves its scores with the daemon. They are sent once more to another one only; what was
 * added up after it goes on top, unless the first part died with its daemon, which is said. */
static void settle_that_was_refused(void **state) {
    (void)state;
    struct scissor_session_spec spec = client_spec();
    for (int way = 0; way < 4; way++) {
        bool dies = way & 1, step = way & 2;
        struct scissor_session *session = NULL;
        struct scissor_client *client = patient_client();
        assert_int_equal(scissor_open(client, &spec, &session), 0);
        assert_int_equal(attention_step(&client_model, session, 7, 0, NULL), 0);
        FAKE_SET(&client_fake, refuse_settle, SCISSOR_ENOMEM);
        assert_int_equal(scissor_settle(session), SCISSOR_ENOMEM);
        assert_int_equal(scissor_settle(session), SCISSOR_ENOMEM);
        assert_int_equal(scissor_fresh_count(session), 7);
        if (step)
            assert_int_equal(attention_step(&client_model, session, 5, 0, NULL), 0);
        FAKE_SET(&client_fake, refuse_settle, 0);
        if (dies)
            fake_hang_up(&client_fake);
        assert_int_equal(scissor_settle(session), dies && step ? SCISSOR_SCORES_LOST : 0);
        assert_int_equal(FAKE_GET(&client_fake, score_faults), dies && step ? 2 : 0); /* one for each layer */
        FAKE_SET(&client_fake, score_faults, 0);
        assert_int_equal(attention_step(&client_model, session, 16, 0, NULL), 0);
        assert_int_equal(scissor_settle(session), 0);
        assert_int_equal(FAKE_GET(&client_fake, score_faults), 0);
        assert_int_equal(scissor_close(session), 0);
        scissor_disconnect(client);
    }
}

/* ---------- no memory, many threads ---------- */

static void allocation_fails_in_recovery(void **state) {
    (void)state;
    struct scissor_session_spec spec = client_spec();
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        int r = SCISSOR_ENOMEM;
        for (size_t k = 0; k < 50 && r; k++) {
            struct scissor_session *session = NULL, *second = NULL;
            struct scissor_client *client = patient_client();
            assert_int_equal(scissor_open(client, &spec, &session), 0);
            assert_int_equal(attention_step(&client_model, session, 16, 0, NULL), 0);
            pthread_mutex_lock(&client_fake.lock);
            client_fake.die_before = PROTO_SETTLE;
            pthread_mutex_unlock(&client_fake.lock);
            alloc_fail_after(k, for_ever ? SIZE_MAX : 1);
            r = scissor_settle(session);
            int opened = scissor_open(client, &spec, &second);
            alloc_fail_never();
            assert_int_equal(r, 0); /* it needs none */
            assert_true(opened == 0 || opened == SCISSOR_ENOMEM);
            r = opened;
            assert_int_equal(attention_step(&client_model, session, 16, 0, NULL), 0);
            assert_int_equal(scissor_settle(session), 0);
            assert_int_equal(scissor_tokens_seen(session), 32);
            assert_int_equal(scissor_close(session), 0);
            assert_int_equal(scissor_close(second), 0);
            scissor_disconnect(client);
        }
        assert_int_equal(r, 0);
    }
    assert_int_equal(FAKE_GET(&client_fake, score_faults), 0);
}

struct living {
    struct scissor_client *client;
    uint32_t seed;
    struct life life;
    int code;
    bool ended;
};

static void *live_in_thread(void *data) {
    struct living *l = data;
    for (int i = 0; i < 6 && !l->code; i++)
        l->code = live(l->client, l->seed, &l->life);
    __atomic_store_n(&l->ended, true, __ATOMIC_RELEASE);
    return NULL;
}

static void two_threads_many_deaths(void **state) {
    (void)state;
    struct life expected[2] = {undisturbed(7), undisturbed(8)};
    struct scissor_client *client = patient_client();
    struct living living[2] = {{.client = client, .seed = 7}, {.client = client, .seed = 8}};
    pthread_t threads[2];
    uint32_t hang_ups = 0;
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, live_in_thread, &living[i]), 0);
    while (!__atomic_load_n(&living[0].ended, __ATOMIC_ACQUIRE) ||
           !__atomic_load_n(&living[1].ended, __ATOMIC_ACQUIRE)) {
        usleep(15000 + hang_ups % 7 * 3000);
        if (hang_ups++ < 200)
            fake_hang_up(&client_fake);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        if (living[i].code)
            fail_msg("thread %d: %s", i, scissor_errname(living[i].code));
        assert_memory_equal(&living[i].life, &expected[i], sizeof expected[i]);
    }
    assert_int_equal(FAKE_GET(&client_fake, score_faults), 0);
    assert_true(FAKE_GET(&client_fake, connections) > 3);
    scissor_disconnect(client);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, client_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(dies_at_each_answer),     TEST(dies_before_each_request),
        TEST(dies_after_each_count),   TEST(asks_for_the_same),
        TEST(dies_behind_its_welcome), TEST(between_steps),
        TEST(while_a_step_is_open),    TEST(settle_that_timed_out),
        TEST(settle_that_was_refused), TEST(allocation_fails_in_recovery),
        TEST(two_threads_many_deaths),
    };
    return cmocka_run_group_tests_name("client restart", tests, NULL, NULL);
}
