/* test_broker_arbiter.c - who gives memory back when there is none left, and who waits for it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "job.h"
#include "test_broker.h"

static void fill(int s, float mass, int times) {
    for (int i = 0; i < times; i++) {
        deliver(make_frame(s, 64, 64, mass));
        settle(s, 64);
    }
}

static void test_least_mass_goes_first(void **state) {
    (void)state;
    rig_init(&rig, 32 * MIB, true);
    int low = open_one(192, 4096, "scissorhands"), high = open_one(192, 4096, "scissorhands");
    for (int i = 0; i < 12; i++) {
        fill(low, 0.25f, 1);
        fill(high, 1, 1);
    }
    uint32_t low_rows = rig_head(&rig.sessions[low], 0)[0], high_rows = rig_head(&rig.sessions[high], 0)[0];
    assert_int_equal(low_rows, high_rows);
    while (stat_now().limit_bytes - stat_now().guaranteed_bytes - stat_now().lent_bytes > 4 * MIB) {
        fill(low, 0.25f, 1);
        fill(high, 1, 1);
    }
    high_rows = rig_head(&rig.sessions[high], 0)[0];
    open_one(192, 0, "window");
    assert_true(stat_now().reclaims >= 1);
    assert_int_equal(rig_head(&rig.sessions[high], 0)[0], high_rows);
    assert_true(rig_head(&rig.sessions[low], 0)[0] < high_rows);
}

/* One whose rows matter clearly more grows at the expense of one whose rows do not. */
static void test_growth_takes_from_the_worthless(void **state) {
    (void)state;
    rig_init(&rig, 24 * MIB, true);
    int low = open_one(192, 8192, "scissorhands"), high = open_one(192, 8192, "scissorhands");
    fill(low, 0, 64);
    uint32_t before = rig_head(&rig.sessions[low], 0)[0];
    fill(high, 1, 40);
    assert_true(rig_head(&rig.sessions[low], 0)[0] < before);
    assert_true(rig_head(&rig.sessions[high], 0)[0] > 1000);
    assert_true(rig_head(&rig.sessions[low], 0)[0] >= 128);
    before = rig_head(&rig.sessions[high], 0)[0];
    fill(low, 0, 10); /* and not the other way round */
    assert_int_equal(rig_head(&rig.sessions[high], 0)[0], before);
}

/* Opens others until one of two has to give. */
static void open_until_pressed(int a, int b) {
    uint32_t rows_a = rig_head(&rig.sessions[a], 0)[0], rows_b = rig_head(&rig.sessions[b], 0)[0];
    while (rig_head(&rig.sessions[a], 0)[0] == rows_a && rig_head(&rig.sessions[b], 0)[0] == rows_b)
        open_one(192, 0, "window");
}

/* Fills the pool with rows that are worth nothing. */
static void fill_pool(int s) {
    fill(s, 0, 160);
    struct proto_pool_stat full = stat_now();
    assert_true(full.limit_bytes - full.guaranteed_bytes - full.lent_bytes < 2 * MIB);
}

static uint32_t held(int s) {
    return rig_head(&rig.sessions[s], 0)[0];
}

static void settle_begins(int s) {
    deliver(make_frame(s, 64, 64, 1));
    rig_settle(&rig, s, 64, rig.sessions[s].sequence);
}

/* Its last settle waits for another's shrink, which is about to run. */
static void grow_until_it_waits(int s) {
    while (!rig.job_count || rig.jobs[0]->kind != JOB_SHRINK) {
        rig_jobs(&rig);
        settle_begins(s);
    }
}

/* Who grows waits for what is taken from idle ones, and evicts nothing. */
static void test_growth_waits_for_the_idle(void **state) {
    (void)state;
    rig_init(&rig, 14 * MIB, true);
    int low = open_one(192, 16384, "scissorhands"), high = open_one(192, 16384, "scissorhands");
    fill_pool(low);
    uint64_t reclaims = stat_now().reclaims;
    bool waited = false;
    for (uint32_t rows = 64; rows <= 12 * 64; rows += 64) {
        settle_begins(high);
        waited |= rig.job_count == 1 && rig.jobs[0]->kind == JOB_SHRINK;
        rig_jobs(&rig);
        assert_int_equal(held(high), rows);
    }
    assert_true(waited && stat_now().reclaims > reclaims);
}

/* What was taken for one that waits is not for whoever settles before it is there. */
static void test_growth_is_first_come(void **state) {
    (void)state;
    rig_init(&rig, 22 * MIB, true);
    int low = open_one(192, 16384, "scissorhands");
    int first = open_one(192, 16384, "scissorhands"), second = open_one(192, 16384, "scissorhands");
    fill_pool(low);
    for (uint32_t rows = 64; rows <= 12 * 64; rows += 64) {
        settle_begins(first);
        settle_begins(second);
        rig_jobs(&rig);
        assert_int_equal(held(first), rows);
        assert_int_equal(held(second), rows);
    }
}

/* A wait ends with what was waited for, or with the session. */
static void test_growth_waits_in_vain(void **state) {
    (void)state;
    rig_init(&rig, 14 * MIB, true);
    int low = open_one(192, 16384, "scissorhands"), high = open_one(192, 16384, "scissorhands");
    fill_pool(low);
    grow_until_it_waits(high);
    rig.sessions[low].lease->word = PROTO_LEASE_CLIENT;
    uint32_t before = held(high);
    rig_jobs(&rig);
    assert_int_equal(rig.sessions[high].code, 0); /* with the memory that it had */
    assert_int_equal(held(high), before);
    rig.sessions[low].lease->word = PROTO_LEASE_FREE;
    rig_pass(&rig, 1000 * MS);
    fill(low, 0, 1);
    grow_until_it_waits(high);
    rig_disconnect(&rig, rig.sessions[high].peer);
    rig_jobs(&rig);
    assert_int_equal(broker_session_count(rig.broker), 1);
}

/* A small session; its job, if it has to wait for it, is still to be done. */
static int open_small(int peer) {
    struct proto_open spec = rig_spec(1, 1, 64, 64, 80, 0, "window");
    int s = rig_open(&rig, peer, &spec);
    rig_act(&rig);
    for (uint32_t i = 0; i < rig.job_count; i++)
        if (rig.jobs[i]->kind == JOB_OPEN) {
            rig_job(&rig, i);
            break;
        }
    assert_true(s >= 0 && rig.sessions[s].opened);
    return s;
}

/* While others open and close all the time there is always something on its way, if too little: a wait ends all the
 * same, and the settle is done with the memory that there is. */
static void test_growth_does_not_wait_for_ever(void **state) {
    (void)state;
    rig_init(&rig, 75 * MIB, true);
    int grower = rig_connect(&rig), peers[2] = {rig_connect(&rig), rig_connect(&rig)};
    struct proto_open spec = rig_spec(8, 8, 256, 64, 128, 4096, "window");
    int s = rig_open_now(&rig, grower, &spec), small[2] = {open_small(peers[0]), open_small(peers[1])};
    assert_true(s >= 0);
    for (uint32_t before = 0; rig_head(&rig.sessions[s], 0)[1] > before;) {
        before = rig_head(&rig.sessions[s], 0)[1];
        settle(s, 64);
    }
    rig_close(&rig, small[0]);
    rig_act(&rig);
    rig_settle(&rig, s, 64, 0);
    assert_true(rig.sessions[s].request); /* it waits */
    uint64_t began = rig.now;
    for (int turn = 0; rig.sessions[s].request && rig.now - began < 1000 * MS; turn = !turn) {
        rig_close(&rig, small[!turn]); /* before the other one's close has ended */
        rig_act(&rig);
        rig_job(&rig, 0);
        small[turn] = open_small(peers[turn]);
        broker_check(rig.broker);
        rig.now += 5 * MS;
    }
    assert_false(rig.sessions[s].request);
    assert_true(rig.now - began <= 100 * MS);
    assert_int_equal(rig.sessions[s].code, 0);
    rig_jobs(&rig);
}

/* Nor for one job that takes long. */
static void test_growth_waits_for_a_while(void **state) {
    (void)state;
    rig_init(&rig, 14 * MIB, true);
    int low = open_one(192, 16384, "scissorhands"), high = open_one(192, 16384, "scissorhands");
    fill_pool(low);
    grow_until_it_waits(high);
    uint32_t before = held(high);
    assert_int_equal(rig.job_count, 1);
    rig_pass(&rig, 40 * MS);
    assert_int_equal(rig.job_count, 1);
    assert_true(broker_deadline(rig.broker) <= rig.now + 10 * MS);
    rig_pass(&rig, 20 * MS);
    assert_int_equal(rig.job_count, 2); /* the settle, with the memory that it had */
    rig_job(&rig, 1);
    assert_false(rig.sessions[high].request);
    assert_int_equal(rig.sessions[high].code, 0);
    assert_int_equal(held(high), before);
    rig_jobs(&rig);
}

/* Memory that only keeps a session's rows in all of their bits goes before rows of others that matter less than its. */
static void test_details_go_before_rows(void **state) {
    (void)state;
    enum { ROWS = 40 * 64, SEGMENT_PAGES = 36 };
    rig_init(&rig, 16 * MIB, true);
    struct proto_open spec = rig_spec(2, 2, 256, 64, 192, 65536, "scissorhands");
    spec.storage_dtype = KERNEL_FADE;
    int fade = open_spec(&spec), other = open_one(192, 65536, "scissorhands");
    fill(fade, 1, ROWS / 64);
    assert_true(rig_head(&rig.sessions[fade], 0)[1] > 3 * ROWS / 64); /* pages: nobody else needed them */
    fill(other, 0.4f, 12);
    assert_int_equal(held(other), 12 * 64);
    assert_int_equal(held(fade), ROWS);
    assert_true(rig_head(&rig.sessions[fade], 0)[1] < ROWS / 64 + SEGMENT_PAGES);
}

/* Those who are in a step whenever they are asked give with their settles, so they are asked one ahead. */
static void test_growth_asks_busy_ones_ahead(void **state) {
    (void)state;
    rig_init(&rig, 14 * MIB, true);
    int low = open_one(192, 16384, "scissorhands"), high = open_one(192, 16384, "scissorhands");
    fill_pool(low);
    for (int i = 0; i < 12; i++) {
        rig.sessions[low].lease->word = PROTO_LEASE_CLIENT;
        fill(high, 1, 1);
        rig.sessions[low].lease->word = PROTO_LEASE_FREE;
        rig.sessions[low].lease->word = PROTO_LEASE_CLIENT;
        fill(low, 0, 1);
    }
    assert_int_equal(held(high), 11 * 64); /* once nobody knew yet that it is busy */
}

/* Of two that have as many rows of the same mass, the one that has lost less already gives. */
static void who_has_lost_less_gives(bool restart) {
    int old = open_one(192, 1024 + 64, "scissorhands"), young = open_one(192, 1024 + 64, "scissorhands");
    fill(young, 1, 16);
    fill(old, 1, 64);
    assert_int_equal(held(old), 1024);
    assert_int_equal(held(young), 1024);
    if (restart) {
        rig_restart(&rig);
        for (int s = old; s <= young; s++) {
            rig_reconnect(&rig, rig.sessions[s].peer);
            rig_reattach(&rig, s);
            assert_int_equal(rig.sessions[s].code, 0);
        }
    }
    open_until_pressed(old, young);
    assert_int_equal(held(old), 1024);
    assert_true(held(young) < 1024);
}

static void test_who_has_lost_less_gives(void **state) {
    (void)state;
    rig_init(&rig, 24 * MIB, true);
    who_has_lost_less_gives(false);
}

/* The next process knows what a session has lost, too. */
static void test_loss_outlives_a_restart(void **state) {
    struct fake_store store;
    (void)state;
    fake_store_init(&store, 4096);
    rig_init_kept(&rig, 24 * MIB, &store, false);
    who_has_lost_less_gives(true);
    rig_deinit(&rig);
    fake_store_deinit(&store);
    rig_init(&rig, 24 * MIB, true); /* for the teardown */
}

/* Rows that nobody has judged, as the scores were lost, are not worth nothing. */
static void test_unmeasured_is_not_worthless(void **state) {
    (void)state;
    rig_init(&rig, 24 * MIB, true);
    int blind = open_one(192, 1024 + 64, "scissorhands"), low = open_one(192, 1024 + 64, "scissorhands");
    for (int i = 0; i < 16; i++)
        settle(blind, 64);
    fill(low, 0.0001f, 16);
    open_until_pressed(blind, low);
    assert_int_equal(held(blind), 1024);
    assert_true(held(low) < 1024);
}

/* With reclaim = lru it is not the mass that counts: the one that has done nothing for longest gives first. */
static void test_least_recently_used_goes_first(void **state) {
    (void)state;
    rig_init(&rig, 24 * MIB, true);
    struct broker_config config;
    broker_config_init(&config);
    config.reclaim = BROKER_RECLAIM_LRU;
    assert_int_equal(broker_reconfigure(rig.broker, &config), 0);
    int first = open_one(192, 8192, "scissorhands"), second = open_one(192, 8192, "scissorhands");
    fill(first, 1, 24);
    rig_pass(&rig, MS);
    fill(second, 0.25f, 24);
    uint32_t first_rows = rig_head(&rig.sessions[first], 0)[0];
    rig_pass(&rig, MS);
    int third = open_one(192, 8192, "scissorhands");
    rig_pass(&rig, MS);
    fill(third, 0, 40);
    assert_true(rig_head(&rig.sessions[first], 0)[0] < first_rows);
    assert_true(rig_head(&rig.sessions[first], 0)[0] >= 128);
    assert_true(rig_head(&rig.sessions[third], 0)[0] > 1000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_least_mass_goes_first, teardown),
        cmocka_unit_test_teardown(test_growth_takes_from_the_worthless, teardown),
        cmocka_unit_test_teardown(test_growth_waits_for_the_idle, teardown),
        cmocka_unit_test_teardown(test_growth_is_first_come, teardown),
        cmocka_unit_test_teardown(test_growth_waits_in_vain, teardown),
        cmocka_unit_test_teardown(test_growth_does_not_wait_for_ever, teardown),
        cmocka_unit_test_teardown(test_growth_waits_for_a_while, teardown),
        cmocka_unit_test_teardown(test_details_go_before_rows, teardown),
        cmocka_unit_test_teardown(test_growth_asks_busy_ones_ahead, teardown),
        cmocka_unit_test_teardown(test_who_has_lost_less_gives, teardown),
        cmocka_unit_test_teardown(test_loss_outlives_a_restart, teardown),
        cmocka_unit_test_teardown(test_unmeasured_is_not_worthless, teardown),
        cmocka_unit_test_teardown(test_least_recently_used_goes_first, teardown),
    };
    return cmocka_run_group_tests_name("broker arbiter", tests, NULL, NULL);
}
