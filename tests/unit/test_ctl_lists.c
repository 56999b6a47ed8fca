/* test_ctl_lists.c - the commands of scissorctl that list something, against answers that are made up. */
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc.h"
#include "client/ctl/command.h"
#include "client/ctl/json.h"
#include "client/ctl/memory.h"
#include "client/ctl/positions.h"
#include "client/ctl/set_limits.h"
#include "client/ctl/sort.h"
#include "client/ctl/view.h"
#include "fake_control.h"
#include "scissor_error.h"

static struct fake_control fake;
static char directory[64], text[65536];

static int setup(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(directory, sizeof directory, "%s/ctl.XXXXXX", base && strlen(base) < 40 ? base : "/tmp");
    if (!mkdtemp(directory))
        return -1;
    memset(&fake, 0, sizeof fake);
    fake_control_start(&fake, directory);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    char path[128];
    fake_control_stop(&fake);
    snprintf(path, sizeof path, "%s/%s", directory, PROTO_CONTROL_SOCKET);
    unlink(path);
    return rmdir(directory);
}

static int run_words(void *data) {
    const char *const *words = data;
    char *argv[12] = {"scissorctl", "--dir", directory};
    int argc = 3;
    for (; words[argc - 3]; argc++)
        argv[argc] = (char *)(uintptr_t)words[argc - 3];
    struct ctl ctl;
    const struct ctl_command *command;
    int status = ctl_parse(argc, argv, &ctl, &command);
    return status ? status : command->run(&ctl);
}

static int ctl_run(const char *const *words) {
    return fake_control_capture(run_words, (void *)(uintptr_t)words, text, sizeof text);
}
#define CTL(...) ctl_run((const char *const[]){__VA_ARGS__, NULL})

static void assert_said(const char *what) {
    if (!strstr(text, what))
        fail_msg("'%s' is not in:\n%s", what, text);
}

static json_t *parsed(void) {
    json_error_t error;
    json_t *value = json_loads(text, 0, &error);
    if (!value)
        fail_msg("%s in:\n%s", error.text, text);
    return value;
}

static json_int_t integer(const json_t *object, const char *key) {
    json_t *value = json_object_get(object, key);
    if (!json_is_integer(value))
        fail_msg("no integer '%s' in:\n%s", key, text);
    return json_integer_value(value);
}

/* ---------- sessions --sort ---------- */

static void sorted(const char *key, bool reverse, const char *expected) {
    struct proto_session_stat s[] = {
        {.session = 3, .name = "b", .charged_bytes = 30, .tokens_seen = 5, .idle_ns = 2, .priority = 100},
        {.session = 1, .name = "c", .charged_bytes = 20, .tokens_seen = 7, .idle_ns = 9, .priority = 50},
        {.session = 2, .name = "a", .charged_bytes = 20, .tokens_seen = 6, .idle_ns = 1, .priority = 900},
    };
    s[0].evicted[1] = 4;
    s[1].evicted[0] = 2;
    s[2].evicted[0] = s[2].evicted[1] = 3;
    ctl_sort_sessions(s, 3, key, reverse);
    for (size_t i = 0; i < 3; i++)
        if (s[i].session != (uint64_t)(expected[i] - '0'))
            fail_msg("%s: session %d is at %zu", key, (int)s[i].session, i);
}

static void test_sort(void **state) {
    (void)state;
    sorted("name", false, "231");
    sorted("name", true, "132");
    sorted("charged", false, "312"); /* equal ones by id */
    sorted("tokens", false, "123");
    sorted("idle", false, "132");
    sorted("priority", false, "132");
    sorted("evicted", false, "231");
    sorted("id", false, "123");
    sorted("id", true, "321");
    assert_false(ctl_sort_known("size"));
    assert_false(ctl_sort_known(""));
    ctl_sort_sessions(NULL, 0, "id", true);
    assert_int_equal(CTL("sessions", "--sort", "size"), CTL_USAGE);
}

/* ---------- memory ---------- */

static struct proto_memory_stat some_memory(uint64_t id, uint64_t unit) {
    struct proto_memory_stat m = {
        .session = id,
        .name = "reader",
        .state = PROTO_SESSION_IDLE,
        .fresh_bytes = 2 * unit,
        .used_bytes = 3 * unit,
        .free_bytes = unit,
        .page_bytes = 4096,
        .bookkeeping_bytes = 512,
        .guaranteed_bytes = 5 * unit,
        .settled_segments = 2,
        .fresh_segments = 1,
        .filled_rows = 30,
        .room_rows = 40,
    };
    m.charged_bytes = ctl_memory_parts(&m);
    return m;
}

static void test_memory(void **state) {
    (void)state;
    struct proto_memory_stat entries[] = {some_memory(1, 1 << 20), some_memory(2, 2 << 20), some_memory(3, 0)};
    struct proto_pool_stat pool = {.name = "host", .limit_bytes = 64 << 20, .guaranteed_bytes = 15 << 20};
    for (size_t i = 0; i < 3; i++)
        pool.charged_bytes += entries[i].charged_bytes;
    fake.list[PROTO_OP_STAT] = (struct fake_control_list){.entries = &pool, .count = 1};
    fake.list[PROTO_OP_MEMORY] = (struct fake_control_list){.entries = entries, .count = 3, .page = 1};
    assert_int_equal(CTL("memory"), 0);
    assert_said("pool host  18.0 MiB of 64.0 MiB charged (28.1 %), guaranteed 15.0 MiB, lent 0 B, free 46.0 MiB, "
                "fragmentation 25.0 %\n");
    assert_said("    sum          6.0 MiB     9.0 MiB     3.0 MiB      0 B      0 B  12.0 KiB         0 B      1.5 KiB"
                "  18.0 MiB    15.0 MiB     75.0 %  \n");
    assert_int_equal(CTL("memory", "--json"), 0);
    json_t *root = parsed(), *one = json_array_get(json_object_get(root, "pools"), 0);
    assert_true(json_is_true(json_object_get(one, "adds_up")));
    assert_int_equal(integer(one, "charged_bytes"), (json_int_t)pool.charged_bytes);
    assert_int_equal(integer(json_object_get(one, "sum"), "free_page_bytes"), 3 << 20);
    assert_true(json_real_value(json_object_get(one, "fragmentation")) == 0.25);
    assert_int_equal(json_array_size(json_object_get(one, "sessions")), 3);
    assert_int_equal(integer(json_array_get(json_object_get(one, "sessions"), 1), "session"), 2);
    json_decref(root);
    pool.charged_bytes++; /* the sum is one byte short, and nothing moves */
    assert_int_equal(CTL("memory"), CTL_REFUSED);
    assert_int_equal(CTL("memory", "--json"), CTL_REFUSED);
    root = parsed();
    assert_true(json_is_false(json_object_get(json_array_get(json_object_get(root, "pools"), 0), "adds_up")));
    json_decref(root);
    entries[1].charged_bytes++; /* the sum is right, an entry is not */
    struct ctl_memory_sum sum = ctl_memory_add(&pool, 0, entries, 3);
    assert_int_equal(sum.wrong, 2);
    assert_false(sum.adds_up);
    assert_int_equal(CTL("memory"), CTL_REFUSED);
    fake.list[PROTO_OP_MEMORY].count = 0;
    pool.charged_bytes = 0;
    assert_int_equal(CTL("memory"), 0); /* an empty pool adds up, too */
}

/* ---------- positions ---------- */

static const struct proto_session_stat session = {.session = 7, .name = "reader", .tokens_seen = 1000};

static void test_positions(void **state) {
    (void)state;
    static const struct proto_position held[] = {{900}, {2}, {1}, {0}, {901}, {17}};
    fake.list[PROTO_OP_SESSIONS] = (struct fake_control_list){.entries = &session, .count = 1};
    fake.list[PROTO_OP_POSITIONS] = (struct fake_control_list){.entries = held, .count = 6, .page = 4, .busy = 3};
    assert_int_equal(CTL("positions", "reader", "--layer", "3", "--head", "1"), 0);
    assert_said("session 7  layer 3, KV head 1: 6 settled rows of 1,000 tokens\n0-2, 17, 900-901\n");
    fake.list[PROTO_OP_POSITIONS].page = 0;
    assert_int_equal(CTL("positions", "7", "--layer", "3", "--head", "1", "--json"), 0);
    assert_int_equal(fake.last.session, 7);
    assert_int_equal(fake.last.value[0], 3);
    assert_int_equal(fake.last.value[1], 1);
    json_t *root = parsed(), *list = json_object_get(root, "positions");
    assert_int_equal(json_array_size(list), 6);
    assert_int_equal(json_integer_value(json_array_get(list, 0)), 900); /* as the slots are */
    json_decref(root);
    fake.list[PROTO_OP_POSITIONS].busy = UINT32_MAX; /* it settles for ever */
    assert_int_equal(CTL("positions", "7", "--layer", "3", "--head", "1"), CTL_REFUSED);
    fake.list[PROTO_OP_POSITIONS] = (struct fake_control_list){.code = SCISSOR_EINVAL};
    unsigned before = fake.requests;
    assert_int_equal(CTL("positions", "7", "--layer", "3", "--head", "99"), CTL_REFUSED);
    assert_int_equal(fake.requests, before + 2); /* asked once */
    assert_int_equal(CTL("positions", "7", "--layer", "3"), CTL_USAGE);
    assert_int_equal(CTL("positions", "7", "--layer", "x", "--head", "1"), CTL_USAGE);
}

static void test_long_lines(void **state) {
    (void)state;
    struct proto_position many[400];
    for (uint32_t i = 0; i < 400; i++)
        many[i].position = 1000 + 2 * i;
    struct out o;
    out_init(&o, false);
    ctl_view_positions(&o, many, 400);
    assert_int_equal(strncmp(o.text, "1000, 1002, ", 12), 0);
    for (char *line = strtok(o.text, "\n"); line; line = strtok(NULL, "\n"))
        assert_true(strlen(line) <= 101);
    out_deinit(&o);
    out_init(&o, false);
    ctl_view_positions(&o, NULL, 0);
    assert_string_equal(o.text, "none\n");
    out_deinit(&o);
}

/* ---------- config, policies ---------- */

static void test_config(void **state) {
    (void)state;
    static const struct proto_option options[] = {
        {.name = "pool", .unit = "SIZE", .value = "64MiB", .text = "memory of all sessions", .source = 2},
        {.name = "score-wait",
         .unit = "MS",
         .value = "250",
         .standard = "200",
         .text = "how long",
         .source = 1,
         .live = 1},
        {.name = "policy", .unit = "NAME", .value = "a\033[2J", .standard = "pivotal", .live = 1},
    };
    fake.list[PROTO_OP_CONFIG] = (struct fake_control_list){.entries = options, .count = 3, .page = 2};
    assert_int_equal(CTL("config"), 0);
    assert_said("NAME        VALUE  DEFAULT  UNIT  FROM          CHANGES\n");
    assert_said("pool        64MiB  -        SIZE  command line  at a restart\n");
    assert_said("score-wait  250    200      MS    file          at a reload\n");
    assert_said("a?[2J");
    assert_int_equal(CTL("config", "score-wait"), 0);
    assert_said("score-wait = 250\n  default  200\n  unit     MS\n  from     file\n");
    assert_int_equal(CTL("config", "pool", "--json"), 0);
    json_t *root = parsed(), *list = json_object_get(root, "options"), *one = json_array_get(list, 0);
    assert_int_equal(json_array_size(list), 1);
    assert_string_equal(json_string_value(json_object_get(one, "source")), "command line");
    assert_true(json_is_null(json_object_get(one, "default")));
    json_decref(root);
    assert_int_equal(CTL("config", "nothing"), CTL_REFUSED);
}

static void test_policies(void **state) {
    (void)state;
    static const struct proto_policy_param params[] = {
        {.policy = "pivotal",
         .text = "best",
         .source = "ours",
         .param = "sinks",
         .unit = "rows",
         .param_text = "first ones",
         .min = 0,
         .max = 64,
         .value = 4,
         .standard = 1},
        {.policy = "pivotal",
         .text = "best",
         .source = "ours",
         .param = "recent",
         .param_text = "newest",
         .max = 0.5,
         .value = 0.25,
         .standard = 1},
        {.policy = "window", .text = "the newest rows", .source = "nobody"},
    };
    fake.list[PROTO_OP_POLICIES] = (struct fake_control_list){.entries = params, .count = 3};
    assert_int_equal(CTL("policies"), 0);
    assert_said("pivotal       best (default)\nwindow        the newest rows\n");
    assert_int_equal(CTL("policies", "pivotal"), 0);
    assert_said("pivotal (default)  best\n  source  ours\n  sinks = 4 rows, 0 to 64\n      first ones\n"
                "  recent = 0.25, 0 to 0.5\n");
    assert_int_equal(CTL("policies", "window"), 0);
    assert_said("window  the newest rows\n  source  nobody\n");
    assert_int_equal(CTL("policies", "--json"), 0);
    json_t *root = parsed(), *list = json_object_get(root, "policies");
    assert_int_equal(json_array_size(list), 2);
    assert_int_equal(json_array_size(json_object_get(json_array_get(list, 0), "parameters")), 2);
    assert_int_equal(json_array_size(json_object_get(json_array_get(list, 1), "parameters")), 0);
    json_decref(root);
    assert_int_equal(CTL("policies", "nothing"), CTL_REFUSED);
}

/* ---------- session ---------- */

static void test_session(void **state) {
    (void)state;
    static const struct proto_head_stat heads[] = {
        {.layer = 0,
         .kv_head = 0,
         .settled = 100,
         .pages = 2,
         .newest = 900,
         .evicted = {10, 2},
         .mass = 0.5,
         .lowest_share = 0.5,
         .age = {64, 32, 4}},
        {.layer = 0,
         .kv_head = 1,
         .settled = 128,
         .pages = 2,
         .newest = 910,
         .evicted = {1},
         .mass = 0.75,
         .lowest_share = 0.7,
         .age = {64, 32, 28, 0, 0, 0, 0, 4}},
    };
    static struct proto_head_stat blind = {.layer = 3, .settled = 64, .mass = -1, .lowest_share = -1};
    fake.list[PROTO_OP_SESSIONS] = (struct fake_control_list){.entries = &session, .count = 1};
    fake.list[PROTO_OP_SESSION] = (struct fake_control_list){.entries = &blind, .count = 1};
    assert_int_equal(CTL("session", "7"), 0);
    assert_said(" not gathered       not gathered ");
    assert_int_equal(CTL("session", "7", "--heads"), 0);
    assert_said(" not gathered       not gathered ");
    assert_int_equal(CTL("session", "7", "--json"), 0);
    assert_said("\"mass\": null");
    assert_said("\"lowest_share\": null");
    fake.list[PROTO_OP_SESSION] = (struct fake_control_list){.entries = heads, .count = 2, .page = 1};
    assert_int_equal(CTL("session", "7"), 0);
    assert_said(
        "    0         2            100-128      4       0     910  0.625            60.00 %  |#=:    .|  11 budget, 2 "
        "pressure\n");
    assert_int_equal(CTL("session", "7", "--heads"), 0);
    assert_said("LAYER  KV HEAD  TO 64  TO 256  TO 1,024  TO 4,096  TO 16,384  TO 65,536  TO 262,144  OVER 262,144\n"
                "    0        0     64      32         4         0          0          0           0             0\n");
    assert_int_equal(CTL("session", "7", "--json"), 0);
    json_t *root = parsed(), *head = json_array_get(json_object_get(root, "per_head"), 1);
    json_t *ages = json_object_get(head, "rows_by_age");
    assert_int_equal(json_array_size(ages), PROTO_AGE_BUCKETS);
    assert_int_equal(integer(json_array_get(ages, 1), "up_to_tokens"), 256);
    assert_int_equal(integer(json_array_get(ages, 7), "rows"), 4);
    assert_true(json_is_null(json_object_get(json_array_get(ages, 7), "up_to_tokens")));
    assert_true(json_real_value(json_object_get(head, "mass")) == 0.75);
    json_decref(root);
}

/* ---------- limits ---------- */

struct limits_line {
    const char *words[6];
    int status;
    struct limits_change change;
};

static void test_limits_parse(void **state) {
    (void)state;
    const uint64_t all = PROTO_ALL_GROUPS;
    const struct limits_line lines[] = {
        {{"pool", "8GiB"}, 0, {LIMITS_POOL, NULL, 8ull << 30, 0, 0, all, 0}},
        {{"pool", "host", "512MiB"}, 0, {LIMITS_POOL, "host", 512 << 20, 0, 0, all, 0}},
        {{"session", "7", "max-rows=1024"}, 0, {LIMITS_SESSION, "7", 0, 0, 1024, all, 0}},
        {{"session", "a b", "priority=200", "guaranteed-rows=1", "group=0"},
         0,
         {LIMITS_SESSION, "a b", 0, 1, 0, 0, 200}},
        {{NULL}, CTL_USAGE, {0}},
        {{"pool"}, CTL_USAGE, {0}},
        {{"pool", "0"}, CTL_USAGE, {0}},
        {{"pool", "much"}, CTL_USAGE, {0}},
        {{"pool", "host", "1GiB", "2GiB"}, CTL_USAGE, {0}},
        {{"queue", "1"}, CTL_USAGE, {0}},
        {{"session"}, CTL_USAGE, {0}},
        {{"session", "7"}, CTL_USAGE, {0}},
        {{"session", "7", "max-rows"}, CTL_USAGE, {0}},
        {{"session", "7", "max-rows="}, CTL_USAGE, {0}},
        {{"session", "7", "max-rows=0"}, CTL_USAGE, {0}},
        {{"session", "7", "max-rows=1048577"}, CTL_USAGE, {0}},
        {{"session", "7", "max-rows=-1"}, CTL_USAGE, {0}},
        {{"session", "7", "max=1"}, CTL_USAGE, {0}},
        {{"session", "7", "=1"}, CTL_USAGE, {0}},
        {{"session", "7", "priority=0"}, CTL_USAGE, {0}},
        {{"session", "7", "priority=1001"}, CTL_USAGE, {0}},
        {{"session", "7", "priority=99999999999999999999"}, CTL_USAGE, {0}},
        {{"session", "7", "group=1"}, CTL_USAGE, {0}},
        {{"session", "7", "group=8", "max-rows=3"}, CTL_USAGE, {0}},
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        char *words[6];
        int count = 0;
        for (; count < 6 && lines[i].words[count]; count++)
            words[count] = (char *)(uintptr_t)lines[i].words[count];
        struct limits_change change = {.group = 99}, *want = (struct limits_change *)(uintptr_t)&lines[i].change;
        assert_int_equal(limits_parse(words, count, &change), lines[i].status);
        if (lines[i].status) {
            assert_int_equal(change.group, 99);
            continue;
        }
        assert_int_equal(change.what, want->what);
        assert_int_equal(change.bytes, want->bytes);
        assert_int_equal(change.guaranteed_rows, want->guaranteed_rows);
        assert_int_equal(change.max_rows, want->max_rows);
        assert_int_equal(change.group, want->group);
        assert_int_equal(change.priority, want->priority);
        if (want->name)
            assert_string_equal(change.name, want->name);
        else
            assert_null(change.name);
    }
}

static void test_limits_show(void **state) {
    (void)state;
    struct proto_pool_stat pool = {
        .name = "host", .limit_bytes = 64 << 20, .target_bytes = 32 << 20, .charged_bytes = 48 << 20};
    fake.list[PROTO_OP_STAT] = (struct fake_control_list){.entries = &pool, .count = 1};
    fake.list[PROTO_OP_SESSIONS] = (struct fake_control_list){.entries = &session, .count = 1};
    assert_int_equal(CTL("limits"), 0);
    assert_said("pool host  limit 64.0 MiB going down to 32.0 MiB, charged 48.0 MiB");
    assert_said("reader");
    assert_int_equal(CTL("limits", "--json"), 0);
    json_decref(parsed());
    struct proto_session_stat two = session;
    two.groups = 2;
    two.guaranteed_rows = 128;
    two.max_rows = 512;
    static const struct proto_group_stat groups[] = {
        {.session = 7, .layers = 3, .kv_heads = 2, .guaranteed_rows = 128, .max_rows = 512, .policy = "pivotal"},
        {.session = 7, .group = 1, .guaranteed_rows = 1000, .max_rows = 4096, .policy = "window"},
        {.session = 8, .group = 1, .guaranteed_rows = 16, .max_rows = 77}, /* has come since */
    };
    fake.list[PROTO_OP_SESSIONS].entries = &two;
    fake.list[PROTO_OP_GROUPS] = (struct fake_control_list){.entries = groups, .count = 3};
    assert_int_equal(CTL("limits"), 0);
    assert_said("GROUP  GUARANTEED ROWS  MAX ROWS\n");
    assert_said("      0              128       512\n");
    assert_said("      1            1,000     4,096\n");
    assert_null(strstr(text, "77"));
    assert_int_equal(CTL("limits", "--json"), 0);
    json_t *root = parsed(), *budgets;
    budgets = json_object_get(json_array_get(json_object_get(root, "sessions"), 0), "budgets");
    assert_int_equal(json_array_size(budgets), 2);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(budgets, 1), "max_rows")), 4096);
    json_decref(root);
    assert_int_equal(CTL("limits", "get"), CTL_USAGE);
    assert_int_equal(CTL("limits", "set"), CTL_USAGE);
}

int main(void) {
    ctl_json_init();
#define WITH_FAKE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        WITH_FAKE(test_sort),        WITH_FAKE(test_memory),
        WITH_FAKE(test_positions),   cmocka_unit_test(test_long_lines),
        WITH_FAKE(test_config),      WITH_FAKE(test_policies),
        WITH_FAKE(test_session),     cmocka_unit_test(test_limits_parse),
        WITH_FAKE(test_limits_show),
    };
    return cmocka_run_group_tests_name("ctl lists", tests, NULL, NULL);
}
