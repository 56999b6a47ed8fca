/* test_client_faults.c - what libscissor says to a daemon that is not there or sends and writes what it must not, and
 * to arguments out of range. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc.h"
#include "client_set_up.h"

/* ---------- connecting ---------- */

static void nobody_there(void **state) {
    (void)state;
    struct scissor_client *client = NULL;
    char path[160];
    assert_int_equal(scissor_connect("/nowhere/at/all", &client), SCISSOR_ENODAEMON);
    assert_non_null(strstr(scissor_last_text(NULL), "/nowhere/at/all"));
    memset(path, 'x', sizeof path);
    path[sizeof path - 1] = 0;
    assert_int_equal(scissor_connect(path, &client), SCISSOR_EINVAL);
    path[100] = 0;
    assert_int_equal(scissor_connect(path, &client), SCISSOR_EINVAL);
    setenv("SCISSORD_DIR", "/nowhere/else", 1);
    assert_int_equal(scissor_connect(NULL, &client), SCISSOR_ENODAEMON);
    assert_non_null(strstr(scissor_last_text(NULL), "/nowhere/else"));
    setenv("SCISSORD_DIR", client_fake.dir, 1);
    assert_int_equal(scissor_connect(NULL, &client), 0);
    unsetenv("SCISSORD_DIR");
    assert_string_equal(scissor_last_text(client), "");
    scissor_disconnect(client);
    scissor_disconnect(NULL);
    assert_int_equal(scissor_close(NULL), 0);
}

/* A library without kernels must not be given memory of a GPU. */
static void hello_says_what_it_can(void **state) {
    (void)state;
    scissor_disconnect(client_connected());
    assert_int_equal(FAKE_GET(&client_fake, capabilities),
                     PROTO_CAP_HOST | PROTO_CAP_KEEP | (kernel_backend_has_cuda() ? PROTO_CAP_CUDA : 0));
}

static struct proto_welcome wrong_welcome;
static enum fake_verdict replace_welcome(struct fake *f, uint16_t type, struct fake_packet *p) {
    (void)f;
    if (type == PROTO_WELCOME)
        memcpy(p->bytes + sizeof(struct proto_header), &wrong_welcome, sizeof wrong_welcome);
    return FAKE_SEND;
}

static enum fake_verdict refuse_version(struct fake *f, uint16_t type, struct fake_packet *p) {
    struct proto_header h;
    struct proto_failed failed = {.code = SCISSOR_EVERSION, .text = "daemon 7.0, client 1.0"};
    (void)f;
    if (type == PROTO_WELCOME) {
        memcpy(&h, p->bytes, sizeof h);
        p->size = proto_attach_write(p->bytes, sizeof p->bytes, PROTO_FAILED, h.request, &failed, NULL, 0);
    }
    return FAKE_SEND;
}

static void welcome_is_checked(void **state) {
    (void)state;
    struct scissor_client *client = NULL;
    const struct proto_welcome good = {
        .major = 1, .capabilities = PROTO_CAP_HOST, .pool_count = 1, .score_frame_max = PROTO_SCORE_MAX};
    struct proto_welcome w[6] = {good, good, good, good, good, good};
    const int codes[6] = {SCISSOR_EVERSION, SCISSOR_EPROTO, SCISSOR_EPROTO,
                          SCISSOR_EPROTO,   SCISSOR_EPROTO, SCISSOR_EPROTO};
    w[0].major = 2;
    w[1].capabilities = PROTO_CAP_CUDA;
    w[2].score_frame_max = 100;
    w[3].score_frame_max = PROTO_SCORE_MAX + 1;
    memset(w[4].version, 'x', sizeof w[4].version);
    w[5].score_socket = PROTO_SCORE_SOCKETS;
    for (int i = 0; i < 6; i++) {
        wrong_welcome = w[i];
        fake_set_hook(&client_fake, replace_welcome);
        assert_int_equal(scissor_connect(client_fake.dir, &client), codes[i]);
        assert_null(client);
    }
    assert_int_equal(alloc_live(), 0);
    fake_set_hook(&client_fake, refuse_version);
    assert_int_equal(scissor_connect(client_fake.dir, &client), SCISSOR_EVERSION);
    assert_string_equal(scissor_last_text(NULL), "daemon 7.0, client 1.0");
    fake_set_hook(&client_fake, NULL);
    FAKE_SET(&client_fake, hang_up_after, 0);
    assert_int_equal(scissor_connect(client_fake.dir, &client), SCISSOR_EGONE);
}

/* ---------- arguments ---------- */

static void spec_is_checked(void **state) {
    (void)state;
    struct scissor_client *client = client_connected();
    struct scissor_session *session = NULL;
#define BAD(change, word)                                                        \
    {                                                                            \
        struct scissor_session_spec spec = client_spec();                        \
        change;                                                                  \
        assert_int_equal(scissor_open(client, &spec, &session), SCISSOR_EINVAL); \
        assert_non_null(strstr(scissor_last_text(client), word));                \
    }
    BAD(spec.group_count = 0, "group_count")
    BAD(spec.group_count = 9, "group_count")
    BAD(spec.compute_dtype = 3, "compute_dtype")
    BAD(spec.storage_dtype = 9, "storage_dtype")
    BAD(spec.fresh_rows = 17, "fresh_rows")
    BAD(spec.fresh_rows = 2048, "fresh_rows")
    BAD(spec.wait_ms = 600001, "wait_ms")
    BAD(spec.priority = 1001, "priority")
    BAD(memset(spec.name, 'x', sizeof spec.name), "name")
    BAD(spec.groups[0].layers = 0, "layers")
    BAD(spec.groups[0].layers = UINT32_MAX, "layers")
    BAD(spec.groups[0].kv_heads = 0, "kv_heads")
    BAD(spec.groups[0].kv_heads = UINT32_MAX, "kv_heads")
    BAD(spec.groups[0].q_heads = 3, "q_heads")
    BAD(spec.groups[0].q_heads = 0, "q_heads")
    BAD(spec.groups[0].head_dim = 8, "head_dim")
    BAD(spec.groups[0].head_dim = 272, "head_dim")
    BAD(spec.groups[0].guaranteed_rows = 31, "guaranteed_rows")
    BAD(spec.groups[0].guaranteed_rows = UINT32_MAX, "guaranteed_rows")
    BAD(spec.groups[0].max_rows = 159, "max_rows")
    BAD(spec.groups[0].max_rows = UINT32_MAX, "max_rows")
    BAD(memset(spec.groups[0].policy, 'x', 16), "policy")
    BAD(memset(spec.groups[0].params[7].name, 'x', 12), "params[7]")
    BAD((spec.groups[0].params[0] = (struct scissor_param){"w", __builtin_inf()}), "w is not")
    BAD((spec.groups[0].layers = 1024, spec.groups[0].kv_heads = 16384, spec.groups[0].q_heads = 16384),
        "heads together")
#undef BAD
    assert_int_equal(FAKE_GET(&client_fake, received[PROTO_OPEN]), 0);
    scissor_disconnect(client);
}

static void refusals_are_passed_on(void **state) {
    (void)state;
    struct scissor_session_spec spec = client_spec();
    struct scissor_session *session = NULL;
    const int passed[] = {SCISSOR_BUSY,   SCISSOR_FULL,  SCISSOR_DRAINING, SCISSOR_EINVAL,
                          SCISSOR_ENOMEM, SCISSOR_EPERM, SCISSOR_ELIMIT};
    const int wrong[] = {SCISSOR_SETTLE_NEEDED, SCISSOR_SCORES_LOST, 77, -77};
    struct scissor_client *client = client_connected();
    for (size_t i = 0; i < sizeof passed / sizeof *passed; i++) {
        FAKE_SET(&client_fake, refuse_open, passed[i]);
        assert_int_equal(scissor_open(client, &spec, &session), passed[i]);
        assert_string_equal(scissor_last_text(client), "not today");
    }
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        FAKE_SET(&client_fake, refuse_open, wrong[i]);
        assert_int_equal(scissor_open(client, &spec, &session), SCISSOR_EPROTO);
        assert_int_equal(scissor_open(client, &spec, &session), SCISSOR_EPROTO); /* and it stays so */
        scissor_disconnect(client);
        client = client_connected();
    }
    scissor_disconnect(client);
}

/* ---------- a daemon that is wrong ---------- */

static int wrong_way;

#define OPEN_FAULTS 24
static enum fake_verdict wrong_open(struct fake *f, uint16_t type, struct fake_packet *p) {
    (void)f;
    switch (wrong_way) {
    case 0:
        EDIT(PROTO_OPENED, proto_opened, session, 0) break;
    case 1:
        EDIT(PROTO_OPENED, proto_opened, session, 999) break;
    case 2:
        EDIT(PROTO_OPENED, proto_opened, fresh_rows, 32) break;
    case 3:
        EDIT(PROTO_OPENED, proto_opened, fresh_segments, 2) break;
    case 4:
        EDIT(PROTO_OPENED, proto_opened, fresh_segments, UINT32_MAX) break;
    case 5:
        EDIT(PROTO_OPENED, proto_opened, control_bytes, 1 << 20) break;
    case 6:
        EDIT(PROTO_OPENED, proto_opened, control_bytes, 64) break;
    case 7:
        EDIT(PROTO_OPENED, proto_opened, lease_bytes, 0) break;
    case 8:
        EDIT(PROTO_OPENED, proto_opened, groups[0].planes, 8) break;
    case 9:
        EDIT(PROTO_OPENED, proto_opened, groups[0].threshold, 2) break;
    case 10:
        if (type == PROTO_OPENED)
            client_drop_fd(p);
        break;
    case 11:
        if (type == PROTO_GROW)
            client_drop_fd(p);
        break;
    case 12:
        if (type == PROTO_GROW)
            return FAKE_DROP;
        break;
    case 13:
        EDIT_SEGMENT(id, 1) break;
    case 14:
        EDIT_SEGMENT(id, UINT32_MAX) break;
    case 15:
        EDIT_SEGMENT(kind, 0) break;
    case 16:
        EDIT_SEGMENT(kind, 7) break;
    case 17:
        EDIT_SEGMENT(bytes, 4096) break;
    case 18:
        EDIT(PROTO_GROW, proto_grow, session, 0) break;
    case 19:
        EDIT_HEADER(PROTO_OPENED, magic, 1) break;
    case 20:
        EDIT_HEADER(PROTO_OPENED, type, 99) break;
    case 21:
        EDIT_HEADER(PROTO_OPENED, type, PROTO_HELLO) break;
    case 22:
        EDIT_HEADER(PROTO_GROW, count, 2) break;
    case 23:
        if (type == PROTO_OPENED)
            p->size -= 8;
        break;
    }
    return FAKE_SEND;
}

static void opened_is_checked(void **state) {
    (void)state;
    struct scissor_session_spec spec = client_spec();
    struct scissor_session *session = NULL;
    for (wrong_way = 0; wrong_way < OPEN_FAULTS; wrong_way++) {
        struct scissor_client *client = client_connected();
        fake_set_hook(&client_fake, wrong_open);
        int r = scissor_open(client, &spec, &session);
        if (r != SCISSOR_EPROTO)
            fail_msg("fault %d: %s", wrong_way, scissor_errname(r));
        assert_null(session);
        fake_set_hook(&client_fake, NULL);
        scissor_disconnect(client);
    }
}

#define SETTLE_FAULTS 12
static enum fake_verdict wrong_settle(struct fake *f, uint16_t type, struct fake_packet *p) {
    struct fake_session *s = fake_session_at(f, 0);
    uint32_t *words = type == PROTO_SETTLED ? fake_head_words(s, 3) : NULL;
    if (words)
        switch (wrong_way) {
        case 0:
            words[0] = 145;
            break; /* above the budget */
        case 1:
            words[0] = UINT32_MAX;
            break;
        case 2:
            words[1] = 4;
            break; /* more pages than fit */
        case 3:
            words[1] = UINT32_MAX;
            break;
        case 4:
            words[1] = 0;
            break; /* fewer than the rows need */
        case 5:
            words[2] = PROTO_PAGE(0, 0);
            break; /* a fresh segment */
        case 6:
            words[2] = PROTO_PAGE(2, 0);
            break; /* no such segment */
        case 7:
            words[2] = UINT32_MAX;
            break;
        case 8:
            words[2] = PROTO_PAGE(1, 1023);
            break;
        }
    switch (wrong_way) {
    case 9:
        EDIT(PROTO_SETTLED, proto_settled, scores_lost, 2) break;
    case 10:
        EDIT_HEADER(PROTO_SETTLED, request, 0) break;
    case 11:
        EDIT_HEADER(PROTO_GROW, request, 0) break;
    }
    return FAKE_SEND;
}

static void settled_is_checked(void **state) {
    (void)state;
    struct scissor_session_spec spec = client_spec();
    for (wrong_way = 0; wrong_way < SETTLE_FAULTS; wrong_way++) {
        struct scissor_session *session = NULL;
        struct scissor_client *client = client_connected();
        assert_int_equal(scissor_open(client, &spec, &session), 0);
        assert_int_equal(attention_step(&client_model, session, 16, 0, NULL), 0);
        fake_set_hook(&client_fake, wrong_settle);
        int r = scissor_settle(session);
        if (r == 0)
            r = scissor_step_begin(session, 1);
        if (r != SCISSOR_EPROTO)
            fail_msg("fault %d: %s", wrong_way, scissor_errname(r));
        assert_int_equal(scissor_step_begin(session, 1), SCISSOR_EPROTO);
        fake_set_hook(&client_fake, NULL);
        scissor_close(session);
        scissor_disconnect(client);
    }
}

static enum fake_verdict refuse_positions(struct fake *fake, uint16_t type, struct fake_packet *p) {
    struct proto_header header;
    (void)fake;
    memcpy(&header, p->bytes, sizeof header);
    if (type == PROTO_POSITIONS_ARE) {
        struct proto_failed failed = {.code = SCISSOR_ECLOSED};
        p->size = proto_attach_write(p->bytes, sizeof p->bytes, PROTO_FAILED, header.request, &failed, NULL, 0);
    }
    return FAKE_SEND;
}

/* The refusal comes before the news: the daemon may be about to take the memory away. */
static void positions_of_what_is_being_closed(void **state) {
    struct scissor_session_spec spec = client_spec();
    struct scissor_session *session = NULL;
    struct scissor_client *client = client_connected();
    uint32_t position, count;
    (void)state;
    assert_int_equal(scissor_open(client, &spec, &session), 0);
    assert_int_equal(scissor_step_begin(session, 1), 0);
    fake_set_hook(&client_fake, refuse_positions);
    assert_int_equal(scissor_positions(session, 0, 0, &position, 1, &count), SCISSOR_ECLOSED);
    assert_int_equal(scissor_step_end(session), 0);
    assert_int_equal(scissor_step_begin(session, 1), SCISSOR_ECLOSED);
    scissor_close(session);
    scissor_disconnect(client);
}

/* No step begins while the daemon waits to close the session. */
static void no_step_in_a_closing_session(void **state) {
    struct scissor_session_spec spec = client_spec();
    struct scissor_session *session = NULL;
    struct scissor_client *client = client_connected();
    (void)state;
    assert_int_equal(scissor_open(client, &spec, &session), 0);
    assert_int_equal(attention_step(&client_model, session, 1, 0, NULL), 0);
    struct fake_session *at = fake_session_at(&client_fake, 0);
    struct proto_closed closed = {.session = at->id, .code = SCISSOR_ECLOSED};
    at->lease->closing = 1;
    scissor_set_timeout(client, 20);
    assert_int_equal(scissor_step_begin(session, 1), SCISSOR_ETIMEDOUT);
    assert_int_equal(scissor_settle(session), SCISSOR_ETIMEDOUT);
    assert_int_equal(at->lease->word, PROTO_LEASE_FREE);
    fake_send(&client_fake, PROTO_CLOSED, 0, &closed, NULL, 0);
    assert_int_equal(scissor_step_begin(session, 1), SCISSOR_ECLOSED);
    assert_int_equal(scissor_close(session), SCISSOR_ECLOSED);
    scissor_disconnect(client);
}

static void unasked_is_checked(void **state) {
    (void)state;
    struct scissor_session_spec spec = client_spec();
    for (int way = 0; way < 9; way++) {
        struct scissor_session *session = NULL;
        struct scissor_client *client = client_connected();
        assert_int_equal(scissor_open(client, &spec, &session), 0);
        struct proto_shrink shrink = {.session = scissor_session_id(session)};
        struct proto_segment_id ids[3] = {{0}, {5}, {UINT32_MAX}};
        struct proto_closed closed = {.session = shrink.session, .code = 3};
        struct proto_failed failed = {.code = 1};
        struct proto_welcome welcome = {.major = 1};
        struct proto_settled settled = {.session = shrink.session};
        memset(failed.text, 'x', sizeof failed.text);
        if (way < 3)
            fake_send(&client_fake, PROTO_SHRINK, 0, &shrink, &ids[way], 1);
        else if (way == 3)
            fake_send(&client_fake, PROTO_CLOSED, 0, &closed, NULL, 0);
        else if (way == 4)
            fake_send(&client_fake, PROTO_FAILED, 0, &failed, NULL, 0);
        else if (way == 5)
            fake_send(&client_fake, PROTO_WELCOME, 1, &welcome, NULL, 0);
        else if (way == 6)
            fake_send(&client_fake, PROTO_SETTLED, 4, &settled, NULL, 0);
        else
            fake_send_raw(&client_fake, "nonsense, and not short of a header", way == 7 ? 35 : 3);
        assert_int_equal(scissor_step_begin(session, 1), SCISSOR_EPROTO);
        assert_int_equal(scissor_settle(session), 0); /* nothing fresh */
        scissor_close(session);
        scissor_disconnect(client);
    }
    /* Things that nobody waits for any more are not wrong. */
    struct scissor_session *session = NULL;
    struct scissor_client *client = client_connected();
    assert_int_equal(scissor_open(client, &spec, &session), 0);
    struct proto_shrink shrink = {.session = 4711};
    struct proto_settled settled = {.session = 4711};
    struct proto_failed failed = {.code = SCISSOR_ENOSESSION, .text = "late"};
    fake_send(&client_fake, PROTO_SHRINK, 0, &shrink, NULL, 0);
    fake_send(&client_fake, PROTO_SETTLED, 4711, &settled, NULL, 0);
    fake_send(&client_fake, PROTO_FAILED, 4711, &failed, NULL, 0);
    assert_int_equal(attention_step(&client_model, session, 1, 0, NULL), 0);
    assert_int_equal(scissor_close(session), 0);
    scissor_disconnect(client);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, client_set_up, client_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(nobody_there),
        TEST(hello_says_what_it_can),
        TEST(welcome_is_checked),
        TEST(spec_is_checked),
        TEST(refusals_are_passed_on),
        TEST(opened_is_checked),
        TEST(settled_is_checked),
        TEST(unasked_is_checked),
        TEST(positions_of_what_is_being_closed),
        TEST(no_step_in_a_closing_session),
    };
    return cmocka_run_group_tests_name("client faults", tests, NULL, NULL);
}
