/* test_broker_model.c - whole sessions through the broker against the naive model: after every settle and every
 * shrink, each slot's position is exactly the model's, and its contents exactly the row of that position.
 *
 * Several sessions live in a pool that is too small for all of them, so that growth fails, lent memory is taken back
 * and pages move. Frames are lost or late, settles come early. The same on a device that works late, where a client
 * sees what was moved for it only because its stream follows the daemon's event. Seeds are fixed and named in a
 * failure. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "naive.h"
#include "rig.h"

#define MIB (1024ull * 1024)
#define SESSIONS 4
#define LAYERS 4 /* of a session, at most, over its groups */
#define HEADS 2
#define SLOTS 4096

static struct rig rig;
static uint64_t rng_state, seed;
static bool on_gpu;

static uint32_t below(uint32_t limit) {
    uint64_t z = (rng_state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ z >> 31) >> 32) % limit;
}

struct modelled {
    int place; /* in the rig */
    struct naive *group[PROTO_MAX_GROUPS];
    uint32_t pages[PROTO_MAX_GROUPS];
    uint32_t lost_percent;
};

static struct modelled sessions[SESSIONS];
static bool all_fade; /* storage dtype of all sessions */
static uint64_t shrinks, settles, appended, copied, detailed;

/* Values of the frame that is being made: hits are whole, sums of mass exact in f32. */
static float values[LAYERS][HEADS][PROTO_PLANE_COUNT][SLOTS];
struct draw {
    uint32_t rows;
};

static float draw_value(void *context, uint32_t layer, uint32_t kv_head, uint32_t plane, uint32_t slot) {
    uint32_t rows = ((struct draw *)context)->rows;
    float value = plane == 0   ? (float)below(1 + 4 * rows) / 4
                  : plane == 1 ? (float)below(rows + 1)
                               : (float)below(5) / 4;
    assert_true(slot < SLOTS);
    return values[layer][kv_head][plane][slot] = value;
}

static uint32_t first_layer(const struct rig_session *s, uint32_t group) {
    uint32_t layer = 0;
    for (uint32_t g = 0; g < group; g++)
        layer += s->spec.groups[g].layers;
    return layer;
}

/* One frame for the layers of a group; delivered or lost. */
static void frame(struct modelled *m, uint32_t group, uint32_t rows, uint32_t fresh) {
    static uint8_t bytes[PROTO_SCORE_MAX];
    struct rig_session *s = &rig.sessions[m->place];
    const struct proto_group *g = &s->spec.groups[group];
    struct draw draw = {rows};
    uint32_t first = first_layer(s, group), planes = s->scores[group].planes;
    if (planes == 0)
        return;
    size_t size = rig_frame(s, first, g->layers, rows, fresh, draw_value, &draw, bytes);
    if (below(100) < m->lost_percent)
        return;
    broker_score(rig.broker, bytes, size, rig.now);
    rig_act(&rig);
    for (uint32_t l = 0; l < g->layers; l++) {
        struct naive_planes heads[HEADS];
        for (uint32_t h = 0; h < g->kv_heads; h++)
            heads[h] = (struct naive_planes){planes & PROTO_PLANE_MASS ? values[first + l][h][0] : NULL,
                                             planes & PROTO_PLANE_HITS ? values[first + l][h][1] : NULL,
                                             planes & PROTO_PLANE_LAST ? values[first + l][h][2] : NULL};
        assert_true(naive_fold(m->group[group], l, rows, fresh, heads));
    }
}

static void append(struct modelled *m, uint32_t row) {
    const struct rig_session *s = &rig.sessions[m->place];
    uint32_t head = 0, position = (uint32_t)s->tokens + row;
    for (uint32_t i = 0; i < s->spec.group_count; i++) {
        const struct proto_group *g = &s->spec.groups[i];
        for (uint32_t h = 0; h < g->layers * g->kv_heads; h++, head++) {
            fake_row_write(rig_fresh(s, head), s->fresh_rows, row, g->head_dim, s->spec.compute_dtype, position, head);
            naive_set_norm(m->group[i], h / g->kv_heads, h % g->kv_heads, row,
                           fake_row_norm(position, head, g->head_dim));
        }
    }
    appended++;
}

/* ---------- comparing ---------- */

static void compare_head(const struct modelled *m, uint32_t group, uint32_t layer, uint32_t kv_head) {
    struct rig_session *s = &rig.sessions[m->place];
    const struct proto_group *g = &s->spec.groups[group];
    uint32_t whole = first_layer(s, group) + layer, first;
    rig_group(s, whole, &first);
    uint32_t head = first + kv_head, settled = naive_settled(m->group[group], layer, kv_head);

    rig_positions(&rig, m->place, whole, kv_head);
    if (s->code != 0 || s->position_count != settled || rig_head(s, head)[0] != settled)
        fail_msg("seed %" PRIu64 " session %d layer %u head %u: %u settled (page: %u), model %u", seed, m->place, whole,
                 kv_head, s->position_count, rig_head(s, head)[0], settled);
    for (uint32_t i = 0; i < settled; i++) {
        uint32_t position = naive_position(m->group[group], layer, kv_head, i);
        if (s->positions[i] != position)
            fail_msg("seed %" PRIu64 " session %d layer %u head %u slot %u: position %u, model %u", seed, m->place,
                     whole, kv_head, i, s->positions[i], position);
        if (!fake_row_is(rig_page(s, head, i / SCISSOR_PAGE_ROWS), SCISSOR_PAGE_ROWS, i % SCISSOR_PAGE_ROWS,
                         g->head_dim, s->spec.storage_dtype, position, head))
            fail_msg("seed %" PRIu64 " session %d layer %u head %u slot %u: does not hold the row of position %u", seed,
                     m->place, whole, kv_head, i, position);
    }
}

/* Each detailed row of the model has one detail slot, which holds its detail, and nobody else has any. */
static void compare_details(const struct modelled *m, uint32_t group, uint32_t layer, uint32_t kv_head) {
    struct rig_session *s = &rig.sessions[m->place];
    const struct proto_group *g = &s->spec.groups[group];
    uint32_t first, settled = naive_settled(m->group[group], layer, kv_head), expected = 0, found = 0;
    rig_group(s, first_layer(s, group) + layer, &first);
    uint32_t head = first + kv_head;
    for (uint32_t i = 0; i < settled; i++)
        expected += naive_detailed(m->group[group], layer, kv_head, i);
    for (uint32_t i = 0; i < rig_head(s, head)[1] * LAYOUT_PAGE_DETAILS; i++) {
        const void *page = rig_page(s, head, i / LAYOUT_PAGE_DETAILS);
        uint32_t within = i % LAYOUT_PAGE_DETAILS,
                 slot = fake_detail_owner(page, within, g->head_dim, s->spec.storage_dtype);
        if (slot == KERNEL_NONE)
            continue;
        found++;
        if (slot >= settled || !naive_detailed(m->group[group], layer, kv_head, slot) ||
            !fake_detail_is(page, within, g->head_dim, s->spec.storage_dtype, slot,
                            naive_position(m->group[group], layer, kv_head, slot), head))
            fail_msg("seed %" PRIu64 " session %d layer %u head %u detail %u: is not of slot %u", seed, m->place, layer,
                     kv_head, i, slot);
    }
    if (found != expected)
        fail_msg("seed %" PRIu64 " session %d layer %u head %u: %u detailed rows, model %u", seed, m->place, layer,
                 kv_head, found, expected);
    detailed += found < settled ? found : 0;
}

static void compare(const struct modelled *m) {
    const struct rig_session *s = &rig.sessions[m->place];
    rig_step_begins(&rig, m->place);
    for (uint32_t g = 0; g < s->spec.group_count; g++)
        for (uint32_t l = 0; l < s->spec.groups[g].layers; l++)
            for (uint32_t h = 0; h < s->spec.groups[g].kv_heads; h++) {
                compare_head(m, g, l, h);
                if (layout_has_details(s->spec.storage_dtype))
                    compare_details(m, g, l, h);
            }
}

static uint32_t pages_now(const struct modelled *m, uint32_t group) {
    const struct rig_session *s = &rig.sessions[m->place];
    uint32_t first;
    rig_group(s, first_layer(s, group), &first);
    return rig_head(s, first)[1];
}

static uint32_t details_now(const struct modelled *m, uint32_t group) {
    bool details = layout_has_details(rig.sessions[m->place].spec.storage_dtype);
    return details ? pages_now(m, group) * LAYOUT_PAGE_DETAILS : 0;
}

/* Settled rows that a head may have. */
static uint32_t cap_now(const struct modelled *m, uint32_t group) {
    const struct proto_group *g = &rig.sessions[m->place].spec.groups[group];
    uint32_t most = (g->max_rows ? g->max_rows : g->guaranteed_rows) - rig.sessions[m->place].fresh_rows;
    uint32_t rows = pages_now(m, group) * SCISSOR_PAGE_ROWS;
    return rows < most ? rows : most;
}

/* Has the session been shrunk? Then the model is, too. */
static uint64_t follow_shrink(struct modelled *m) {
    uint64_t evicted = 0;
    for (uint32_t g = 0; g < rig.sessions[m->place].spec.group_count; g++) {
        uint32_t pages = pages_now(m, g);
        if (pages < m->pages[g]) {
            naive_set_details(m->group[g], details_now(m, g));
            evicted += naive_shrink(m->group[g], cap_now(m, g));
            shrinks++;
        }
        m->pages[g] = pages;
    }
    return evicted;
}

static void follow_all(void) {
    for (int i = 0; i < SESSIONS; i++)
        if (sessions[i].place >= 0 && rig.sessions[sessions[i].place].request == 0)
            follow_shrink(&sessions[i]);
}

/* ---------- a session's life ---------- */

static struct proto_group random_group(uint32_t fresh_rows, uint32_t layers) {
    static const char *const policies[] = {"scissorhands", "pivotal", "h2o", "tova", "random", "streaming", "window"};
    struct proto_open open = rig_spec(layers, below(3) ? HEADS : 1, below(4) ? 256 : 64, fresh_rows,
                                      fresh_rows + 16 + below(40), 0, policies[below(7)]);
    struct proto_group g = open.groups[0];
    if (below(3))
        g.max_rows = g.guaranteed_rows + below(2500);
    if (strcmp(g.policy, "scissorhands") == 0) {
        g.params[0] = (struct proto_param){.name = "window", .value = 1 + below(200)};
        g.params[1] = (struct proto_param){.name = "recent", .value = below(60)};
        g.params[2] = (struct proto_param){.name = "drop", .value = below(2) ? below(80) : 0};
        g.params[3] = (struct proto_param){.name = "reading", .value = below(3)};
    } else if (strcmp(g.policy, "streaming") == 0) {
        g.params[0] = (struct proto_param){.name = "sinks", .value = below(20)};
    } else if (strcmp(g.policy, "pivotal") == 0) {
        g.params[0] = (struct proto_param){.name = "recent", .value = below(60)};
    } else if (strcmp(g.policy, "random") == 0) {
        g.params[0] = (struct proto_param){.name = "seed", .value = below(1000)};
    }
    return g;
}

static void try_open(struct modelled *m, int peer) {
    struct proto_open spec = {.pool = PROTO_ANY_POOL, .group_count = 1 + (below(3) == 0)};
    spec.pool = on_gpu ? 1 : PROTO_ANY_POOL;
    spec.fresh_rows = 16u << below(5);
    spec.compute_dtype = below(3);
    spec.storage_dtype = below(2) ? KERNEL_F32 : below(3);
    if (all_fade)
        spec.storage_dtype = KERNEL_FADE;
    for (uint32_t g = 0; g < spec.group_count; g++)
        spec.groups[g] = random_group(spec.fresh_rows, below(3) ? LAYERS / 2 : 1);
    if (all_fade) { /* so many rows that several segments are needed */
        spec.groups[0].layers = LAYERS / spec.group_count;
        spec.groups[0].kv_heads = HEADS;
        spec.groups[0].head_dim = 256;
        spec.groups[0].max_rows = spec.groups[0].guaranteed_rows + 1000 + below(1500);
    }
    m->place = rig_open_now(&rig, peer, &spec);
    if (m->place < 0)
        return;
    m->lost_percent = (uint32_t[]){0, 5, 40}[below(3)];
    for (uint32_t g = 0; g < spec.group_count; g++) {
        m->group[g] = naive_new(&spec.groups[g], spec.fresh_rows);
        m->pages[g] = 0;
    }
}

static void end(struct modelled *m) {
    if (m->place < 0)
        return;
    rig_close(&rig, m->place);
    rig_jobs(&rig);
    m->place = -1;
    for (uint32_t g = 0; g < PROTO_MAX_GROUPS; g++)
        m->group[g] = naive_free(m->group[g]);
}

/* Steps until the fresh buffer is full, or earlier; returns the fresh rows. */
static uint32_t fill(struct modelled *m) {
    const struct rig_session *s = &rig.sessions[m->place];
    uint32_t want = below(4) ? s->fresh_rows : 1 + below(s->fresh_rows), fresh = 0;
    while (fresh < want) {
        uint32_t rows = 1 + below(want - fresh);
        for (uint32_t i = 0; i < rows; i++)
            append(m, fresh + i);
        fresh += rows;
        for (uint32_t g = 0; g < s->spec.group_count; g++)
            frame(m, g, rows, fresh);
    }
    return fresh;
}

static void settle(struct modelled *m) {
    struct rig_session *s = &rig.sessions[m->place];
    rig_step_begins(&rig, m->place);
    uint32_t fresh = fill(m);
    rig_step_ends(&rig, m->place);
    rig.gpu.client_is_quick = on_gpu && below(2);
    if (s->fence && !rig.gpu.client_is_quick)
        fake_fence_reach(s->fence);
    rig_settle(&rig, m->place, fresh, s->sequence);
    if (s->request && rig.job_count == 0)
        rig_pass(&rig, rig.config.score_wait_ns); /* its last frame was lost */
    rig_jobs(&rig);
    assert_int_equal(s->code, 0);
    uint64_t evicted = follow_shrink(m);
    for (uint32_t g = 0; g < s->spec.group_count; g++) {
        naive_set_details(m->group[g], details_now(m, g));
        evicted += naive_settle(m->group[g], fresh, cap_now(m, g));
    }
    if (evicted != s->settled.evicted_rows)
        fail_msg("seed %" PRIu64 " session %d: %" PRIu64 " rows evicted, model %" PRIu64 "", seed, m->place,
                 s->settled.evicted_rows, evicted);
    settles++;
}

static void run(uint64_t pool_mib, uint32_t steps) {
    rng_state = seed;
    if (on_gpu)
        rig_init_gpu(&rig, 16 * MIB, pool_mib * MIB);
    else
        rig_init(&rig, pool_mib * MIB, below(3) != 0);
    int peer = rig_connect(&rig);
    for (int i = 0; i < SESSIONS; i++)
        sessions[i] = (struct modelled){.place = -1};
    for (uint32_t step = 0; step < steps; step++) {
        struct modelled *m = &sessions[below(SESSIONS)];
        bool calm = step / 80 % 2 == 0; /* few sessions, which grow; then more come and take it back */
        if (m->place < 0 && below(calm ? 40 : 2) == 0)
            try_open(m, peer);
        else if (m->place < 0)
            continue;
        else if (below(calm ? 200 : 12) == 0)
            end(m);
        else
            settle(m);
        follow_all();
        if (m->place >= 0)
            compare(m);
        broker_check(rig.broker);
        for (int i = 0; i < SESSIONS; i++)
            if (sessions[i].place >= 0 && rig.sessions[sessions[i].place].release_count && below(2))
                rig_released(&rig, sessions[i].place);
        rig_jobs(&rig);
        fake_device_run(&rig.gpu, on_gpu && below(2) ? below(50) : 0);
        follow_all();
    }
    for (int i = 0; i < SESSIONS; i++) {
        if (sessions[i].place >= 0)
            compare(&sessions[i]);
        end(&sessions[i]);
    }
    copied += rig.device.copied_bytes + rig.gpu.copied_bytes;
    rig_deinit(&rig);
}

static void test_alone(void **state) {
    (void)state;
    for (seed = 1; seed <= 6; seed++)
        run(256, 60);
}

static void test_under_pressure(void **state) {
    (void)state;
    shrinks = settles = 0;
    for (seed = 101; seed <= 112; seed++)
        run(14 + seed % 4 * 4, 320);
    printf("%" PRIu64 " settles, %" PRIu64 " shrinks, %" PRIu64 " rows appended, %" PRIu64 " bytes of pages moved\n",
           settles, shrinks, appended, copied);
    assert_true(shrinks > 0 && copied > 0);
}

/* Sessions whose rows lose their details before they go, and when memory is taken back. */
static void test_fading(void **state) {
    (void)state;
    all_fade = true;
    shrinks = settles = appended = copied = detailed = 0;
    for (seed = 301; seed <= 304; seed++)
        run(10 + seed % 4 * 3, 320);
    all_fade = false;
    printf("%" PRIu64 " settles, %" PRIu64 " shrinks, %" PRIu64 " bytes of pages moved, %" PRIu64
           " details of heads where not all rows have one\n",
           settles, shrinks, copied, detailed);
    assert_true(shrinks > 0 && copied > 0 && detailed > 0);
}

static void test_on_a_device(void **state) {
    (void)state;
    on_gpu = true;
    shrinks = settles = appended = copied = 0;
    for (seed = 201; seed <= 208; seed++)
        run(10 + seed % 4 * 4, 320);
    printf("%" PRIu64 " settles, %" PRIu64 " shrinks, %" PRIu64 " rows appended, %" PRIu64 " bytes of pages moved\n",
           settles, shrinks, appended, copied);
    assert_true(shrinks > 0 && copied > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alone),
        cmocka_unit_test(test_under_pressure),
        cmocka_unit_test(test_fading),
        cmocka_unit_test(test_on_a_device),
    };
    return cmocka_run_group_tests_name("the broker against the naive model", tests, NULL, NULL);
}
