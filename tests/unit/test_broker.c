/* test_broker.c - the broker's contract, one behaviour a test, through the rig. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "alloc.h"
#include "sim/rig.h"

#define MIB (1024ull * 1024)

static struct rig rig;

static void test_open_settle_close(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    int peer = rig_connect(&rig);
    assert_int_equal(peer, 0);
    struct proto_open spec = rig_spec(2, 2, 64, 64, 256, 0, "streaming");
    int s = rig_open_now(&rig, peer, &spec);
    assert_int_equal(s, 0);
    broker_check(rig.broker);
    for (int i = 0; i < 10; i++) {
        for (uint32_t h = 0; h < 4; h++)
            for (uint32_t row = 0; row < 64; row++)
                fake_row_write(rig_fresh(&rig.sessions[s], h), 64, row, 64, KERNEL_F32, (uint32_t)i * 64 + row, h);
        rig_settle(&rig, s, 64, 0);
        rig_jobs(&rig);
        assert_int_equal(rig.sessions[s].code, 0);
        broker_check(rig.broker);
        assert_int_equal(rig_head(&rig.sessions[s], 3)[0], i < 3 ? (i + 1) * 64 : 192);
    }
    rig_positions(&rig, s, 1, 1);
    assert_int_equal(rig.sessions[s].position_count, 192);
    for (uint32_t i = 0; i < 192; i++)
        assert_true(fake_row_is(rig_page(&rig.sessions[s], 3, i / 64), 64, i % 64, 64, KERNEL_F32,
                                rig.sessions[s].positions[i], 3));
    rig_close(&rig, s);
    rig_jobs(&rig);
    assert_int_equal(broker_session_count(rig.broker), 0);
    rig_deinit(&rig);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_settle_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
