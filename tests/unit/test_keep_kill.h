/* test_keep_kill.h - what a daemon does that test_keep_kill.c kills at each step: sessions that open, grow, shrink and
 * close, in steps each of which can be begun again. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sim/rig.h"
#include "sim/stored_row.h"

#define MIB (1024ull * 1024)
#define DIM 256u
#define HEADS 3u

/* Shared with the child. */
static struct shared {
    struct rig rig;
    uint32_t step;   /* of the scenario; those before it are done */
    uint32_t points; /* passed since they count */
    bool armed;      /* they count */
    bool ousted;     /* the operator closes the second session */
    uint32_t copied; /* points at the first copy of a page */
    int place[2];    /* of the sessions; -1 */
} * shared;
#define rig (shared->rig)

static uint32_t storage = KERNEL_F32; /* dtype of the sessions */

static float score(void *context, uint32_t layer, uint32_t kv_head, uint32_t plane, uint32_t slot) {
    (void)context, (void)layer;
    return (float)((kv_head * 3 + plane + slot * slot) % 11) / 11;
}

static void open_one(int which, uint32_t fresh, uint32_t guaranteed, uint32_t most, const char *policy) {
    if (shared->place[which] >= 0)
        return;
    if (!rig.peers[which].handle && rig_connect(&rig) != which)
        abort();
    struct proto_open spec = rig_spec(1, HEADS, DIM, fresh, guaranteed, most, policy);
    spec.wait_ms = 60000;
    spec.storage_dtype = storage;
    if (policy && strcmp(policy, "scissorhands") == 0) {
        spec.groups[0].params[0] = (struct proto_param){.name = "window", .value = fresh};
        spec.groups[0].params[1] = (struct proto_param){.name = "drop", .value = 150};
    }
    int place = rig_open_now(&rig, which, &spec);
    assert_true(place >= 0);
    shared->place[which] = place;
}

static void send_scores(struct rig_session *s) {
    static uint8_t frame[1 << 20];
    if (!s->scores[0].planes)
        return;
    size_t size = rig_frame(s, 0, 1, s->fresh_rows, s->fresh_rows, score, NULL, frame);
    broker_score(rig.broker, frame, size, rig.now);
    rig_act(&rig);
}

/* Settles until the client has so many tokens; what was settled by one that died counts. */
static void settle_to(int which, uint64_t tokens) {
    struct rig_session *s = &rig.sessions[shared->place[which]];
    while (s->tokens < tokens) {
        for (uint32_t h = 0; h < HEADS; h++)
            for (uint32_t i = 0; i < s->fresh_rows; i++)
                fake_row_write(rig_fresh(s, h), s->fresh_rows, i, DIM, KERNEL_F32, (uint32_t)s->tokens + i, h);
        send_scores(s);
        rig_settle(&rig, shared->place[which], s->fresh_rows, s->sequence);
        rig_jobs(&rig);
        assert_int_equal(s->code, SCISSOR_OK);
    }
}

static void close_one(int which) {
    if (shared->place[which] < 0)
        return;
    rig_close(&rig, shared->place[which]);
    rig_jobs(&rig);
    shared->place[which] = -1;
}

static void arm(void) {
    shared->armed = true;
}

/* Opening, growth by segments, eviction at the budget. */
static bool grows(uint32_t step) {
    if (step == 0) {
        arm();
        open_one(0, 64, 80, 512, "pivotal");
        return true;
    }
    settle_to(0, step * 64ull);
    return step < 9;
}

/* The policy drops more than it must: rows from the end fill holes. */
static bool drops(uint32_t step) {
    if (step == 0) {
        open_one(0, 64, 400, 0, "scissorhands");
        settle_to(0, 320);
        arm();
        return true;
    }
    settle_to(0, 320 + step * 64ull);
    return step < 3;
}

/* Lent memory is taken back: rows go, pages move together, segments are freed. */
static bool shrinks(uint32_t step) {
    switch (step) {
    case 0:
        open_one(0, 256, 272, 1792, "h2o");
        settle_to(0, 1536);
        arm();
        return true;
    case 1:
        open_one(1, 64, 1000, 0, "streaming");
        return true;
    default:
        settle_to(0, 1792);
        close_one(1);
        return false;
    }
}

/* As `shrinks`, of pages that hold more rows. */
static bool fades(uint32_t step) {
    switch (step) {
    case 0:
        open_one(0, 256, 272, 8192, "h2o");
        settle_to(0, 3840);
        arm();
        return true;
    case 1:
        open_one(1, 64, 6000, 0, "streaming");
        return true;
    default:
        settle_to(0, 4096);
        close_one(1);
        return false;
    }
}

/* In the middle of a period, whose scores are lost if the daemon dies before it is settled. */
static bool shrinks_within(uint32_t step) {
    switch (step) {
    case 0:
        open_one(0, 256, 272, 1792, "h2o");
        settle_to(0, 1536);
        return true;
    case 1:
        send_scores(&rig.sessions[shared->place[0]]);
        arm();
        open_one(1, 64, 1000, 0, "streaming");
        return true;
    default:
        settle_to(0, 1792);
        return false;
    }
}

/* With a settle, as the client is in a step when its memory is wanted. */
static bool shrinks_and_settles(uint32_t step) {
    if (step == 0) {
        open_one(0, 256, 272, 1792, "h2o");
        settle_to(0, 1536);
        arm();
        return true;
    }
    struct rig_session *s = &rig.sessions[shared->place[0]];
    if (shared->place[1] < 0 && s->tokens == 1536) {
        if (!rig.peers[1].handle && rig_connect(&rig) != 1)
            abort();
        struct proto_open spec = rig_spec(1, HEADS, DIM, 64, 1000, 0, "streaming");
        spec.wait_ms = 60000;
        s->lease->word = PROTO_LEASE_CLIENT;
        shared->place[1] = rig_open(&rig, 1, &spec);
        rig_jobs(&rig);
        s->lease->word = PROTO_LEASE_FREE;
    }
    settle_to(0, 1792);
    return false;
}

/* From many segments to a few at once: the emptied ones have ids far above those that are left. */
static bool shrinks_far(uint32_t step) {
    if (step == 0) {
        open_one(0, 1024, 1040, 32768 + 1024, "streaming");
        settle_to(0, 32768);
        arm();
        return true;
    }
    struct rig_session *s = &rig.sessions[shared->place[0]];
    struct proto_request r = {
        .id = step, .op = PROTO_OP_SET_BUDGET, .session = s->id, .value = {0, 1088, PROTO_ALL_GROUPS}};
    memcpy(r.token, s->token, sizeof r.token);
    rig_control_to(&rig, r);
    assert_int_equal(rig.answer.code, 0);
    rig_jobs(&rig);
    settle_to(0, 32768 + 1024);
    return false;
}

/* The operator closes a session whose client stays in a step: if the next process has the session, its client has the
 * lease. */
static bool closes_in_a_step(uint32_t step) {
    if (step == 0) {
        open_one(0, 64, 320, 0, "pivotal");
        settle_to(0, 256);
        open_one(1, 64, 320, 0, "streaming");
        settle_to(1, 256);
        rig.sessions[shared->place[1]].lease->word = PROTO_LEASE_CLIENT;
        shared->ousted = true;
        arm();
        return true;
    }
    if (shared->place[1] >= 0) {
        struct rig_session *s = &rig.sessions[shared->place[1]];
        assert_int_equal(s->lease->word, PROTO_LEASE_CLIENT);
        rig_control(&rig, PROTO_OP_CLOSE_SESSION, s->id, rig.now, rig_operator(&rig));
        assert_int_equal(rig.answer.code, 0);
        rig_jobs(&rig);
        assert_false(s->closed);
        rig_pass(&rig, 1100000000);
        rig_jobs(&rig);
        assert_true(s->closed);
        shared->place[1] = -1;
    }
    settle_to(0, 512);
    return false;
}
