/* test_broker.c - who may come in, what is refused and with which words, who waits, and how sessions end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "test_broker.h"

/* 2 MiB of fresh rows and 2 MiB of settled ones, guaranteed; `max` rows at most. */
static struct proto_open four_mib(uint32_t max) {
    return rig_spec(2, 2, 256, 64, 64 + 128, max, "streaming");
}

static void settle_times(int s, int times) {
    for (int i = 0; i < times; i++) {
        rig_settle(&rig, s, rig.sessions[s].fresh_rows, 0);
        rig_jobs(&rig);
        assert_int_equal(rig.sessions[s].code, 0);
        broker_check(rig.broker);
    }
}

/* ---------- coming in ---------- */

static struct broker_peer *raw_peer(void) {
    struct rig_peer *peer = &rig.peers[RIG_PEERS - 1];
    assert_int_equal(broker_peer_new(rig.broker, 1, 2, 3, -1, &peer->handle), 0);
    broker_peer_set_data(peer->handle, peer);
    return peer->handle;
}

/* Sends to a fresh peer and takes the one packet that must come before the hang-up. */
static struct proto_failed refused(const void *packet, size_t size) {
    struct proto_failed failed = {0};
    struct broker_action a;
    struct broker_peer *peer = raw_peer();
    broker_peer_message(rig.broker, peer, packet, size, rig.now);
    assert_true(broker_action_next(rig.broker, &a));
    assert_int_equal(a.type, BROKER_ACTION_SEND);
    memcpy(&failed, proto_attach_body(a.bytes), sizeof failed);
    broker_peer_message(rig.broker, peer, packet, size, rig.now); /* nothing more is heard */
    assert_true(broker_action_next(rig.broker, &a));
    assert_int_equal(a.type, BROKER_ACTION_HANGUP);
    assert_false(broker_action_next(rig.broker, &a));
    broker_peer_gone(rig.broker, peer, rig.now);
    rig.peers[RIG_PEERS - 1].handle = NULL;
    return failed;
}

static void test_hello(void **state) {
    uint8_t packet[256];
    struct proto_hello hello = {.major = 9, .minor = 4, .capabilities = PROTO_CAP_HOST};
    struct proto_close body = {0};
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    size_t size = proto_attach_write(packet, sizeof packet, PROTO_HELLO, 1, &hello, NULL, 0);
    struct proto_failed failed = refused(packet, size);
    assert_int_equal(failed.code, SCISSOR_EVERSION);
    assert_non_null(strstr(failed.text, "1.0"));
    assert_non_null(strstr(failed.text, "9.4"));

    size = proto_attach_write(packet, sizeof packet, PROTO_CLOSE, 1, &body, NULL, 0);
    assert_int_equal(refused(packet, size).code, SCISSOR_EPROTO);
    assert_int_equal(refused(packet, 3).code, SCISSOR_EPROTO);
    hello = (struct proto_hello){.major = PROTO_VERSION_MAJOR};
    size = proto_attach_write(packet, sizeof packet, PROTO_HELLO, 1, &hello, NULL, 0);
    assert_int_equal(refused(packet, size).code, SCISSOR_EPROTO);

    int peer = rig_connect(&rig); /* a second HELLO ends it */
    hello.capabilities = PROTO_CAP_HOST;
    rig_send(&rig, peer, PROTO_HELLO, 5, &hello, NULL, 0);
    assert_int_equal(rig.hangups, 1);
}

static void change_u32(struct proto_open *spec, size_t offset, uint32_t value) {
    memcpy((char *)spec + offset, &value, sizeof value);
}

static void test_open_fields(void **state) {
#define FIELD(name) #name, offsetof(struct proto_open, name)
#define GROUP(name) #name, offsetof(struct proto_open, groups[0].name)
    static const struct {
        const char *name;
        size_t offset;
        uint32_t value;
    } wrong[] = {
        {FIELD(compute_dtype), 3},
        {FIELD(storage_dtype), 99},
        {FIELD(fresh_rows), 17},
        {FIELD(fresh_rows), 8},
        {FIELD(fresh_rows), 2048},
        {FIELD(priority), 1001},
        {FIELD(wait_ms), PROTO_MAX_WAIT_MS + 1},
        {FIELD(pool), 1},
        {FIELD(group_count), 0},
        {FIELD(group_count), 9},
        {GROUP(layers), 0},
        {GROUP(layers), 1025},
        {GROUP(kv_heads), 0},
        {GROUP(kv_heads), 0x80000000u},
        {GROUP(q_heads), 3},
        {GROUP(head_dim), 0},
        {GROUP(head_dim), 72},
        {GROUP(head_dim), 272},
        {GROUP(guaranteed_rows), 79},
        {GROUP(guaranteed_rows), PROTO_MAX_ROWS + 1},
        {GROUP(max_rows), 100},
        {GROUP(policy), 0x20202020},
        {GROUP(policy), 0x00787878},
    };
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    int peer = rig_connect(&rig);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct proto_open spec = four_mib(0);
        change_u32(&spec, wrong[i].offset, wrong[i].value);
        rig.peers[peer].code = 0;
        assert_int_equal(rig_open_now(&rig, peer, &spec), -1);
        assert_int_equal(rig.peers[peer].code, SCISSOR_EINVAL);
        if (!strstr(rig.peers[peer].text, wrong[i].name))
            fail_msg("%s = %u: \"%s\"", wrong[i].name, wrong[i].value, rig.peers[peer].text);
    }
    struct proto_open spec = four_mib(PROTO_MAX_ROWS);
    spec.groups[0].kv_heads = spec.groups[0].q_heads = 8; /* no frame could hold the scores of a layer */
    assert_int_equal(rig_open_now(&rig, peer, &spec), -1);
    assert_non_null(strstr(rig.peers[peer].text, "frame"));
    memset(spec.name, 'x', sizeof spec.name);
    assert_int_equal(rig_open_now(&rig, peer, &spec), -1);
    assert_non_null(strstr(rig.peers[peer].text, "name"));
    assert_int_equal(stat_now().charged_bytes, 0);
}

static void test_limits(void **state) {
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    broker_free(rig.broker);
    rig.config.sessions_per_peer_max = 2;
    rig.config.sessions_max = 3;
    assert_int_equal(broker_new(&rig.config, &rig.broker), 0);
    int a = rig_connect(&rig), b = rig_connect(&rig);
    struct proto_open spec = four_mib(0);
    assert_true(rig_open_now(&rig, a, &spec) >= 0);
    assert_true(rig_open_now(&rig, a, &spec) >= 0);
    assert_int_equal(rig_open_now(&rig, a, &spec), -1);
    assert_int_equal(rig.peers[a].code, SCISSOR_ELIMIT);
    assert_true(rig_open_now(&rig, b, &spec) >= 0);
    assert_int_equal(rig_open_now(&rig, b, &spec), -1);
    assert_int_equal(rig.peers[b].code, SCISSOR_ELIMIT);
}

/* ---------- memory ---------- */

static void test_full(void **state) {
    (void)state;
    rig_init(&rig, 10 * MIB, true);
    int peer = rig_connect(&rig);
    struct proto_open small = four_mib(0), huge = rig_spec(32, 8, 128, 64, 4096, 0, "window");
    huge.wait_ms = 1000; /* no use: it could never fit */
    assert_int_equal(rig_open_now(&rig, peer, &huge), -1);
    assert_int_equal(rig.peers[peer].code, SCISSOR_FULL);
    assert_non_null(strstr(rig.peers[peer].text, "10485760"));
    assert_true(rig_open_now(&rig, peer, &small) >= 0);
    assert_true(rig_open_now(&rig, peer, &small) >= 0);
    assert_int_equal(rig_open_now(&rig, peer, &small), -1);
    assert_int_equal(rig.peers[peer].code, SCISSOR_FULL);
    assert_int_equal(stat_now().refused, 2);
}

static void test_queue(void **state) {
    (void)state;
    rig_init(&rig, 10 * MIB, true);
    int peer = rig_connect(&rig);
    struct proto_open spec = four_mib(0);
    int first = rig_open_now(&rig, peer, &spec);
    assert_true(rig_open_now(&rig, peer, &spec) >= 0);
    spec.wait_ms = 100;
    int waits = rig_open(&rig, peer, &spec);
    spec.wait_ms = 50;
    int behind = rig_open(&rig, peer, &spec);
    assert_int_equal(stat_now().waiting, 2);
    spec.wait_ms = 0; /* nobody overtakes */
    assert_int_equal(rig_open_now(&rig, peer, &spec), -1);
    rig_pass(&rig, 60 * MS);
    assert_int_equal(rig.sessions[behind].peer, -1);
    assert_int_equal(stat_now().waiting, 1);
    rig_close(&rig, first);
    rig_jobs(&rig);
    assert_true(rig.sessions[waits].opened);
    assert_int_equal(stat_now().waiting, 0);

    spec.wait_ms = 100;
    waits = rig_open(&rig, peer, &spec);
    rig_pass(&rig, 99 * MS);
    assert_int_equal(rig.sessions[waits].peer, peer);
    rig_pass(&rig, 2 * MS);
    assert_int_equal(rig.sessions[waits].peer, -1);
    assert_int_equal(rig.peers[peer].code, SCISSOR_FULL);

    int other = rig_connect(&rig); /* one that dies in the queue: nobody has refused it */
    uint64_t refused = stat_now().refused, events = rig.events[PROTO_EVENT_REFUSED];
    rig_open(&rig, other, &spec);
    rig_disconnect(&rig, other);
    rig_act(&rig);
    assert_int_equal(stat_now().waiting, 0);
    assert_int_equal(stat_now().refused, refused);
    assert_int_equal(rig.events[PROTO_EVENT_REFUSED], events);
}

/* Whoever leaves the head of the queue, or gives up the last bytes, lets the next one in at once. */
static void test_queue_goes_on(void **state) {
    (void)state;
    rig_init(&rig, 10 * MIB, true);
    int peer = rig_connect(&rig);
    struct proto_open spec = four_mib(0), large = rig_spec(2, 2, 256, 64, 64 + 512, 0, "streaming");
    assert_true(rig_open_now(&rig, peer, &spec) >= 0);
    large.wait_ms = spec.wait_ms = 100;
    int head = rig_open(&rig, peer, &large), next = rig_open(&rig, peer, &spec);
    assert_int_equal(stat_now().waiting, 2);
    rig_control(&rig, PROTO_OP_CLOSE_SESSION, 2, 1, rig_operator(&rig));
    rig_jobs(&rig);
    assert_int_equal(rig.sessions[head].peer, -1);
    assert_int_equal(rig.peers[peer].code, SCISSOR_ECLOSED);
    assert_true(rig.sessions[next].opened);
}

static void test_queue_takes_pages_of_the_ended(void **state) {
    (void)state;
    rig_init(&rig, 10 * MIB, true);
    int peer = rig_connect(&rig);
    struct proto_open spec = four_mib(0);
    int first = rig_open_now(&rig, peer, &spec);
    uint64_t cost = stat_now().guaranteed_bytes;
    rig_disconnect(&rig, peer);
    rig_jobs(&rig);
    broker_free(rig.broker);
    rig.config.pools[0].limit_bytes = cost; /* just one */
    assert_int_equal(broker_new(&rig.config, &rig.broker), 0);
    peer = rig_connect(&rig);
    first = rig_open_now(&rig, peer, &spec);
    rig_control(&rig, PROTO_OP_CLOSE_SESSION, rig.sessions[first].id, 1, rig.sessions[first].token);
    rig_jobs(&rig);
    assert_true(rig.sessions[first].closed);
    spec.wait_ms = 100;
    int waits = rig_open(&rig, peer, &spec);
    rig_jobs(&rig);
    assert_false(rig.sessions[waits].opened);
    rig_close(&rig, first);
    rig_jobs(&rig);
    assert_true(rig.sessions[waits].opened);
}

/* An open right after a death is held until the dead one's memory is back. */
static void test_open_waits_for_closing(void **state) {
    (void)state;
    rig_init(&rig, 10 * MIB, true);
    int a = rig_connect(&rig), b = rig_connect(&rig);
    struct proto_open spec = four_mib(0);
    rig_open_now(&rig, a, &spec);
    rig_open_now(&rig, a, &spec);
    rig_disconnect(&rig, a);
    int s = rig_open_now(&rig, b, &spec);
    assert_true(s >= 0);
    assert_int_equal(broker_session_count(rig.broker), 1);
}

static void test_idle_is_shrunk_for_open(void **state) {
    (void)state;
    rig_init(&rig, 20 * MIB, true);
    int peer = rig_connect(&rig);
    struct proto_open spec = four_mib(64 + 2048);
    int a = rig_open_now(&rig, peer, &spec);
    settle_times(a, 40);
    assert_true(stat_now().lent_bytes > 10 * MIB);
    assert_true(rig_head(&rig.sessions[a], 0)[0] > 1000);
    int b = rig_open_now(&rig, peer, &spec);
    assert_int_equal(b, 1);
    assert_true(stat_now().reclaims >= 1);
    assert_true(stat_now().evicted[PROTO_REASON_PRESSURE] > 0);
    assert_true(rig_head(&rig.sessions[a], 0)[0] >= 128);
    assert_true(rig.events[PROTO_EVENT_PRESSURE] >= 1);
}

/* A session in a step is not touched: BUSY now, and its next settle gives the memory back. */
static void test_busy_is_shrunk_at_settle(void **state) {
    (void)state;
    rig_init(&rig, 20 * MIB, true);
    int peer = rig_connect(&rig);
    struct proto_open spec = four_mib(64 + 2048);
    int a = rig_open_now(&rig, peer, &spec);
    settle_times(a, 40);
    uint64_t generation = rig.sessions[a].control->generation;
    rig.sessions[a].lease->word = PROTO_LEASE_CLIENT;
    assert_int_equal(rig_open_now(&rig, peer, &spec), -1);
    assert_int_equal(rig.peers[peer].code, SCISSOR_BUSY);
    assert_int_equal(rig.sessions[a].control->generation, generation);
    spec.wait_ms = 100;
    int waits = rig_open(&rig, peer, &spec);
    rig_jobs(&rig);
    assert_false(rig.sessions[waits].opened);
    rig.sessions[a].lease->word = PROTO_LEASE_FREE;
    settle_times(a, 1);
    assert_true(rig.sessions[waits].opened);
    assert_true(rig.sessions[a].lease->word == PROTO_LEASE_FREE);
}

/* What a busy session has been told to give is not asked for again while it is about to give a part of it. */
static void test_no_more_is_taken_than_is_missing(void **state) {
    (void)state;
    rig_init(&rig, 40 * MIB, true);
    int peer = rig_connect(&rig), second = rig_connect(&rig);
    struct proto_open spec = four_mib(64 + 8192), large = rig_spec(2, 2, 256, 64, 64 + 1024, 0, "streaming");
    int a = rig_open_now(&rig, peer, &spec);
    settle_times(a, 140);
    assert_true(stat_now().lent_bytes > 30 * MIB);
    rig.sessions[a].lease->word = PROTO_LEASE_CLIENT;
    large.wait_ms = spec.wait_ms = 1000;
    spec.groups[0].max_rows = 0;
    int small = rig_open(&rig, second, &spec), waits = rig_open(&rig, peer, &large);
    rig_jobs(&rig);
    rig_settle(&rig, a, 64, 0); /* gives what the first needs */
    rig_disconnect(&rig, second);
    (void)small;
    for (int i = 0; i < 5; i++)
        rig_disconnect(&rig, rig_connect(&rig)); /* whatever makes the queue look again */
    rig_jobs(&rig);
    rig.sessions[a].lease->word = PROTO_LEASE_FREE;
    settle_times(a, 1);
    assert_true(rig.sessions[waits].opened);
    assert_true(stat_now().reclaims * 2 * MIB < stat_now().guaranteed_bytes);
    assert_true(stat_now().limit_bytes - stat_now().guaranteed_bytes - stat_now().lent_bytes < 4 * MIB);
}

/* One that was in a step when its memory was wanted, and then idles, is tried again. */
static void test_idle_is_tried_again(void **state) {
    (void)state;
    rig_init(&rig, 20 * MIB, true);
    int peer = rig_connect(&rig);
    struct proto_open spec = four_mib(64 + 2048);
    int a = rig_open_now(&rig, peer, &spec);
    settle_times(a, 40);
    rig.sessions[a].lease->word = PROTO_LEASE_CLIENT;
    spec.wait_ms = 1000;
    int waits = rig_open(&rig, peer, &spec);
    rig_jobs(&rig);
    rig_pass(&rig, 20 * MS);
    rig_jobs(&rig);
    assert_false(rig.sessions[waits].opened);
    rig.sessions[a].lease->word = PROTO_LEASE_FREE;
    rig_pass(&rig, 20 * MS);
    rig_jobs(&rig);
    assert_true(rig.sessions[waits].opened);
}

/* What cannot be revoked stays charged until its client lets go. */
static void test_quarantine(void **state) {
    (void)state;
    rig_init(&rig, 20 * MIB, false);
    int peer = rig_connect(&rig);
    struct proto_open spec = four_mib(64 + 2048);
    int a = rig_open_now(&rig, peer, &spec);
    settle_times(a, 40);
    uint64_t charged = stat_now().charged_bytes;
    spec.wait_ms = 100;
    int waits = rig_open(&rig, peer, &spec);
    rig_jobs(&rig);
    assert_true(rig.sessions[a].release_count >= 1);
    assert_int_equal(stat_now().charged_bytes, charged);
    assert_false(rig.sessions[waits].opened);
    rig_released(&rig, a);
    rig_jobs(&rig);
    assert_true(rig.sessions[waits].opened);
}

/* Two pools: a session lives in the one that was named, or in the one with more room. */
static void test_pools(void **state) {
    struct proto_pool_stat stat;
    (void)state;
    rig_init(&rig, 10 * MIB, true);
    broker_free(rig.broker);
    rig.config.pools[1] = rig.config.pools[0];
    rig.config.pools[1].limit_bytes = 12 * MIB;
    rig.config.pool_count = 2;
    assert_int_equal(broker_new(&rig.config, &rig.broker), 0);
    int peer = rig_connect(&rig);
    struct proto_open spec = four_mib(0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(rig_open_now(&rig, peer, &spec), i);
        settle_times(i, 3);
    }
    for (uint32_t i = 0; i < 2; i++) {
        broker_pool_stat(rig.broker, i, rig.now, &stat);
        assert_int_equal(stat.sessions, 2);
        assert_int_equal(stat.settles, 6);
    }
    rig_close(&rig, 0);
    rig_jobs(&rig);
    spec.pool = 0; /* the other one has the room */
    assert_int_equal(rig_open_now(&rig, peer, &spec), -1);
    assert_int_equal(rig.peers[peer].code, SCISSOR_FULL);
    spec.pool = 1;
    assert_int_equal(rig_open_now(&rig, peer, &spec), 0);
    rig_control(&rig, PROTO_OP_STAT, 0, 0, NULL);
    assert_int_equal(rig.answer.count, 2);
}

static void test_drain(void **state) {
    (void)state;
    rig_init(&rig, 10 * MIB, true);
    int peer = rig_connect(&rig);
    struct proto_open spec = four_mib(0);
    int a = rig_open_now(&rig, peer, &spec);
    rig_open_now(&rig, peer, &spec);
    spec.wait_ms = 1000;
    int waits = rig_open(&rig, peer, &spec);
    broker_drain(rig.broker, rig.now);
    rig_act(&rig);
    assert_int_equal(rig.sessions[waits].peer, -1);
    assert_int_equal(rig.peers[peer].code, SCISSOR_DRAINING);
    assert_int_equal(rig_open_now(&rig, peer, &spec), -1);
    assert_int_equal(rig.peers[peer].code, SCISSOR_DRAINING);
    settle_times(a, 2); /* those that are open go on */
    broker_close_all(rig.broker, rig.now);
    rig_jobs(&rig);
    assert_int_equal(broker_session_count(rig.broker), 0);
    assert_true(rig.sessions[a].closed);
}

/* What is changed at run time counts from then on; what cannot be, changes nothing. */
static void test_reconfigure(void **state) {
    struct broker_config config = {.score_wait_ns = 7 * MS, .sessions_max = 1, .sessions_per_peer_max = 1};
    struct proto_open spec = rig_spec(2, 2, 256, 64, 64 + 128, 0, NULL);
    (void)state;
    rig_init(&rig, 64 * MIB, true);
    int a = rig_connect(&rig), b = rig_connect(&rig);
    int first = rig_open_now(&rig, a, &spec), second = rig_open_now(&rig, b, &spec);
    assert_true(first >= 0 && second >= 0);
    assert_int_equal(broker_reconfigure(rig.broker, &config), SCISSOR_EINVAL); /* no policy */
    config.default_policy = "magic";
    assert_int_equal(broker_reconfigure(rig.broker, &config), SCISSOR_EINVAL);
    int third = rig_open_now(&rig, a, &spec);
    assert_true(third >= 0);

    char policy[] = "window";
    config.default_policy = policy;
    assert_int_equal(broker_reconfigure(rig.broker, &config), 0);
    memset(policy, 'x', sizeof policy - 1); /* the text was not kept */
    assert_int_equal(rig_open_now(&rig, b, &spec), -1);
    assert_int_equal(rig.peers[b].code, SCISSOR_ELIMIT);
    settle_times(first, 1); /* three are open where one may be: they go on */

    rig_close(&rig, second);
    rig_close(&rig, third);
    rig_jobs(&rig);
    rig_close(&rig, first);
    rig_jobs(&rig);
    assert_true(rig_open_now(&rig, b, &spec) >= 0);
    broker_check(rig.broker);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_hello, teardown),
        cmocka_unit_test_teardown(test_open_fields, teardown),
        cmocka_unit_test_teardown(test_limits, teardown),
        cmocka_unit_test_teardown(test_full, teardown),
        cmocka_unit_test_teardown(test_queue, teardown),
        cmocka_unit_test_teardown(test_queue_goes_on, teardown),
        cmocka_unit_test_teardown(test_queue_takes_pages_of_the_ended, teardown),
        cmocka_unit_test_teardown(test_open_waits_for_closing, teardown),
        cmocka_unit_test_teardown(test_idle_is_shrunk_for_open, teardown),
        cmocka_unit_test_teardown(test_busy_is_shrunk_at_settle, teardown),
        cmocka_unit_test_teardown(test_no_more_is_taken_than_is_missing, teardown),
        cmocka_unit_test_teardown(test_idle_is_tried_again, teardown),
        cmocka_unit_test_teardown(test_quarantine, teardown),
        cmocka_unit_test_teardown(test_pools, teardown),
        cmocka_unit_test_teardown(test_drain, teardown),
        cmocka_unit_test_teardown(test_reconfigure, teardown),
    };
    return cmocka_run_group_tests_name("broker: coming, waiting, memory", tests, NULL, NULL);
}
