/* test_client_device_daemon.c - what becomes of libscissor's sessions on a device (tests/fake_device.h) when their
 * daemon lies, or dies while the device is at work. */
#include "test_client_device.h"

static void *hangs_up_soon(void *data) {
    (void)data;
    usleep(30000);
    fake_hang_up(&client_fake);
    return NULL;
}

static int attend_on_host(struct scissor_session *s) {
    float row[STEP_FLOATS] = {0};
    struct scissor_attend_item item = {s, 0, 1, row, row + 64};
    int r = scissor_step_begin(s, 1);
    if (r == 0)
        r = scissor_append(s, 0, row, row, SCISSOR_F32);
    return r ? r : scissor_attend(&item, 1);
}

/* What a stream waits for will never be done when the daemon has died. Who waits for the stream hears of the death, and
 * soon; what the stream uses stays until it has come to an end, and no longer. */
static void deaths_end_waits(void **state) {
    (void)state;
    struct kernel_backend *b = fake_device_client();
    for (int i = 0; i < 4; i++) {
        pthread_t thread;
        float *out;
        bool attends = i % 2, away = i / 2;
        struct scissor_session *s = opened();
        unsigned open_there = fake_device.allocations - vector_count;
        assert_int_equal(step_on(s, 4, STREAM(0), &out), 0);
        fake_device.stuck = true;
        FAKE_SET(&client_fake, stay_away, away);
        uint64_t begin = scissor__now();
        assert_int_equal(pthread_create(&thread, NULL, hangs_up_soon, NULL), 0);
        int r = attends ? attend_on_host(s) : scissor_settle(s);
        pthread_join(thread, NULL);
        assert_int_equal(r, away ? SCISSOR_EGONE : SCISSOR_ERESTARTED);
        if (attends)
            assert_int_equal(scissor_step_end(s), 0);
        assert_int_equal(scissor_close(s), away ? SCISSOR_EGONE : 0);
        assert_true(scissor__now() - begin < 2000000000u);
        usleep(100000);
        assert_true(fake_device.allocations - vector_count >= open_there);
        assert_int_equal(fake_device.faults, 0);
        fake_device.stuck = false;
        b->streams->wait(b, b->streams->own(b));
        for (int k = 0; k < 500 && client->watch.leaving; k++)
            usleep(10000);
        assert_null(client->watch.leaving);
        FAKE_SET(&client_fake, stay_away, false);
        fake_set_away(&client_fake, false);
    }
    close_well(opened());
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(deaths_end_waits),
    };
    return cmocka_run_group_tests_name("client_device_daemon", tests, NULL, NULL);
}
