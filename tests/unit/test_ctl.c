/* test_ctl.c - scissorctl without a daemon: the command line, what is printed, JSON. */
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc.h"
#include "client/ctl/command.h"
#include "client/ctl/json.h"
#include "client/ctl/link.h"
#include "client/ctl/out.h"
#include "client/ctl/read.h"
#include "client/ctl/view.h"
#include "scissor_error.h"

/* ---------- command line ---------- */

struct line {
    const char *words[7];
    int status;
    const char *command, *argument;
};

static void test_parse(void **state) {
    (void)state;
    static const struct line lines[] = {
        {{"stat"}, 0, "stat", NULL},
        {{"--json", "stat"}, 0, "stat", NULL},
        {{"stat", "--json", "--dir", "/x"}, 0, "stat", NULL},
        {{"session", "--heads", "12"}, 0, "session", "12"},
        {{"watch", "--count", "3"}, 0, "watch", NULL},
        {{"top", "--once"}, 0, "top", NULL},
        {{"close", "some name"}, 0, "close", "some name"},
        {{"help"}, 0, "help", NULL},
        {{"help", "top"}, 0, "help", "top"},
        {{"--help"}, 0, "help", NULL},
        {{"-h", "top"}, 0, "help", "top"},
        {{"close", "--help"}, 0, "help", "close"},
        {{"--version"}, 0, "version", NULL},
        {{NULL}, CTL_USAGE, NULL, NULL},
        {{"start"}, CTL_USAGE, NULL, NULL},
        {{"stat", "x"}, CTL_USAGE, NULL, NULL},
        {{"session"}, CTL_USAGE, NULL, NULL},
        {{"session", "1", "2"}, CTL_USAGE, NULL, NULL},
        {{"stat", "--once"}, CTL_USAGE, NULL, NULL},
        {{"stat", "--nothing"}, CTL_USAGE, NULL, NULL},
        {{"stat", "-x"}, CTL_USAGE, NULL, NULL},
        {{"stat", "--dir"}, CTL_USAGE, NULL, NULL},
        {{"stat", "--dir", ""}, CTL_USAGE, NULL, NULL},
        {{"watch", "--count", "0"}, CTL_USAGE, NULL, NULL},
        {{"watch", "--count", "-1"}, CTL_USAGE, NULL, NULL},
        {{"watch", "--count", "99999999999999999999"}, CTL_USAGE, NULL, NULL},
        {{"watch", "--count", "3x"}, CTL_USAGE, NULL, NULL},
        {{"sessions", "--sort", "idle", "--reverse"}, 0, "sessions", NULL},
        {{"sessions", "--sort", "x"}, CTL_USAGE, NULL, NULL},
        {{"positions", "a", "--layer", "0", "--head", "2"}, 0, "positions", "a"},
        {{"positions", "a", "--layer", "-1"}, CTL_USAGE, NULL, NULL},
        {{"config"}, 0, "config", NULL},
        {{"config", "pool", "dir"}, CTL_USAGE, NULL, NULL},
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        char *argv[8] = {"scissorctl"};
        int argc = 1;
        for (; lines[i].words[argc - 1]; argc++)
            argv[argc] = (char *)(uintptr_t)lines[i].words[argc - 1];
        struct ctl ctl;
        const struct ctl_command *command = NULL;
        assert_int_equal(ctl_parse(argc, argv, &ctl, &command), lines[i].status);
        if (lines[i].status) {
            assert_null(command);
            continue;
        }
        assert_string_equal(command->name, lines[i].command);
        if (lines[i].argument)
            assert_string_equal(ctl.argument, lines[i].argument);
        else
            assert_null(ctl.argument);
    }
}

static void test_parse_values(void **state) {
    (void)state;
    char *argv[] = {"scissorctl", "watch", "--count", "3", "--json", "--dir", "/x/y", NULL};
    struct ctl ctl;
    const struct ctl_command *command;
    assert_int_equal(ctl_parse(7, argv, &ctl, &command), 0);
    assert_int_equal(ctl.count, 3);
    assert_true(ctl.json);
    assert_false(ctl.once);
    assert_string_equal(ctl.directory, "/x/y");
}

/* Each command of the table explains itself, and has one line in the list. */
static void test_commands_complete(void **state) {
    (void)state;
    for (const struct ctl_command *c = ctl_commands; c->name; c++) {
        assert_ptr_equal(ctl_command_find(c->name), c);
        assert_true(strlen(c->line) > 10 && strlen(c->line) < 90);
        assert_non_null(c->run);
    }
    assert_null(ctl_command_find("nothing"));
}

/* ---------- figures, tables ---------- */

static void test_figures(void **state) {
    (void)state;
    struct figure f;
    static const struct {
        uint64_t value;
        const char *bytes, *count, *time;
    } rows[] = {
        {0, "0 B", "0", "0 ms"},
        {999, "999 B", "999", "0 ms"},
        {1023, "1023 B", "1,023", "0 ms"},
        {1024, "1.0 KiB", "1,024", "0 ms"},
        {1048575, "1.0 MiB", "1,048,575", "1 ms"},
        {1048576, "1.0 MiB", "1,048,576", "1 ms"},
        {268435456, "256.0 MiB", "268,435,456", "268 ms"},
        {59999999999u, "55.9 GiB", "59,999,999,999", "59.9 s"},
        {60000000000u, "55.9 GiB", "60,000,000,000", "1 min 0 s"},
        {3600000000000u, "3.3 TiB", "3,600,000,000,000", "1 h 0 min"},
        {360000000000000u, "327.4 TiB", "360,000,000,000,000", "4 d 4 h"},
        {UINT64_MAX, "16.0 EiB", "18,446,744,073,709,551,615", "213503 d 23 h"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_string_equal(figure_bytes(&f, rows[i].value), rows[i].bytes);
        assert_string_equal(figure_count(&f, rows[i].value), rows[i].count);
        assert_string_equal(figure_time(&f, rows[i].value), rows[i].time);
    }
    assert_string_equal(figure_percent(&f, 1, 3), "33.3 %");
    assert_string_equal(figure_percent(&f, 1, 0), "0.0 %");
    assert_string_equal(figure_name(&f, "a\033[2Jb\x80"), "a?[2Jb?");
}

static void test_table(void **state) {
    (void)state;
    static const char *const titles[] = {">NUMBER", "NAME", "LAST"};
    struct table t;
    struct out o;
    out_init(&o, false);
    table_init(&t, titles, 3);
    for (int i = 0; i < 40; i++) { /* more than one step of memory */
        table_cell(&t, "%d", i * 1000000);
        table_cell(&t, "%s", i % 2 ? "x" : "longer");
        table_cell(&t, "end");
    }
    table_print(&t, &o, "");
    assert_false(o.failed);
    assert_memory_equal(o.text, "  NUMBER  NAME    LAST\n       0  longer  end\n 1000000  x       end\n", 65);
    table_deinit(&t);
    out_deinit(&o);
}

/* ---------- views and JSON ---------- */

static struct proto_session_stat some_session(uint64_t id, const char *name) {
    struct proto_session_stat s = {
        .session = id,
        .policy = "streaming",
        .pid = 42,
        .state = PROTO_SESSION_IDLE,
        .groups = 1,
        .layers = 2,
        .heads = 4,
        .fresh_rows = 64,
        .guaranteed_rows = 128,
        .max_rows = 256,
        .settled_min = 100,
        .settled_max = 128,
        .charged_bytes = 3 << 20,
        .guaranteed_bytes = 4 << 20,
        .tokens_seen = 12345,
        .evicted = {7, 8, 0, 1},
        .lowest_mass = NAN,
    };
    proto_text_set(s.name, sizeof s.name, name);
    return s;
}

static const struct proto_pool_stat some_pool = {
    .name = "host",
    .limit_bytes = 256 << 20,
    .charged_bytes = 64 << 20,
    .peak_bytes = 128 << 20,
    .evicted = {5},
    .frames = {9, 1},
    .sessions = 2,
    .uptime_ns = 5000000000u,
    .version_major_minor = 1 << 16,
    .version = "0.1.0",
};

static void assert_shows(struct out *o, const char *text) {
    assert_false(o->failed);
    if (!strstr(o->text, text))
        fail_msg("'%s' is not in:\n%s", text, o->text);
}

static void test_views(void **state) {
    (void)state;
    struct out o;
    struct proto_session_stat s = some_session(3, "reader");
    struct proto_head_stat heads[] = {
        {.layer = 0,
         .kv_head = 0,
         .settled = 100,
         .pages = 2,
         .oldest = 5,
         .newest = 900,
         .evicted = {10},
         .lowest_share = 0.5},
        {.layer = 0,
         .kv_head = 1,
         .settled = 128,
         .pages = 2,
         .oldest = 0,
         .newest = 910,
         .evicted = {1},
         .lowest_share = 0.7},
        {.layer = 1,
         .kv_head = 0,
         .settled = 64,
         .pages = 1,
         .oldest = 1,
         .newest = 64,
         .evicted = {2},
         .lowest_share = 0.25},
    };
    struct proto_event event = {
        .type = PROTO_EVENT_EVICTED, .session = 3, .rows = 1234, .reason = PROTO_REASON_PRESSURE, .name = "reader"};
    out_init(&o, false);
    ctl_view_pool(&o, &some_pool);
    ctl_view_pool_brief(&o, &some_pool);
    ctl_view_sessions(&o, NULL, NULL, 0);
    ctl_view_sessions(&o, &s, &(double){12.34}, 1);
    ctl_view_session(&o, &s);
    ctl_view_layers(&o, heads, 3);
    ctl_view_heads(&o, heads, 3);
    ctl_view_event(&o, &event);
    assert_shows(&o, "charged     64.0 MiB (25.0 % of the limit)");
    assert_shows(&o, "evicted     rows: 5 budget\n");
    assert_shows(&o, "frames      9 folded, 1 malformed\n");
    assert_shows(&o, "no session is open\n");
    assert_shows(&o, "12.3\n"); /* the rate */
    assert_shows(&o, "3  reader   42  ready       12,345    100-128       256  3.0 MiB");
    assert_shows(&o, "evicted     rows: 7 budget, 8 pressure, 1 death\n");
    assert_shows(
        &o,
        "    0         2            100-128      4       0     910  0.000            60.00 %  |        |  11 budget\n");
    s.orphan = 1;
    ctl_view_sessions(&o, &s, NULL, 1);
    assert_shows(&o, "3  reader   42  orphan ");
    assert_shows(&o, "rows evicted        session 3 (reader)  1,234 rows  by pressure\n");
    out_deinit(&o);
}

static void test_views_of_a_device(void **state) {
    (void)state;
    struct out o;
    struct proto_session_stat s = some_session(3, "reader");
    out_init(&o, false);
    struct proto_pool_stat on_gpu = some_pool;
    on_gpu.device_lost = on_gpu.quarantined = 1;
    on_gpu.quarantined_bytes = 6 << 20;
    strcpy(on_gpu.device, "cuda:GPU-1");
    ctl_view_pool(&o, &on_gpu);
    assert_shows(&o, "device      cuda:GPU-1, which has failed; restart scissord");
    assert_shows(&o, "quarantined 6.0 MiB of 1 session that ended");
    s.quarantine_s = 20;
    ctl_view_session(&o, &s);
    assert_shows(&o, "unreleased  for 20.0 s it has memory open that it was told to close\n");
    s.state = PROTO_SESSION_QUARANTINED;
    s.quarantine_s = 30;
    ctl_view_sessions(&o, &s, NULL, 1);
    ctl_view_session(&o, &s);
    assert_shows(&o, "3  reader   42  quarantined ");
    assert_shows(&o, "quarantined for 30.0 s: process 42 may have its memory open");
    out_deinit(&o);
}

static json_int_t integer(const json_t *object, const char *key) {
    json_t *value = json_object_get(object, key);
    if (!json_is_integer(value))
        fail_msg("no integer '%s'", key);
    return json_integer_value(value);
}

static void test_json(void **state) {
    (void)state;
    json_t *pool = ctl_json_pool(&some_pool);
    assert_non_null(pool);
    assert_int_equal(integer(pool, "limit_bytes"), 256 << 20);
    assert_int_equal(integer(pool, "charged_bytes"), 64 << 20);
    assert_int_equal(integer(pool, "peak_bytes"), 128 << 20);
    assert_int_equal(integer(json_object_get(pool, "evicted_rows"), "budget"), 5);
    assert_int_equal(integer(json_object_get(pool, "score_frames"), "malformed"), 1);
    assert_string_equal(json_string_value(json_object_get(pool, "protocol")), "1.0");
    json_decref(pool);

    struct proto_session_stat s = some_session(UINT32_MAX + 1ull, "not \xff UTF-8");
    json_t *session = ctl_json_session(&s);
    assert_non_null(session);
    assert_int_equal(integer(session, "session"), UINT32_MAX + 1ll);
    assert_int_equal(integer(session, "tokens_seen"), 12345);
    assert_string_equal(json_string_value(json_object_get(session, "name")), "not ? UTF-8");
    assert_true(json_real_value(json_object_get(session, "lowest_mass")) == 0);
    json_decref(session);

    struct proto_event event = {.type = PROTO_EVENT_REFUSED, .sequence = 9, .code = SCISSOR_FULL};
    json_t *e = ctl_json_event(&event, 2);
    assert_string_equal(json_string_value(json_object_get(e, "event")), "refused");
    assert_string_equal(json_string_value(json_object_get(e, "code")), "FULL");
    assert_int_equal(integer(e, "dropped_events"), 2);
    json_decref(e);
}

static void test_find(void **state) {
    (void)state;
    struct proto_session_stat entries[] = {some_session(11, "a"), some_session(12, "b"), some_session(13, "b"),
                                           some_session(14, "11"), some_session(15, "99")};
    struct ctl_answer answer = {.entries = entries, .count = 5};
    struct proto_session_stat found = {.session = 0};
    assert_int_equal(ctl_session_find(&answer, "12", &found), 0);
    assert_int_equal(found.session, 12);
    assert_int_equal(ctl_session_find(&answer, "a", &found), 0);
    assert_int_equal(found.session, 11);
    assert_int_equal(ctl_session_find(&answer, "11", &found), 0); /* the number goes first */
    assert_int_equal(found.session, 11);
    assert_int_equal(ctl_session_find(&answer, "99", &found), 0);
    assert_int_equal(found.session, 15);
    assert_int_equal(ctl_session_find(&answer, "b", &found), CTL_REFUSED);
    assert_int_equal(ctl_session_find(&answer, "c", &found), CTL_REFUSED);
    assert_int_equal(ctl_session_find(&answer, "12x", &found), CTL_REFUSED);
    assert_int_equal(ctl_session_find(&answer, "", &found), CTL_REFUSED);

    /* What is in quarantine has its name as long as no other that is open is called so. */
    entries[1].state = PROTO_SESSION_QUARANTINED;
    assert_int_equal(ctl_session_find(&answer, "b", &found), 0);
    assert_int_equal(found.session, 13);
    entries[2].state = PROTO_SESSION_QUARANTINED;
    assert_int_equal(ctl_session_find(&answer, "b", &found), CTL_REFUSED);
    entries[1].name[0] = 'x';
    assert_int_equal(ctl_session_find(&answer, "b", &found), 0);
    assert_int_equal(found.session, 13);
}

/* ---------- memory runs out ---------- */

static void print_all(void) {
    struct proto_session_stat s = some_session(3, "reader");
    struct ctl_answer answer = {.entries = &s, .count = 1};
    struct proto_event event = {.type = PROTO_EVENT_REFUSED, .sequence = 9, .code = SCISSOR_FULL, .rows = 1};
    json_decref(ctl_json_sessions(&answer));
    json_decref(ctl_json_pool(&some_pool));
    json_decref(ctl_json_event(&event, 0));
    struct out o;
    char drawn[4096];
    FILE *file = fmemopen(drawn, sizeof drawn, "w");
    assert_non_null(file);
    out_init(&o, false);
    ctl_view_pool(&o, &some_pool);
    ctl_view_sessions(&o, &s, NULL, 1);
    out_flush(&o, file);
    out_deinit(&o);
    fclose(file);
}

static void test_memory(void **state) {
    (void)state;
    size_t before = alloc_live();
    int quiet = open("/dev/null", O_WRONLY | O_CLOEXEC), loud = dup(STDERR_FILENO);
    assert_true(quiet >= 0 && loud >= 0);
    print_all();
    assert_int_equal(alloc_live(), before);
    dup2(quiet, STDERR_FILENO); /* it is said hundreds of times */
    for (size_t k = 0; k < 400; k++) {
        for (int ever = 0; ever < 2; ever++) {
            alloc_fail_after(k, ever ? SIZE_MAX : 1);
            print_all();
            alloc_fail_never();
            assert_int_equal(alloc_live(), before);
        }
    }
    dup2(loud, STDERR_FILENO);
    close(quiet);
    close(loud);
}

int main(void) {
    ctl_json_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_parse_values),
        cmocka_unit_test(test_commands_complete),
        cmocka_unit_test(test_figures),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_views_of_a_device),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests_name("ctl", tests, NULL, NULL);
}
