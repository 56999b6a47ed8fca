/* test_client_device.c - libscissor's sessions on a device (tests/fake_device.h): device pointers and streams, what may
 * not go together, a device that fails or does not come to an end, daemons that send what cannot be right. That the
 * calls with host pointers do there what they do in host memory is shown by test_client.c. */
#include "test_client_device.h"

/* ---------- the ordinary way ---------- */

/* Two streams in turn, no wait but in settles; outputs are looked at now and then. */
static void streams_follow_each_other(void **state) {
    (void)state;
    struct kernel_backend *b = fake_device_client();
    struct scissor_session *s = opened();
    float *out;
    FAKE_SET(&client_fake, drain, false);
    FAKE_SET(&client_fake, fold, true);
    assert_string_equal(scissor_session_device(s), FAKE_DEVICE_NAME);
    for (uint32_t i = 0; i < 120; i++) {
        uint32_t rows = 1 + i % 5;
        void *stream = i % 7 == 0 ? NULL : STREAM(i % 3);
        if (scissor_fresh_room(s) < rows)
            assert_int_equal(i % 2 ? scissor_settle_device(s, STREAM(3)) : scissor_settle(s), 0);
        assert_int_equal(step_on(s, rows, stream, &out), 0);
        assert_true(fake_device_queued() > 0);
        if (i % 4)
            continue;
        b->streams->wait(b, stream);
        assert_true(attention_error(&client_model, s, 1, rows, fake_device_host(out)) < 1e-5);
    }
    assert_int_equal(scissor_settled_count(s, 0, 0), 144);
    assert_int_equal(FAKE_GET(&client_fake, score_faults), 0);
    assert_true(fake_session_at(&client_fake, 0)->settles > 15);
    close_well(s);
    b->streams->wait(b, NULL);
}

static void *two_streams_thread(void *data) {
    struct scissor_session_spec spec = client_spec();
    struct scissor_session *s = NULL;
    float *out;
    if (scissor_open(client, &spec, &s))
        return "open";
    for (uint32_t i = 0; i < 60; i++) {
        if (scissor_fresh_room(s) < 4 && scissor_settle_device(s, data))
            return "settle";
        if (step_on(s, 4, data, &out))
            return "step";
        if (i % 3)
            continue;
        fake_device_client()->streams->wait(fake_device_client(), data);
        if (attention_error(&client_model, s, 1, 4, fake_device_host(out)) > 1e-5)
            return "attention";
    }
    return scissor_close(s) ? "close" : NULL;
}

static void threads_have_their_streams(void **state) {
    (void)state;
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, two_streams_thread, STREAM(i)), 0);
    for (int i = 0; i < 3; i++) {
        void *what;
        pthread_join(threads[i], &what);
        if (what)
            fail_msg("thread %d: %s", i, (const char *)what);
    }
}

static void batches_are_one_call(void **state) {
    (void)state;
    struct scissor_session *s[2] = {opened(), opened()};
    struct scissor_attend_item items[2];
    struct kernel_backend *b = fake_device_client();
    float *out;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(step_on(s[i], 3, STREAM(i), &out), 0);
        assert_int_equal(scissor_step_begin(s[i], 1), 0);
        assert_int_equal(layer_on(s[i], 1, 0, STREAM(2), &out), 0);
        items[i] = (struct scissor_attend_item){s[i], 0, client_model.scale, vector_new(), vector_new()};
        attention_row(&client_model, ATTENTION_Q, 0, 3, fake_device_host(items[i].q));
    }
    assert_int_equal(scissor_attend_device(items, 2, STREAM(2)), 0);
    assert_int_equal(scissor_attend_device(items, 2, STREAM(1)), SCISSOR_EINVAL);
    for (int i = 0; i < 2; i++)
        assert_int_equal(scissor_step_end(s[i]), 0);
    b->streams->wait(b, STREAM(2));
    for (int i = 0; i < 2; i++)
        assert_true(attention_error(&client_model, s[i], 0, 1, fake_device_host(items[i].out)) < 1e-5);
    close_well(s[0]);
    close_well(s[1]);
}

/* ---------- what does not go ---------- */

#define REFUSED(call, word)                                       \
    {                                                             \
        assert_int_equal(call, SCISSOR_EINVAL);                   \
        assert_non_null(strstr(scissor_last_text(client), word)); \
    }

static void a_step_has_one_stream(void **state) {
    (void)state;
    struct scissor_session *s = opened();
    float *out, row[STEP_FLOATS] = {0}, *device = vector_new();
    struct scissor_attend_item item = {s, 0, 1, row, row + 64}, odd = {s, 0, 1, device + 1, device};
    assert_int_equal(scissor_append_device(s, 0, device, device, SCISSOR_F32, STREAM(0)), SCISSOR_ESTATE);
    assert_int_equal(scissor_step_begin(s, 1), 0);
    assert_int_equal(layer_on(s, 1, 0, STREAM(0), &out), 0);
    REFUSED(layer_on(s, 1, 0, STREAM(1), &out), "another stream")
    REFUSED(scissor_append(s, 1, row, row, SCISSOR_F32), "another stream")
    REFUSED(scissor_attend(&item, 1), "another stream")
    REFUSED(scissor_append_device(s, 1, (char *)device + 2, device, SCISSOR_F32, STREAM(0)), "4 bytes")
    REFUSED(scissor_attend_device(&odd, 1, STREAM(0)), "16 bytes")
    assert_int_equal(scissor_append_device(s, 2, device, device, SCISSOR_F32, STREAM(0)), SCISSOR_EINVAL);
    assert_int_equal(scissor_append_device(s, 0, NULL, device, SCISSOR_F32, STREAM(0)), SCISSOR_EINVAL);
    assert_int_equal(scissor_append_device(s, 0, device, device, SCISSOR_INT8, STREAM(0)), SCISSOR_EINVAL);
    assert_int_equal(scissor_attend_device(NULL, 1, STREAM(0)), SCISSOR_EINVAL);
    assert_int_equal(scissor_attend_device(NULL, 0, STREAM(0)), 0);
    assert_int_equal(scissor_settle_device(s, STREAM(0)), SCISSOR_ESTATE);
    assert_int_equal(layer_on(s, 1, 1, STREAM(0), &out), 0);
    assert_int_equal(scissor_step_end(s), 0);
    assert_int_equal(step_on(s, 1, STREAM(1), &out), 0); /* the next one may have another */
    close_well(s);
}

static void host_sessions_have_no_streams(void **state) {
    (void)state;
    struct scissor_session *device = opened();
    FAKE_SET(&client_fake, device, NULL);
    struct scissor_session *host = opened();
    FAKE_SET(&client_fake, device, fake_device_daemon());
    float row[2 * 16] = {0}, out[2 * 16], *on_device;
    struct scissor_attend_item items[2] = {{host, 0, 1, row, out}, {device, 0, 1, row, out}};
    assert_string_equal(scissor_session_device(host), "host");
    assert_int_equal(scissor_step_begin(host, 1), 0);
    assert_int_equal(scissor_step_begin(device, 1), 0);
    REFUSED(scissor_append_device(host, 0, row, row, SCISSOR_F32, NULL), "scissor_append()")
    assert_int_equal(scissor_append(host, 0, row, row, SCISSOR_F32), 0);
    assert_int_equal(layer_on(device, 1, 0, NULL, &on_device), 0);
    REFUSED(scissor_attend_device(items, 1, NULL), "scissor_attend()")
    assert_int_equal(scissor_attend(items, 2), SCISSOR_EINVAL); /* not in one batch */
    assert_int_equal(scissor_attend(items, 1), 0);
    assert_int_equal(scissor_step_end(host), 0);
    REFUSED(scissor_settle_device(host, NULL), "scissor_settle()")
    assert_int_equal(scissor_settle(host), 0);
    FAKE_SET(&client_fake, device, fake_device_daemon());
    close_well(host);
    close_well(device);
}

/* ---------- a daemon that cannot be right ---------- */

static char wrong_device[PROTO_DEVICE_BYTES];
static enum fake_verdict rename_device(struct fake *f, uint16_t type, struct fake_packet *p) {
    (void)f;
    if (type == PROTO_OPENED)
        memcpy(p->bytes + sizeof(struct proto_header) + offsetof(struct proto_opened, device), wrong_device,
               sizeof wrong_device);
    return FAKE_SEND;
}

static enum fake_verdict spoil_events(struct fake *f, uint16_t type, struct fake_packet *p) {
    (void)f;
    if (type == PROTO_OPENED)
        memset(p->bytes + sizeof(struct proto_header) + offsetof(struct proto_opened, events), 0, 128);
    return FAKE_SEND;
}

static enum fake_verdict spoil_handle(struct fake *f, uint16_t type, struct fake_packet *p) {
    (void)f;
    if (type == PROTO_GROW)
        memset(p->bytes + 24 + offsetof(struct proto_segment, handle), 0, 64);
    return FAKE_SEND;
}

static enum fake_verdict add_descriptor(struct fake *f, uint16_t type, struct fake_packet *p) {
    (void)f;
    if (type == PROTO_GROW)
        p->fds[p->fd_count++] = dup(0);
    return FAKE_SEND;
}

static enum fake_verdict drop_descriptors(struct fake *f, uint16_t type, struct fake_packet *p) {
    (void)f;
    while (type == PROTO_GROW && p->fd_count > 0)
        client_drop_fd(p);
    return FAKE_SEND;
}

static void connect_anew(void) {
    client_take_device(client);
    scissor_disconnect(client);
    client = client_connected();
    client_be_patient(client);
    client_give_device(client);
}

static void opening_gives(enum fake_verdict (*hook)(struct fake *, uint16_t, struct fake_packet *), int code) {
    struct scissor_session_spec spec = client_spec();
    struct scissor_session *s = NULL;
    fake_set_hook(&client_fake, hook);
    assert_int_equal(scissor_open(client, &spec, &s), code);
    assert_null(s);
    fake_set_hook(&client_fake, NULL);
    if (code == SCISSOR_EPROTO)
        connect_anew();
}

static void names_are_checked(void **state) {
    (void)state;
    memset(wrong_device, 'x', sizeof wrong_device);
    opening_gives(rename_device, SCISSOR_EPROTO);
    memcpy(wrong_device, "cuda:GPU-", 9);
    opening_gives(rename_device, SCISSOR_EPROTO);
    const char *const names[] = {"", "cuda", "hostile", "host"};
    for (int i = 0; i < 4; i++) {
        memset(wrong_device, 0, sizeof wrong_device);
        strcpy(wrong_device, names[i]);
        opening_gives(rename_device, SCISSOR_EPROTO);
    }
    FAKE_SET(&client_fake, device, NULL);
    strcpy(wrong_device, FAKE_DEVICE_NAME); /* with descriptors */
    opening_gives(rename_device, SCISSOR_EPROTO);
    opening_gives(drop_descriptors, SCISSOR_EPROTO);
    FAKE_SET(&client_fake, device, fake_device_daemon());
    opening_gives(add_descriptor, SCISSOR_EPROTO);
}

/* Nothing is wrong with the daemon then, and the connection stays. */
static void devices_that_cannot_be_had(void **state) {
    (void)state;
    memset(wrong_device, 0, sizeof wrong_device);
    strcpy(wrong_device, "cuda:GPU-00000000-0000-0000-0000-000000000000");
    opening_gives(rename_device, SCISSOR_EDEVICE);
    assert_string_not_equal(scissor_last_text(client), "");
    opening_gives(spoil_events, SCISSOR_EDEVICE);
    opening_gives(spoil_handle, SCISSOR_EDEVICE);
    assert_string_not_equal(scissor_last_text(client), "");
    assert_int_equal(fake_open_sessions(&client_fake), 0);
    close_well(opened());
}

static void late_segments_are_checked(void **state) {
    (void)state;
    float *out;
    struct scissor_session *s = opened();
    assert_int_equal(step_on(s, 16, NULL, &out), 0);
    fake_set_hook(&client_fake, spoil_handle);
    assert_int_equal(scissor_settle(s), 0);
    fake_set_hook(&client_fake, NULL);
    assert_int_equal(scissor_step_begin(s, 1), SCISSOR_EDEVICE); /* the new segment cannot be opened */
    close_well(s);
    s = opened();
    assert_int_equal(step_on(s, 16, NULL, &out), 0);
    fake_set_hook(&client_fake, add_descriptor);
    assert_int_equal(scissor_settle(s), SCISSOR_EPROTO);
    fake_set_hook(&client_fake, NULL);
}

/* ---------- failures ---------- */

static int some_work(struct scissor_session *s) {
    float *out, row[STEP_FLOATS] = {0};
    struct scissor_attend_item item = {s, 0, 1, row, row + 64};
    int r = 0;
    for (int i = 0; i < 4 && r == 0; i++) {
        r = step_on(s, 16, STREAM(i % 2), &out);
        if (r == 0)
            r = scissor_settle_device(s, STREAM(2));
    }
    if (r == 0)
        r = scissor_step_begin(s, 1);
    if (r)
        return r;
    r = scissor_append(s, 0, row, row, SCISSOR_F32);
    if (r == 0)
        r = scissor_attend(&item, 1);
    int end = scissor_step_end(s);
    return r ? r : end;
}

/* Each operation of the device fails once, or for ever. */
static void operations_fail(void **state) {
    (void)state;
    static const struct {
        int error, code;
    } how[] = {{-EIO, SCISSOR_EDEVICE}, {-ENOMEM, SCISSOR_ENOMEM}, {-ENOTRECOVERABLE, SCISSOR_EDEVICELOST}};
    for (int i = 0; i < 3; i++)
        for (int64_t after = 0;; after++) {
            struct scissor_session_spec spec = client_spec();
            struct scissor_session *s = NULL;
            fake_device.fail_with = how[i].error;
            fake_device.fail_after = after;
            int r = scissor_open(client, &spec, &s);
            if (r == 0)
                r = some_work(s);
            bool through = fake_device.fail_after > 0;
            if (r != 0 && s && how[i].error == -ENOTRECOVERABLE) {
                float *out;
                assert_int_equal(step_on(s, 1, NULL, &out), SCISSOR_EDEVICELOST);
                assert_int_equal(scissor_settle(s), scissor_fresh_count(s) ? SCISSOR_EDEVICELOST : 0);
            }
            if (!through && r != how[i].code && r != 0)
                fail_msg("operation %d failing with %d gave %s", (int)after, how[i].error, scissor_errname(r));
            while (s && (r = scissor_close(s)) != 0 && r != SCISSOR_EDEVICELOST)
                assert_true(r == how[i].code); /* what was to fail has done so here */
            fake_device.fail_after = -1;
            if (how[i].error == -ENOTRECOVERABLE) {
                fake_device_discard();
                connect_anew(); /* the daemon has the session still */
            }
            for (int k = 0; k < 4; k++)
                fake_device_daemon()->streams->wait(fake_device_daemon(), STREAM(k));
            vectors_free();
            assert_int_equal(fake_device.faults, 0);
            if (through)
                break;
        }
    assert_int_equal(fake_open_sessions(&client_fake), 0);
}

static void memory_fails(void **state) {
    (void)state;
    for (size_t after = 0;; after++) {
        struct scissor_session_spec spec = client_spec();
        struct scissor_session *s = NULL;
        alloc_fail_after(after, 1);
        int r = scissor_open(client, &spec, &s);
        if (r == 0)
            r = some_work(s);
        alloc_fail_never();
        assert_true(r == 0 || r == SCISSOR_ENOMEM);
        scissor_close(s);
        assert_int_equal(fake_device.faults, 0);
        if (r == 0)
            break;
    }
}

/* A device that does not come to an end keeps what it works on. */
static void nothing_is_closed_under_work(void **state) {
    (void)state;
    float *out;
    struct scissor_session *s = opened();
    assert_int_equal(step_on(s, 4, STREAM(0), &out), 0);
    fake_device.stuck = true;
    scissor_set_timeout(client, 30);
    assert_int_equal(scissor_settle_device(s, STREAM(0)), SCISSOR_ETIMEDOUT);
    assert_int_equal(scissor_fresh_count(s), 4);
    assert_int_equal(scissor_close(s), SCISSOR_ETIMEDOUT);
    assert_int_equal(scissor_step_begin(s, 2), 0);
    assert_int_equal(layer_on(s, 2, 0, STREAM(0), &out), 0);
    assert_int_equal(scissor_close(s), SCISSOR_ETIMEDOUT); /* in a step: it is open still */
    assert_int_equal(layer_on(s, 2, 1, STREAM(0), &out), 0);
    assert_int_equal(scissor_step_end(s), 0);
    fake_device.stuck = false;
    scissor_set_timeout(client, 5000);
    assert_int_equal(scissor_settle(s), 0);
    assert_int_equal(step_on(s, 4, STREAM(0), &out), 0);
    close_well(s);
}

/* Nor by the end of the client: what a device works on is left to the end of the process, or here to the test. */
static void a_client_ends_under_work(void **state) {
    (void)state;
    float *out;
    struct scissor_session *s = opened();
    assert_int_equal(step_on(s, 4, STREAM(0), &out), 0);
    fake_device.stuck = true;
    scissor_set_timeout(client, 30);
    unsigned before = fake_device.allocations;
    client_take_device(client);
    scissor_disconnect(client);
    assert_int_equal(fake_device.faults, 0);
    assert_int_equal(fake_device.allocations, before);
    fake_device.stuck = false;
    fake_device_daemon()->streams->wait(fake_device_daemon(), STREAM(0));
    client = s->client = client_connected();
    scissor__session_free(s);
}

/* A step's work or the sums' way to the host is queued, and its end can neither be recorded nor be waited for: nothing
 * of it is freed, until more on the same stream is behind it. */
static void nobody_can_wait_for_it(void **state) {
    (void)state;
    float *out;
    for (int settles = 0; settles < 2; settles++) {
        struct scissor_session *s = opened();
        assert_int_equal(settles ? step_on(s, 4, STREAM(0), &out) : scissor_step_begin(s, 4), 0);
        for (uint32_t layer = 0; layer < client_model.layers && !settles; layer++)
            assert_int_equal(layer_on(s, 4, layer, STREAM(0), &out), 0);
        fake_device.fail_with = -EIO;
        fake_device.fail_more = 1;
        fake_device.fail_after = settles ? 1 + s->group_count : 0; /* its step is followed, the sums are queued */
        assert_int_equal(settles ? scissor_settle_device(s, STREAM(1)) : scissor_step_end(s), SCISSOR_EDEVICE);
        assert_int_equal(fake_device.fail_after, -1);
        assert_int_equal(scissor_close(s), SCISSOR_EDEVICE);
        assert_int_equal(scissor_settle_device(s, STREAM(1)), settles ? 0 : SCISSOR_EDEVICE);
        fake_device_daemon()->streams->wait(fake_device_daemon(), STREAM(0));
        s->device->adrift = false;
        close_well(s);
    }
}

static void operator_closes_under_work(void **state) {
    (void)state;
    const int codes[] = {SCISSOR_ECLOSED, SCISSOR_EDEVICELOST};
    for (int i = 0; i < 2; i++) {
        float *out;
        struct scissor_session *s = opened();
        uint32_t position, count;
        assert_int_equal(step_on(s, 4, STREAM(0), &out), 0);
        struct proto_closed closed = {.session = scissor_session_id(s), .code = codes[i]};
        fake_send(&client_fake, PROTO_CLOSED, 0, &closed, NULL, 0);
        assert_int_equal(scissor_step_begin(s, 1), codes[i]);
        assert_int_equal(scissor_positions(s, 0, 0, &position, 1, &count), codes[i]);
        assert_int_equal(fake_device.faults, 0);
        assert_true(fake_device_queued() > 0);
        assert_int_equal(scissor_settle(s), codes[i]);
        assert_int_equal(scissor_close(s), codes[i]);
        assert_int_equal(fake_device.faults, 0);
    }
}

static void refused_settles_are_passed_on(void **state) {
    (void)state;
    float *out;
    struct scissor_session *s = opened();
    FAKE_SET(&client_fake, drain, false);
    FAKE_SET(&client_fake, fold, true);
    assert_int_equal(step_on(s, 4, STREAM(0), &out), 0);
    FAKE_SET(&client_fake, refuse_settle, SCISSOR_ESTATE);
    assert_int_equal(scissor_settle(s), SCISSOR_ESTATE);
    assert_int_equal(step_on(s, 4, STREAM(1), &out), 0); /* sums of both steps are the daemon's */
    FAKE_SET(&client_fake, refuse_settle, 0);
    assert_int_equal(scissor_settle(s), 0);
    assert_int_equal(FAKE_GET(&client_fake, score_faults), 0);
    assert_int_equal(step_on(s, 4, STREAM(0), &out), 0);
    FAKE_SET(&client_fake, refuse_settle, SCISSOR_EDEVICELOST);
    assert_int_equal(scissor_settle(s), SCISSOR_EDEVICELOST);
    assert_int_equal(scissor_step_begin(s, 1), SCISSOR_EDEVICELOST);
    assert_int_equal(scissor_close(s), SCISSOR_EDEVICELOST);
}

/* Another process of the daemon has nothing of what was on the device. */
static void restarts_end_sessions(void **state) {
    (void)state;
    float *out;
    FAKE_SET(&client_fake, keep, true);
    connect_anew();
    struct scissor_session *s = opened();
    assert_int_equal(step_on(s, 4, STREAM(0), &out), 0);
    fake_hang_up(&client_fake);
    assert_int_equal(scissor_step_begin(s, 1), SCISSOR_ERESTARTED);
    assert_int_equal(FAKE_GET(&client_fake, received[PROTO_REATTACH]), 0);
    assert_int_equal(scissor_settle(s), SCISSOR_ERESTARTED);
    assert_int_equal(scissor_close(s), 0);
    s = opened();
    assert_int_equal(step_on(s, 4, STREAM(0), &out), 0);
    close_well(s);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(streams_follow_each_other),
        TEST(threads_have_their_streams),
        TEST(batches_are_one_call),
        TEST(a_step_has_one_stream),
        TEST(host_sessions_have_no_streams),
        TEST(names_are_checked),
        TEST(devices_that_cannot_be_had),
        TEST(late_segments_are_checked),
        TEST(operations_fail),
        TEST(memory_fails),
        TEST(nothing_is_closed_under_work),
        TEST(a_client_ends_under_work),
        TEST(nobody_can_wait_for_it),
        TEST(operator_closes_under_work),
        TEST(refused_settles_are_passed_on),
        TEST(restarts_end_sessions),
    };
    return cmocka_run_group_tests_name("client_device", tests, NULL, NULL);
}
