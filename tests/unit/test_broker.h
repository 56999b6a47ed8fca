/* test_broker.h - what tests of the broker begin with: a rig, and sessions of one group of which all heads get the same
 * scores. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sim/rig.h"

#define MIB (1024ull * 1024)
#define MS 1000000ull

static struct rig rig;

static inline int teardown(void **state) {
    (void)state;
    rig_deinit(&rig);
    return 0;
}

static inline struct proto_pool_stat stat_now(void) {
    struct proto_pool_stat stat;
    broker_check(rig.broker);
    broker_pool_stat(rig.broker, 0, rig.now, &stat);
    return stat;
}

static inline float constant(void *context, uint32_t layer, uint32_t kv_head, uint32_t plane, uint32_t slot) {
    (void)layer, (void)kv_head, (void)plane, (void)slot;
    return *(float *)context;
}

static uint8_t frame[PROTO_SCORE_MAX];

/* A frame of all layers of a session with one group. */
static inline size_t make_frame(int s, uint32_t rows, uint32_t fresh, float value) {
    return rig_frame(&rig.sessions[s], 0, rig_layers(&rig.sessions[s]), rows, fresh, constant, &value, frame);
}

static inline void deliver(size_t size) {
    broker_score(rig.broker, frame, size, rig.now);
    rig_act(&rig);
}

static inline int open_spec(const struct proto_open *spec) {
    int s = rig_open_now(&rig, rig_connect(&rig), spec);
    assert_true(s >= 0);
    return s;
}

static inline int open_one(uint32_t guaranteed, uint32_t max, const char *policy) {
    struct proto_open spec = rig_spec(2, 2, 256, 64, guaranteed, max, policy);
    return open_spec(&spec);
}

static inline void settle(int s, uint32_t rows) {
    rig_settle(&rig, s, rows, rig.sessions[s].sequence);
    rig_jobs(&rig);
    assert_int_equal(rig.sessions[s].code, 0);
    broker_check(rig.broker);
}
