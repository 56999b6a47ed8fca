/* test_metrics.c - `scissorctl metrics` against answers that are made up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc.h"
#include "client/ctl/metrics.h"
#include "scissor_error.h"

#define MANY (CTL_METRICS_SESSIONS + 3)

static struct proto_pool_stat pool = {.name = "host",
                                      .version = "1.2",
                                      .version_major_minor = 1 << 16,
                                      .limit_bytes = 1000,
                                      .charged_bytes = UINT64_MAX,
                                      .uptime_ns = 1500000000,
                                      .evicted = {1, 2, 3, 4}};
static struct proto_session_stat sessions[MANY];
static struct proto_memory_stat memory[MANY];

static void fill(size_t count, struct ctl_metrics *ret) {
    memset(sessions, 0, sizeof sessions);
    memset(memory, 0, sizeof memory);
    for (size_t i = 0; i < count; i++) {
        sessions[i] = (struct proto_session_stat){.session = i + 1, .name = "a", .policy = "sinks", .lowest_mass = -1};
        memory[i] = (struct proto_memory_stat){.session = i + 1, .fresh_bytes = 5};
    }
    *ret = (struct ctl_metrics){.pools = {.entries = &pool, .count = 1},
                                .sessions = {.entries = sessions, .count = count},
                                .memory = {.entries = memory, .count = count}};
}

static void has(const struct out *o, const char *line) {
    char wanted[512];
    snprintf(wanted, sizeof wanted, "\n%s\n", line);
    if (!strstr(o->text, wanted))
        fail_msg("no line '%s' in:\n%s", line, o->text);
}

static size_t count_of(const struct out *o, const char *what) {
    size_t count = 0;
    for (const char *at = o->text; (at = strstr(at, what)); at++)
        count++;
    return count;
}

static void test_figures(void **state) {
    (void)state;
    struct ctl_metrics m;
    struct out o;
    fill(2, &m);
    sessions[1].lowest_mass = 0.25;
    sessions[1].pool = 7; /* none of those that were told */
    sessions[1].state = PROTO_SESSION_SETTLING;
    out_init(&o, true);
    ctl_metrics_print(&o, &m);
    has(&o, "# TYPE scissord_pool_limit_bytes gauge");
    has(&o, "scissord_info{version=\"1.2\",protocol=\"1.0\"} 1");
    has(&o, "scissord_pool_limit_bytes{pool=\"host\"} 1000");
    has(&o, "scissord_pool_charged_bytes{pool=\"host\"} 18446744073709551615");
    has(&o, "scissord_pool_uptime_seconds{pool=\"host\"} 1.500");
    has(&o, "scissord_pool_evicted_rows_total{pool=\"host\",reason=\"death\"} 4");
    has(&o, "scissord_session_priority{session=\"1\",name=\"a\",policy=\"sinks\",pool=\"host\",uid=\"0\"} 0");
    has(&o,
        "scissord_session_state{session=\"2\",name=\"a\",policy=\"sinks\",pool=\"7\",uid=\"0\",state=\"settling\"} 1");
    has(&o, "scissord_session_memory_bytes{session=\"1\",name=\"a\",policy=\"sinks\",pool=\"host\",uid=\"0\","
            "part=\"fresh\"} 5");
    /* What was not gathered is absent, not -1. */
    assert_int_equal(count_of(&o, "\nscissord_session_lowest_mass_ratio{"), 1);
    /* Each family is described once. */
    assert_int_equal(count_of(&o, "# HELP scissord_pool_evicted_rows_total "), 1);
    assert_int_equal(count_of(&o, "# HELP"), count_of(&o, "# TYPE"));
    assert_int_equal(count_of(&o, "\033"), 0);
    out_deinit(&o);
}

static void named(const char *name, size_t size, const char *expected) {
    struct ctl_metrics m;
    struct out o;
    char wanted[256];
    fill(1, &m);
    memset(sessions[0].name, 0, sizeof sessions[0].name);
    memcpy(sessions[0].name, name, size);
    out_init(&o, false);
    ctl_metrics_print(&o, &m);
    snprintf(wanted, sizeof wanted,
             "scissord_session_heads{session=\"1\",name=\"%s\",policy=\"sinks\",pool=\"host\",uid=\"0\"} 0", expected);
    has(&o, wanted);
    out_deinit(&o);
}

static void test_escapes(void **state) {
    (void)state;
    named("a\"b\\c\nd", 7, "a\\\"b\\\\c\\nd");
    named("\xc3\xa4", 2, "\xc3\xa4");
    named("a\xff\"", 3, "a?\\\"");
    named("", 0, "");
    named("01234567890123456789012345678901", 32, "01234567890123456789012345678901"); /* no NUL */
}

static void test_bounds(void **state) {
    (void)state;
    struct ctl_metrics m;
    struct out o;
    fill(MANY, &m);
    out_init(&o, false);
    ctl_metrics_print(&o, &m);
    has(&o, "scissord_sessions_left_out 3");
    assert_int_equal(count_of(&o, "\nscissord_session_tokens_total{"), CTL_METRICS_SESSIONS);
    assert_int_equal(count_of(&o, "\nscissord_session_filled_rows{"), CTL_METRICS_SESSIONS);
    out_deinit(&o);
    /* One that opened between the answers, one that closed, and a daemon without a pool. */
    fill(2, &m);
    memory[0].session = 99;
    m.pools.count = 0;
    out_init(&o, false);
    ctl_metrics_print(&o, &m);
    assert_int_equal(count_of(&o, "\nscissord_session_tokens_total{"), 2);
    assert_int_equal(count_of(&o, "\nscissord_session_filled_rows{"), 1);
    assert_int_equal(count_of(&o, "\nscissord_info{"), 0);
    out_deinit(&o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_figures),
        cmocka_unit_test(test_escapes),
        cmocka_unit_test(test_bounds),
    };
    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
