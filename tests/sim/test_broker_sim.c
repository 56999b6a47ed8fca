/* test_broker_sim.c - random operations on the broker from a seed, with everything going wrong that can, and
 * broker_check() after each.
 *
 * SIM_STEPS and SIM_SEED in the environment change the run; the seed is printed. Steps come in epochs, each with a
 * broker of its own: some with a backend that cannot revoke, some with a second pool on a device that works late
 * (fake_device.h watches its rules), some in which nothing fails, so that it can be told that no guarantee is broken.
 * At an epoch's end everybody goes and all must be back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc.h"
#include "sim/test_broker_sim.h"

#ifdef __SANITIZE_ADDRESS__ /* three times slower, beside a run without */
#define STEPS 80000
#else
#define STEPS 200000
#endif

/* ---------- operations ---------- */

static void do_open(void) {
    static const char *const policies[] = {"streaming", "pivotal", "scissorhands", "window", "h2o", "tova", "random"};
    int peer = any_peer();
    if (peer < 0 || (calm && below(30)))
        return;
    uint32_t fresh = 16u << below(5), policy = below(7);
    uint32_t guaranteed = fresh + 16 + below(below(3) ? 40 : 200);
    struct proto_open spec =
        rig_spec(below(3) ? 2 : 1, below(3) ? 2 : 1, below(8) ? 256 : 16u << below(3), fresh, guaranteed,
                 below(4) ? guaranteed + below(below(3) ? 2000 : 300) : 0, policies[policy]);
    if (policy == 2) { /* a short window: broker_check() looks at every block of it */
        spec.groups[0].params[0] = (struct proto_param){.name = "window", .value = fresh * (1 + below(3))};
        spec.groups[0].params[1] = (struct proto_param){.name = "drop", .value = clean ? 0 : below(100)};
    }
    spec.compute_dtype = below(4) ? KERNEL_F32 : below(3);
    spec.storage_dtype = below(4) ? KERNEL_F32 : below(3);
    if (!gpu && below(4) == 0)
        spec.storage_dtype = KERNEL_FADE;
    spec.priority = below(3) * 100;
    spec.wait_ms = below(3) ? below(100) : 0;
    if (below(4) == 0) {
        spec.groups[1] = spec.groups[0];
        spec.groups[1].max_rows = 0;
        spec.group_count = 2;
    }
    if (gpu && below(3))
        spec.pool = below(2);
    if (!clean && below(20) == 0)
        ((uint32_t *)&spec)[below(sizeof spec / 4)] = below(2) ? 0xffffffffu : below(4096);
    int place = rig_open(&rig, peer, &spec);
    if (place < 0)
        return;
    places[place] = (struct place){0};
    for (uint32_t g = 0; g < PROTO_MAX_GROUPS; g++)
        places[place].least[g] = spec.groups[g].guaranteed_rows;
}

static float score_value(void *context, uint32_t layer, uint32_t kv_head, uint32_t plane, uint32_t slot) {
    (void)context, (void)layer, (void)kv_head, (void)plane, (void)slot;
    return (float)below(1000) / 1000;
}

static void deliver_frame(const struct old *frame) {
    broker_score(rig.broker, frame->bytes, frame->size, rig.now);
    rig_act(&rig);
}

static void do_frame(void) {
    int i = any_session();
    if (i < 0)
        return;
    struct rig_session *s = &rig.sessions[i];
    struct old *frame = &old[below(KEPT_FRAMES)];
    uint32_t fresh = 1 + below(s->fresh_rows), layer = below(rig_layers(s)), first;
    uint32_t group = rig_group(s, layer, &first), left = 0;
    if (s->scores[group].planes == 0 || s->closed)
        return;
    for (uint32_t g = 0; g <= group; g++)
        left += s->spec.groups[g].layers;
    frame->size =
        rig_frame(s, layer, 1 + below(left - layer), 1 + below(fresh), fresh, score_value, NULL, frame->bytes);
    switch (below(12)) {
    case 0: /* lost, or late */
        return;
    case 1: /* forged */
        frame->bytes[offsetof(struct proto_score, token) + below(16)] ^= (uint8_t)(1 + below(255));
        break;
    case 2: /* damaged */
        frame->bytes[below((uint32_t)(below(2) ? sizeof(struct proto_score) : frame->size))] ^=
            (uint8_t)(1 + below(255));
        break;
    case 3: /* cut */
        frame->size = below((uint32_t)frame->size);
        break;
    default:
        break;
    }
    deliver_frame(frame);
}

static void do_old_frame(void) {
    const struct old *frame = &old[below(KEPT_FRAMES)];
    if (frame->size)
        deliver_frame(frame);
}

static void reach(int i) {
    if (rig.sessions[i].fence)
        fake_fence_reach(rig.sessions[i].fence);
}

/* What is queued goes on, on either side. */
static void do_device(void) {
    int i = any_session();
    if (i >= 0 && below(2))
        reach(i);
    rig.gpu.client_is_quick = below(2);
    fake_device_run(&rig.gpu, below(2) ? below(20) : UINT64_MAX);
}

static void do_settle(void) {
    int i = free_session();
    if (i < 0 || rig.sessions[i].closed)
        return;
    if (below(4)) /* its client knows the step's sums */
        reach(i);
    uint32_t rows = below(3) ? rig.sessions[i].fresh_rows : below(rig.sessions[i].fresh_rows + 2);
    rig_settle(&rig, i, rows, rig.sessions[i].sequence + (below(20) == 0));
}

static void do_positions(void) {
    int i = free_session();
    if (i >= 0)
        rig_positions(&rig, i, below(3), below(3));
}

static void do_close(void) {
    int i = free_session();
    if (i < 0 || below(calm ? 8 : 2))
        return;
    rig_close(&rig, i);
}

/* A client begins or ends a step: within it, its memory stands still. */
static void do_step(void) {
    int i = any_session();
    if (i < 0 || rig.sessions[i].request)
        return;
    struct rig_session *s = &rig.sessions[i];
    if (places[i].step_open) {
        MUST(s->closed || s->control->generation == places[i].generation);
        rig_step_ends(&rig, i);
        if (s->lease->word == PROTO_LEASE_CLIENT)
            s->lease->word = PROTO_LEASE_FREE;
        places[i].step_open = false;
    } else if (!s->closed && s->lease->word == PROTO_LEASE_FREE && below(3) == 0) {
        s->lease->word = PROTO_LEASE_CLIENT;
        s->lease->fresh_count = below(2) ? below(5000) : 1;
        places[i].step_open = true;
        places[i].generation = s->control->generation;
        rig_step_begins(&rig, i);
    }
}

static void do_garbage(void) {
    int peer = any_peer();
    uint8_t packet[256];
    uint32_t size = below(sizeof packet);
    if (peer < 0)
        return;
    for (uint32_t i = 0; i < size; i++)
        packet[i] = (uint8_t)below(256);
    struct proto_header header = {PROTO_ATTACH_MAGIC, (uint16_t)below(20), (uint16_t)below(3), size, below(3)};
    memcpy(packet, &header, size < sizeof header ? size : sizeof header);
    broker_peer_message(rig.broker, rig.peers[peer].handle, packet, size, rig.now);
    rig_act(&rig);
}

static void do_control(void) {
    uint8_t key[PROTO_TOKEN_BYTES];
    int i = any_session();
    uint64_t session = i >= 0 ? rig.sessions[i].id : below(50);
    memset(key, below(2) ? 7 : 6, sizeof key);
    if (i >= 0 && below(2))
        memcpy(key, rig.sessions[i].token, sizeof key);
    uint32_t op = 1 + below(9);
    if (op == PROTO_OP_CLOSE_SESSION && below(10))
        op = PROTO_OP_SESSIONS;
    struct proto_request r = {.op = op,
                              .session = session,
                              .id = below(1000),
                              .first = below(4) ? 0 : below(20),
                              .value = {below(3), below(3)}};
    memcpy(r.token, key, sizeof key);
    rig_control_to(&rig, r);
}

/* Pool, budgets, priorities: asked for by the owner or by the operator, within what is allowed or not. */
static void do_limits(void) {
    int i = any_session(), peer = any_peer();
    if (i < 0 || peer < 0)
        return;
    struct rig_session *s = &rig.sessions[i];
    struct proto_request r = {.id = 1000 + step, .session = s->id, .op = PROTO_OP_SET_BUDGET};
    memcpy(r.token, rig_ask_pass(&rig, peer), sizeof r.token);
    uint32_t group = below(s->spec.group_count + 1);
    switch (below(6)) {
    case 0:
        r.op = PROTO_OP_SET_POOL;
        r.value[0] = gpu ? below(2) : 0;
        r.value[1] = (4 + below(40)) * MIB;
        break;
    case 1:
        r.op = PROTO_OP_SET_PRIORITY;
        r.value[0] = below(1100);
        break;
    default:
        r.value[0] = below(2) ? s->fresh_rows + below(300) : 0;
        r.value[1] = below(3) ? s->fresh_rows + below(2000) : 0;
        r.value[2] = group < s->spec.group_count ? group : PROTO_ALL_GROUPS;
    }
    rig_control_to(&rig, r);
    if (rig.answer.op != r.op || rig.answer.code) /* or its answer was lost for want of memory */
        return;
    tally.limits++;
    for (uint32_t g = 0; r.op == PROTO_OP_SET_BUDGET && r.value[0] && g < s->spec.group_count; g++)
        if ((r.value[2] == g || r.value[2] == PROTO_ALL_GROUPS) && r.value[0] < places[i].least[g])
            places[i].least[g] = (uint32_t)r.value[0];
}

static void do_job(void) {
    if (rig.job_count)
        rig_job(&rig, below(rig.job_count));
}

static void do_pass(void) {
    rig_pass(&rig, 1000 + (uint64_t)below(8000000) * (below(10) ? 1 : 40));
}

static void do_disconnect(void) {
    int peer = any_peer();
    if (peer < 0)
        return;
    tally.died++;
    recorded_stop(&recorders[peer]);
    if (gpu && below(2))
        rig_hang_up(&rig, peer);
    else
        rig_disconnect(&rig, peer);
}

static void do_exit(void) {
    rig_exit(&rig, (int)below(RIG_PEERS));
}

/* Sessions there end, and no others. */
static void do_lose_device(void) {
    if (!gpu || clean || rig.gpu.lost)
        return;
    fake_device_lose(&rig.gpu);
    tally.devices_lost++;
}

static void do_recovery(void) {
    alloc_fail_never();
    rig.device.allocate_fails_after = rig.host.allocate_fails_after = rig.gpu.allocate_fails_after = UINT64_MAX;
    rig.gpu.export_fails = rig.gpu.move_fails = false;
    store.puts_left = UINT64_MAX;
    rig.device.export_fails = rig.host.export_fails = rig.device.move_fails = false;
}

/* Some come back at once, some later, some never, and some more than once or with what is not theirs. */
static void come_back(int peer) {
    if (below(8) == 0) {
        rig_disconnect(&rig, peer);
        return;
    }
    rig_reconnect(&rig, peer);
    for (int i = 0; i < RIG_SESSIONS && rig.peers[peer].welcome; i++) {
        struct rig_session *s = &rig.sessions[i];
        if (s->peer != peer)
            continue;
        if (!clean && below(10) == 0) {
            struct proto_reattach body = {.session = s->id};
            rig_send(&rig, peer, PROTO_REATTACH, ++rig.last_request, &body, NULL, 0);
            MUST(rig.peers[peer].code == SCISSOR_ERESTARTED);
        }
        rig_reattach(&rig, i);
        tally.reattached++;
        if (below(4) == 0)
            rig_jobs(&rig);
    }
}

/* The broker ends, at times in the midst of moving rows, and another one has its sessions. */
static void do_restart(void) {
    struct proto_pool_stat stat;
    if (!kept)
        return;
    do_recovery();
    if (rig.job_count && below(2)) {
        rig.device.rows_left = below(300);
        broker_job_run(rig.jobs[0]);
        rig.device.rows_left = UINT64_MAX;
    }
    broker_pool_stat(rig.broker, 0, rig.now, &stat);
    rig.config.pools[0].limit_bytes = stat.limit_bytes; /* a smaller one would not have room for all */
    for (int peer = 0; peer < RIG_PEERS; peer++)        /* that of what it had open nothing is left */
        rig_exit(&rig, peer);
    for (int peer = 0; peer < RIG_PEERS; peer++)
        recorded_stop(&recorders[peer]);
    rig_restart(&rig);
    tally.restarts++;
    broker_pool_stat(rig.broker, 0, rig.now, &stat);
    MUST(stat.lost == 0 && stat.orphans == stat.taken_over);
    broker_check(rig.broker);
    for (int peer = 0; peer < RIG_PEERS; peer++) {
        bool has = false;
        for (int i = 0; i < RIG_SESSIONS; i++)
            has |= rig.sessions[i].peer == peer;
        if (has)
            come_back(peer);
        if (below(8) == 0)
            rig_pass(&rig, below(2000000000));
    }
    for (int i = 0; i < RIG_SESSIONS; i++) /* whose time has run out meanwhile */
        if (rig.sessions[i].peer >= 0 && !rig.peers[rig.sessions[i].peer].handle)
            rig_disconnect(&rig, rig.sessions[i].peer);
}

static void do_failures(void) {
    if (clean)
        return;
    switch (below(kept ? 5 : 4)) {
    case 4:
        store.puts_left = below(10);
        break;
    case 0:
        alloc_fail_after(below(30), below(2) ? 1 : 1 + below(10));
        break;
    case 1:
        rig.device.allocate_fails_after = below(4);
        rig.gpu.allocate_fails_after = below(4);
        break;
    case 2:
        rig.host.allocate_fails_after = below(3);
        break;
    default:
        rig.device.export_fails = below(4) == 0;
        rig.host.export_fails = below(8) == 0;
        rig.device.move_fails = below(16) == 0;
        rig.gpu.export_fails = below(8) == 0;
        rig.gpu.move_fails = below(16) == 0;
    }
    tally.failures++;
}

static void do_release(void) {
    for (int i = 0; i < RIG_SESSIONS; i++)
        if (rig.sessions[i].peer >= 0 && rig.sessions[i].release_count && below(2))
            rig_released(&rig, i);
}

static void do_connect(void) {
    int peer = rig_connect_as(&rig, below(3) ? RIG_UID : RIG_OWNER_UID);
    if (peer >= 0)
        recorded_stop(&recorders[peer]); /* if the one before was hung up on */
}

/* ---------- what must hold ---------- */

/* As many rows as were promised, and every page in memory that the client was told of. */
static void check_client(const struct rig_session *s) {
    uint32_t head = 0;
    if (s->closed || s->request)
        return;
    for (uint32_t g = 0; g < s->spec.group_count; g++)
        for (uint32_t h = 0; h < s->spec.groups[g].layers * s->spec.groups[g].kv_heads; h++, head++) {
            const uint32_t *entry = rig_head(s, head);
            uint64_t promised = places[s - rig.sessions].least[g] - s->fresh_rows;
            if (clean)
                MUST(entry[0] >= (s->tokens < promised ? s->tokens : promised));
            for (uint32_t p = 0; p < entry[1]; p++)
                MUST(rig_page(s, head, p));
        }
}

static void check_all(void) {
    struct proto_pool_stat stat;
    uint64_t charged = 0;
    broker_check(rig.broker);
    for (uint32_t i = 0; i < rig.config.pool_count; i++) {
        broker_pool_stat(rig.broker, i, rig.now, &stat);
        charged += stat.charged_bytes;
        MUST(stat.charged_bytes <= stat.limit_bytes && stat.target_bytes <= stat.limit_bytes);
        MUST(stat.guaranteed_bytes <= stat.target_bytes && stat.quarantined_bytes <= stat.charged_bytes);
        if (i == 1 && !rig.gpu.lost)
            MUST(rig.gpu.bytes <= stat.charged_bytes);
    }
    MUST(rig.device.bytes + rig.host.bytes + (rig.gpu.lost ? 0 : rig.gpu.bytes) <= charged);
    int i = any_session();
    if (i >= 0 && rig.job_count == 0)
        check_client(&rig.sessions[i]);
    check_recorded();
}

/* ---------- the run ---------- */

static const struct {
    void (*run)(void);
    uint32_t weight;
} operations[] = {
    {do_open, 6},     {do_frame, 30},  {do_old_frame, 5}, {do_settle, 40}, {do_positions, 2}, {do_close, 1},
    {do_step, 20},    {do_job, 40},    {do_pass, 8},      {do_connect, 3}, {do_control, 3},   {do_limits, 3},
    {do_failures, 2}, {do_release, 4}, {do_recovery, 6},  {do_device, 12}, {do_exit, 1},      {do_record, 2},
};

static void one_step(void) {
    uint32_t all = 0, draw;
    if (below(2000) == 0)
        do_disconnect();
    if (below(400) == 0)
        do_restart();
    if (below(8000) == 0)
        do_lose_device();
    calm = step / 500 % 2 == 0;
    if (below(2000) == 0)
        do_garbage();
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
        all += operations[i].weight;
    draw = below(all);
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        if (draw < operations[i].weight) {
            operations[i].run();
            break;
        }
        draw -= operations[i].weight;
    }
    check_all();
}

/* Everything that was asked gets its answer. */
static void settle_down(void) {
    do_recovery();
    for (int i = 0; i < 400; i++) {
        rig_jobs(&rig);
        rig_pass(&rig, 10000000);
    }
    for (int i = 0; i < RIG_SESSIONS; i++)
        MUST(rig.sessions[i].peer < 0 || rig.sessions[i].request == 0);
    check_all();
}

/* What the daemon has closed is let go of by its clients, where the daemon must wait for that. */
static void close_closed(void) {
    for (int i = 0; i < RIG_SESSIONS; i++)
        if (rig.sessions[i].peer >= 0 && rig.sessions[i].closed && !rig.sessions[i].request)
            rig_close(&rig, i);
}

/* When all clients stand still and let go of what they were told, the pool comes down to what the operator wants. */
static void end_steps(void) {
    struct proto_pool_stat stat;
    for (int i = 0; i < RIG_SESSIONS; i++) {
        struct rig_session *s = &rig.sessions[i];
        if (s->peer >= 0 && s->opened && s->lease)
            s->lease->word = PROTO_LEASE_FREE;
        places[i].step_open = false;
    }
    for (int i = 0; i < RIG_PEERS; i++)
        rig_exit(&rig, i);
    close_closed();
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < RIG_SESSIONS; i++) {
            if (rig.sessions[i].peer >= 0 && rig.sessions[i].opened)
                reach(i);
            if (rig.sessions[i].peer >= 0 && rig.sessions[i].release_count)
                rig_released(&rig, i);
        }
        rig_pass(&rig, 20000000);
        rig_jobs(&rig);
    }
    check_all();
    for (uint32_t i = 0; i < rig.config.pool_count; i++) {
        broker_pool_stat(rig.broker, i, rig.now, &stat);
        MUST(stat.limit_bytes == stat.target_bytes && stat.quarantined_bytes == 0);
        MUST(!stat.device_lost || stat.sessions == 0);
    }
    MUST(broker_deadline(rig.broker) == UINT64_MAX);
}

static void epoch(uint64_t steps) {
    size_t live = alloc_live();
    struct proto_pool_stat stat;
    clean = below(3) == 0;
    uint64_t pool = (12 + below(20)) * MIB;
    kept = below(2);
    fake_store_init(&store, below(4) ? FAKE_STORE_MAX : 20 + below(60));
    gpu = below(3) != 0;
    if (kept)
        rig_init_kept(&rig, pool, &store, false);
    else
        rig_init(&rig, pool, gpu || below(3) != 0);
    if (gpu) {
        rig.broker = broker_free(rig.broker);
        rig_add_gpu(&rig, (12 + below(20)) * MIB);
        MUST(broker_new(&rig.config, &rig.broker) == 0);
    }
    rig.recorders = recorders;
    memset(places, 0, sizeof places);
    for (size_t i = 0; i < KEPT_FRAMES; i++)
        old[i].size = 0;
    for (uint64_t i = 0; i < steps; i++, step++)
        one_step();
    settle_down();
    end_steps();
    if (!kept && below(2)) { /* where sessions are kept, an ending process leaves them */
        broker_drain(rig.broker, rig.now);
        broker_close_all(rig.broker, rig.now);
        rig_act(&rig);
        settle_down();
        close_closed();
        settle_down();
        MUST(broker_session_count(rig.broker) == 0);
    }
    broker_pool_stat(rig.broker, 0, rig.now, &stat);
    tally.opened += stat.opened;
    tally.refused += stat.refused;
    tally.closed += stat.closed;
    tally.settles += stat.settles;
    tally.reclaims += stat.reclaims;
    tally.folded += stat.frames[PROTO_FRAME_FOLDED];
    tally.early_settles += rig.early_settles;
    tally.quarantined += rig.events[PROTO_EVENT_QUARANTINED];
    if (gpu) {
        broker_pool_stat(rig.broker, 1, rig.now, &stat);
        tally.gpu_settles += stat.settles;
    }
    rig_deinit(&rig);
    for (size_t i = 0; i < RIG_PEERS; i++) {
        recorded_stop(&recorders[i]);
        tally.records += recorders[i].records;
        tally.records_lost += recorders[i].lost;
        recorders[i] = (struct recorded){0};
    }
    MUST(store.count == 0);
    fake_store_deinit(&store);
    MUST(alloc_live() == live);
}

static uint64_t number(const char *name, uint64_t value) {
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 0) : value;
}

static void test_sim(void **state) {
    uint64_t steps = number("SIM_STEPS", STEPS), seed = number("SIM_SEED", 20240607);
    (void)state;
    rng_state = seed;
    printf("SIM_SEED=%llu SIM_STEPS=%llu\n", (unsigned long long)seed, (unsigned long long)steps);
    while (step < steps)
        epoch(steps - step < EPOCH_STEPS ? steps - step : EPOCH_STEPS);
    printf("opened %llu, refused %llu, closed %llu, settles %llu, segments reclaimed %llu, frames folded %llu, "
           "peers died %llu, failures %llu, restarts %llu, sessions reattached %llu, limits set %llu; on the device: "
           "settles %llu, before the step's work was done %llu, "
           "sessions quarantined %llu, devices lost %llu; recordings %llu of %llu records, lost %llu, compared %llu\n",
           (unsigned long long)tally.opened, (unsigned long long)tally.refused, (unsigned long long)tally.closed,
           (unsigned long long)tally.settles, (unsigned long long)tally.reclaims, (unsigned long long)tally.folded,
           (unsigned long long)tally.died, (unsigned long long)tally.failures, (unsigned long long)tally.restarts,
           (unsigned long long)tally.reattached, (unsigned long long)tally.limits,
           (unsigned long long)tally.gpu_settles, (unsigned long long)tally.early_settles,
           (unsigned long long)tally.quarantined, (unsigned long long)tally.devices_lost,
           (unsigned long long)tally.recordings, (unsigned long long)tally.records,
           (unsigned long long)tally.records_lost, (unsigned long long)tally.compared);
    assert_true(steps < 10000 || (tally.recordings && tally.compared));
    assert_true(steps < 10000 || (tally.settles && tally.reclaims && tally.folded && tally.refused));
    assert_true(steps < 100000 || (tally.gpu_settles && tally.early_settles && tally.quarantined));
    assert_true(steps < 100000 || tally.records_lost);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sim)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
