/* test_client_watch.c - what libscissor does for sessions on a device (tests/fake_device.h) without a call of theirs:
 * it closes what the daemon takes back, when neither a step nor queued work is in the way. */
#include "test_client_device.h"

static void received(uint16_t type, uint32_t count) {
    uint64_t end = scissor__now() + 5000000000u;
    while (FAKE_GET(&client_fake, received[type]) != count) {
        if (scissor__now() > end)
            fail_msg("%u messages of type %u came, not %u", FAKE_GET(&client_fake, received[type]), type, count);
        usleep(1000);
    }
}

static void work_is_done(void) {
    fake_device_daemon()->streams->wait(fake_device_daemon(), STREAM(0));
}

/* Its memory is closed without a call of its engine, when neither a step nor work on the device is in the way. */
static void operator_closes_at_rest(void **state) {
    (void)state;
    float *out;
    for (int in_step = 0; in_step < 2; in_step++) {
        struct scissor_session *s = opened();
        uint32_t before = FAKE_GET(&client_fake, received[PROTO_CLOSE]);
        assert_int_equal(step_on(s, 4, STREAM(0), &out), 0);
        assert_int_equal(in_step ? scissor_step_begin(s, 4) : 0, 0);
        struct proto_closed closed = {.session = scissor_session_id(s), .code = SCISSOR_ECLOSED};
        fake_send(&client_fake, PROTO_CLOSED, 0, &closed, NULL, 0);
        usleep(50000);
        received(PROTO_CLOSE, before);
        work_is_done();
        if (in_step) {
            usleep(50000);
            received(PROTO_CLOSE, before);
            assert_int_equal(scissor_step_end(s), 0);
        }
        received(PROTO_CLOSE, before + 1);
        assert_int_equal(fake_device.faults, 0);
        assert_int_equal(scissor_step_begin(s, 1), SCISSOR_ECLOSED);
        assert_int_equal(scissor_close(s), SCISSOR_ECLOSED);
        assert_int_equal(FAKE_GET(&client_fake, received[PROTO_CLOSE]), before + 1);
    }
}

static void take_back(struct scissor_session *s) {
    struct proto_shrink shrink = {.session = scissor_session_id(s)};
    struct proto_segment_id id = {.id = s->fresh_segments};
    fake_send(&client_fake, PROTO_SHRINK, 0, &shrink, &id, 1);
}

/* Memory that is taken back in a step, whose work goes on behind it, when no other call follows. */
static void taken_back_in_the_last_step(void **state) {
    (void)state;
    float *out;
    struct scissor_session *s = opened();
    assert_int_equal(step_on(s, 16, STREAM(0), &out), 0);
    assert_int_equal(scissor_settle_device(s, STREAM(0)), 0);
    assert_int_equal(scissor_step_begin(s, 1), 0);
    take_back(s);
    usleep(50000);
    for (uint32_t layer = 0; layer < client_model.layers; layer++)
        assert_int_equal(layer_on(s, 1, layer, STREAM(0), &out), 0);
    assert_int_equal(scissor_step_end(s), 0);
    usleep(20000);
    received(PROTO_RELEASED, 0);
    work_is_done();
    received(PROTO_RELEASED, 1);
    close_well(s);
}

/* What the driver does not close, nobody says to be closed: not what was taken back, and not a whole session. */
static void driver_refuses(void **state) {
    (void)state;
    float *out;
    struct scissor_session *s = opened();
    assert_int_equal(step_on(s, 16, STREAM(0), &out), 0);
    assert_int_equal(scissor_settle_device(s, STREAM(0)), 0);
    work_is_done();
    fake_device.refuses = true;
    take_back(s);
    usleep(50000);
    received(PROTO_RELEASED, 0);
    fake_device.refuses = false;
    received(PROTO_RELEASED, 1);
    assert_int_equal(step_on(s, 1, STREAM(0), &out), 0);
    work_is_done();

    fake_device.refuses = true;
    assert_int_equal(scissor_close(s), SCISSOR_EDEVICE);
    assert_non_null(strstr(scissor_last_text(client), "the driver does not close"));
    assert_int_equal(scissor_step_begin(s, 1), SCISSOR_EDEVICE);
    assert_int_equal(scissor_close(s), SCISSOR_EDEVICE);
    received(PROTO_CLOSE, 0);
    fake_device.refuses = false;
    close_well(s);
    received(PROTO_CLOSE, 1);
}

static void driver_refuses_what_the_operator_closed(void **state) {
    (void)state;
    float *out;
    struct scissor_session *s = opened();
    assert_int_equal(step_on(s, 4, STREAM(0), &out), 0);
    work_is_done();
    fake_device.refuses = true;
    struct proto_closed closed = {.session = scissor_session_id(s), .code = SCISSOR_ECLOSED};
    fake_send(&client_fake, PROTO_CLOSED, 0, &closed, NULL, 0);
    usleep(50000);
    received(PROTO_CLOSE, 0);
    fake_device.refuses = false;
    received(PROTO_CLOSE, 1);
    assert_int_equal(scissor_close(s), SCISSOR_ECLOSED);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(operator_closes_at_rest),
        TEST(taken_back_in_the_last_step),
        TEST(driver_refuses),
        TEST(driver_refuses_what_the_operator_closed),
    };
    return cmocka_run_group_tests_name("client_watch", tests, NULL, NULL);
}
