/* test_top.c - the screens of `scissorctl top` without a terminal: rates, keys, order, and what stands where. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc.h"
#include "client/ctl/top_layout.h"

#define SECOND 1000000000ull
#define MIB (1ull << 20)

static const struct proto_pool_stat a_pool = {
    .name = "host",
    .limit_bytes = 64 * MIB,
    .charged_bytes = 40 * MIB,
    .peak_bytes = 48 * MIB,
    .guaranteed_bytes = 32 * MIB,
    .lent_bytes = 16 * MIB,
    .sessions = 3,
    .waiting = 1,
    .refused = 2,
    .uptime_ns = 90 * SECOND,
    .version = "0.1.0",
};

static struct proto_session_stat session(uint64_t id, const char *name, uint64_t mib, uint64_t tokens) {
    struct proto_session_stat s = {
        .session = id,
        .policy = "scissorhands",
        .pid = 4194304,
        .state = PROTO_SESSION_WAITING,
        .layers = 2,
        .heads = 4,
        .settled_min = 810,
        .settled_max = 1335,
        .charged_bytes = mib * MIB,
        .tokens_seen = tokens,
        .idle_ns = 12000000,
        .priority = (uint32_t)id,
    };
    proto_text_set(s.name, sizeof s.name, name);
    return s;
}

static struct ctl_answer answer_of(const void *entries, size_t count, size_t size) {
    struct ctl_answer a = {.entries = scissor_malloc(count * size + 1), .count = count};
    assert_non_null(a.entries);
    if (count)
        memcpy(a.entries, entries, count * size);
    return a;
}

static struct top_frame frame_of(const struct proto_pool_stat *pool, const struct proto_session_stat *sessions,
                                 size_t count) {
    return (struct top_frame){.pools = answer_of(pool, 1, sizeof *pool),
                              .sessions = answer_of(sessions, count, sizeof *sessions)};
}

/* As the tool does: compares with the frame before, then takes it. */
static void give(struct top_state *s, const struct proto_pool_stat *pool, const struct proto_session_stat *sessions,
                 size_t count) {
    struct top_frame f = frame_of(pool, sessions, count);
    assert_true(top_frame_compare(&f, &s->frame));
    assert_true(top_state_take(s, &f));
}

/* Three sessions, of which "b" has seen 100 tokens in the last two seconds. */
static void give_three(struct top_state *s) {
    struct proto_pool_stat pool = a_pool;
    struct proto_session_stat sessions[] = {session(1, "a", 8, 500), session(2, "b", 24, 900), session(3, "c", 8, 0)};
    give(s, &pool, sessions, 3);
    pool.uptime_ns += 2 * SECOND;
    pool.settles += 3;
    pool.evicted[PROTO_REASON_PRESSURE] += 128;
    pool.frames[PROTO_FRAME_FOLDED] += 10;
    pool.frames[PROTO_FRAME_LATE] += 4;
    sessions[1].tokens_seen += 100;
    sessions[1].evicted[PROTO_REASON_PRESSURE] += 128;
    give(s, &pool, sessions, 3);
}

/* ---------- a grid as text ---------- */

static char screen[65536];

/* The lines, without blanks at their ends. */
static const char *draw(const struct top_state *s, unsigned rows, unsigned columns) {
    struct top_grid g;
    size_t at = 0;
    assert_true(top_grid_init(&g, rows, columns));
    top_layout(s, &g);
    for (unsigned row = 0; row < rows; row++) {
        unsigned length = columns;
        const char *text = g.text + (size_t)row * columns;
        while (length && text[length - 1] == ' ')
            length--;
        memcpy(screen + at, text, length);
        at += length;
        screen[at++] = '\n';
    }
    screen[at] = 0;
    for (size_t i = 0; i < (size_t)rows * columns; i++)
        assert_true(g.look[i] < TOP_LOOKS && g.text[i] >= 0x20 && g.text[i] < 0x7f);
    top_grid_deinit(&g);
    return screen;
}

static void assert_shows(const char *text) {
    if (!strstr(screen, text))
        fail_msg("'%s' is not in:\n%s", text, screen);
}

static void assert_order(const struct top_state *s, uint64_t a, uint64_t b, uint64_t c) {
    assert_int_equal(top_frame_session(&s->frame, s->order[0])->session, a);
    assert_int_equal(top_frame_session(&s->frame, s->order[1])->session, b);
    assert_int_equal(top_frame_session(&s->frame, s->order[2])->session, c);
}

/* ---------- tests ---------- */

static void test_rates(void **state) {
    (void)state;
    struct top_state s;
    top_state_init(&s);
    give_three(&s);
    const struct top_rates *r = &s.frame.rates;
    assert_float_equal(s.frame.seconds, 2, 1e-9);
    assert_float_equal(r->tokens, 50, 1e-9);
    assert_float_equal(r->settles, 1.5, 1e-9);
    assert_float_equal(r->evicted[PROTO_REASON_PRESSURE], 64, 1e-9);
    assert_float_equal(r->evicted[PROTO_REASON_BUDGET], 0, 1e-9);
    assert_float_equal(r->frames, 5, 1e-9);
    assert_float_equal(r->frames_lost, 2, 1e-9);
    assert_float_equal(s.frame.rows[1].tokens, 50, 1e-9);
    assert_float_equal(s.frame.rows[1].evicted, 64, 1e-9);
    assert_float_equal(s.frame.rows[0].tokens, 0, 1e-9);

    /* Sessions that went, came and changed places. */
    struct proto_pool_stat pool = a_pool;
    pool.uptime_ns += 4 * SECOND;
    struct proto_session_stat mixed[] = {session(9, "new", 1, 77), session(3, "c", 8, 20), session(2, "b", 24, 1200)};
    give(&s, &pool, mixed, 3);
    assert_float_equal(s.frame.rows[0].tokens, 0, 1e-9);
    assert_float_equal(s.frame.rows[1].tokens, 10, 1e-9);
    assert_float_equal(s.frame.rows[2].tokens, 100, 1e-9);

    /* A daemon that was started anew: no rates, and none below zero. */
    pool.uptime_ns = SECOND;
    give(&s, &pool, mixed, 1);
    assert_float_equal(s.frame.seconds, 0, 0);
    draw(&s, 24, 80);
    assert_shows("- tokens  - settles  - score frames  - lost");
    top_state_deinit(&s);
}

static void test_screen(void **state) {
    (void)state;
    struct top_state s;
    top_state_init(&s);
    give_three(&s);
    const char *want = "scissord 0.1.0  up 1 min 32 s  every 1.0 s  by CHARGED, falling\n"
                       "host [########################++++++++++++++++::::::::................]  62.5 %\n"
                       "  charged 40.0 MiB of 64.0 MiB, guaranteed 32.0 MiB, peak 48.0 MiB\n"
                       "  # own 24.0 MiB  + lent 16.0 MiB  : promised 8.0 MiB  . free 16.0 MiB\n"
                       "sessions 3 open, 1 waiting, 2 refused ever\n"
                       "a second 50.0 tokens  1.5 settles  5.0 score frames  2.0 lost\n"
                       "  evicted 0.0 budget  64.0 pressure  0.0 operator  0.0 death\n"
                       "\n"
                       "ID NAME     PID STATE   POLICY           ROWS  CHARGED TOK/S EVICT/S IDLE PRI\n"
                       " 2 b    4194304 waiting scissorhands 810-1335 24.0 MiB  50.0    64.0 12ms   2\n"
                       " 1 a    4194304 waiting scissorhands 810-1335  8.0 MiB   0.0     0.0 12ms   1\n"
                       " 3 c    4194304 waiting scissorhands 810-1335  8.0 MiB   0.0     0.0 12ms   3\n";
    draw(&s, 24, 80);
    if (strncmp(screen, want, strlen(want)) != 0)
        fail_msg("wanted:\n%s\ngot:\n%s", want, screen);
    assert_shows("\nq quit  h help  s sort  r reverse  c close  d details  space pause  +/- interval\n");
    draw(&s, 24, 120); /* room for everything */
    assert_shows(" 2  b     4194304  waiting  scissorhands  810-1335  24.0 MiB   50.0     64.0  12ms    2\n");
    top_state_deinit(&s);
}

/* The longest of everything at 80 columns: figures stay whole, names are shortened. */
static void test_long(void **state) {
    (void)state;
    struct top_state s;
    struct proto_pool_stat pool = a_pool;
    struct proto_session_stat one = session(123, "a_very_long_name_of_a_session", 1023, 5);
    one.settled_min = 10000;
    one.settled_max = 10240;
    one.state = PROTO_SESSION_SHRINKING;
    one.idle_ns = 3600 * 23 * SECOND;
    pool.limit_bytes = pool.charged_bytes = pool.guaranteed_bytes = pool.peak_bytes = 1023 * (MIB << 10) + 900 * MIB;
    top_state_init(&s);
    give(&s, &pool, &one, 1);
    draw(&s, 24, 80);
    assert_shows("charged 1023.9 GiB of 1023.9 GiB, guaranteed 1023.9 GiB, peak 1023.9 GiB\n");
    assert_shows("+ lent 16.0 MiB  : promised 0 B  . free 0 B\n");
    assert_shows("123 a_very_~ 4194304 shrinking");
    assert_shows("10000-10240 1023 MiB");
    assert_shows("23h00");
    top_state_key(&s, 'h');
    draw(&s, 24, 80);
    assert_shows("to all settled rows of a head, of 1 in all.\n"); /* the help's last line */
    top_state_deinit(&s);
}

static void test_sort(void **state) {
    (void)state;
    struct top_state s;
    top_state_init(&s);
    give_three(&s);
    assert_order(&s, 2, 1, 3);
    assert_int_equal(s.selected, 2);
    top_state_key(&s, 'r');
    assert_order(&s, 1, 3, 2);
    assert_int_equal(s.selected, 2); /* the selection stays with its session */
    assert_int_equal(s.cursor, 2);
    top_state_key(&s, 'I');
    assert_order(&s, 1, 2, 3);
    top_state_key(&s, 'I');
    assert_order(&s, 3, 2, 1);
    top_state_key(&s, 's'); /* the next column: names, rising at first */
    assert_int_equal(s.sort, TOP_COLUMN_NAME);
    assert_order(&s, 1, 2, 3);
    top_state_key(&s, 'T');
    assert_order(&s, 2, 1, 3);
    top_state_key(&s, 'Y');
    assert_order(&s, 3, 2, 1);
    for (int i = 0; i < TOP_COLUMNS; i++) {
        top_state_key(&s, 's');
        draw(&s, 24, 80);
    }
    assert_int_equal(s.sort, TOP_COLUMN_PRIORITY);
    top_state_deinit(&s);
}

static void test_select(void **state) {
    (void)state;
    struct top_state s;
    struct proto_session_stat many[100];
    for (size_t i = 0; i < 100; i++)
        many[i] = session(i + 1, "x", 1, 0);
    top_state_init(&s);
    top_state_key(&s, 'j'); /* before anything came */
    top_state_key(&s, 'r');
    assert_int_equal(top_state_key(&s, 'd'), TOP_NOTHING);
    give(&s, &a_pool, many, 100);
    top_state_key(&s, TOP_KEY_UP);
    assert_int_equal(s.selected, 1);
    top_state_key(&s, TOP_KEY_DOWN);
    top_state_key(&s, 'j');
    assert_int_equal(s.selected, 3);
    top_state_key(&s, TOP_KEY_PAGE_DOWN);
    top_state_key(&s, 'k');
    assert_int_equal(s.selected, 12);
    draw(&s, 24, 80);
    assert_shows("\n-- 1 to 13 of 100\n");
    top_state_key(&s, 'G');
    assert_int_equal(s.selected, 100);
    draw(&s, 24, 80);
    assert_shows("\n-- 92 to 100 of 100\n");
    assert_shows("\n100 x ");
    top_state_key(&s, TOP_KEY_DOWN);
    assert_int_equal(s.selected, 100);
    /* The selected one goes: the line stays, as far as there is one. */
    give(&s, &a_pool, many, 50);
    assert_int_equal(s.selected, 50);
    give(&s, &a_pool, many, 0);
    assert_int_equal(s.selected, 0);
    draw(&s, 24, 80);
    assert_shows("no session is open");
    top_state_key(&s, 'c');
    assert_string_equal(s.message, "there is no session to close");
    top_state_deinit(&s);
}

static void test_close(void **state) {
    (void)state;
    struct top_state s;
    struct proto_session_stat three[] = {session(1, "a", 1, 0), session(3, "c", 1, 0), session(4, "d", 1, 0)};
    top_state_init(&s);
    give_three(&s);
    assert_int_equal(top_state_key(&s, 'c'), TOP_NOTHING);
    draw(&s, 24, 80);
    assert_shows("\nclose session 2 (b)? y: yes, other keys: no\n");
    assert_int_equal(top_state_key(&s, 'q'), TOP_NOTHING); /* any other key */
    assert_false(s.asking);
    draw(&s, 24, 80);
    assert_shows("\nsession 2 stays open\n");
    top_state_key(&s, 'c');
    assert_int_equal(top_state_key(&s, 'y'), TOP_CLOSE);
    assert_int_equal(s.asking_session, 2);
    assert_false(s.asking);
    /* The answer is for the session that was asked about, even if another one stands there now. */
    top_state_key(&s, 'c');
    give(&s, &a_pool, three, 3);
    assert_false(s.asking);
    assert_int_equal(top_state_key(&s, 'y'), TOP_NOTHING);
    top_state_deinit(&s);
}

static void test_detail(void **state) {
    (void)state;
    struct top_state s;
    struct proto_head_stat heads[] = {
        {.layer = 0, .settled = 100, .mass = 0.5, .evicted = {1000}, .age = {64, 36}},
        {.layer = 0, .kv_head = 1, .settled = 300, .mass = 0.7, .evicted = {234}, .age = {64, 236}},
        {.layer = 1, .settled = 128, .mass = 1, .evicted = {0, 12345678}, .age = {0, 0, 0, 0, 0, 0, 0, 128}},
    };
    top_state_init(&s);
    give_three(&s);
    assert_int_equal(top_state_key(&s, '\n'), TOP_ASK);
    assert_int_equal(s.detail.session, 2);
    draw(&s, 24, 80);
    assert_shows("nothing is known about its layers");
    struct ctl_answer answer = answer_of(heads, 3, sizeof heads[0]);
    top_state_take_heads(&s, &answer);
    assert_null(answer.entries);
    draw(&s, 24, 80);
    assert_shows("session 2 b  waiting for scores or memory, process 4194304\n");
    assert_shows("LAYER HEADS   ROWS/HEAD  MASS   <64 <256  <1K  <4K <16K <66K<262K more   EVICTED\n"
                 "    0     2     100-300 0.600   32%  68%    .    .    .    .    .    .     1,234\n"
                 "    1     1         128 1.000     .    .    .    .    .    .    . 100%     12.3M\n");
    top_state_key(&s, 'j');
    draw(&s, 24, 80);
    assert_null(strstr(screen, "100-300"));
    top_state_key(&s, 'G');
    assert_int_equal(s.detail_at, 1);
    top_state_key(&s, 'c');
    assert_int_equal(s.asking_session, 2);
    assert_int_equal(top_state_key(&s, 'y'), TOP_CLOSE);
    give(&s, &a_pool, NULL, 0);
    draw(&s, 24, 80);
    assert_shows("process 4194304  has been closed\n");
    assert_int_equal(top_state_key(&s, 'q'), TOP_NOTHING); /* back */
    assert_int_equal(top_state_key(&s, 'q'), TOP_QUIT);
    top_state_deinit(&s);
}

static void test_other_keys(void **state) {
    (void)state;
    struct top_state s;
    top_state_init(&s);
    give_three(&s);
    assert_int_equal(top_state_key(&s, ' '), TOP_NOTHING);
    draw(&s, 24, 80);
    assert_shows("falling  paused\n");
    assert_int_equal(top_state_key(&s, ' '), TOP_ASK);
    top_state_key(&s, '+');
    assert_int_equal(s.interval_ms, 2000);
    for (int i = 0; i < 20; i++)
        top_state_key(&s, '+');
    assert_int_equal(s.interval_ms, TOP_INTERVAL_MAX_MS);
    for (int i = 0; i < 20; i++)
        top_state_key(&s, '-');
    assert_int_equal(s.interval_ms, TOP_INTERVAL_MIN_MS);
    top_state_key(&s, 'x');
    assert_string_equal(s.message, "this key does nothing; h lists those that do");
    top_state_key(&s, '?');
    draw(&s, 24, 80);
    assert_shows("any key: back");
    top_state_key(&s, 'j');
    assert_int_equal(s.mode, TOP_TABLE);
    snprintf(s.gone, sizeof s.gone, "no daemon");
    draw(&s, 24, 80);
    assert_shows("\nno daemon\n");
    give_three(&s);
    assert_int_equal(s.gone[0], 0);
    top_state_deinit(&s);
}

/* Names that are commands to a terminal, and every size: nothing outside of the grid (a sanitizer looks). */
static void test_sizes(void **state) {
    (void)state;
    struct top_state s;
    struct proto_session_stat evil[] = {session(UINT64_MAX, "\033[2J\n\xff", 1, 0), session(2, "", UINT32_MAX, 0)};
    struct proto_head_stat head = {.settled = UINT32_MAX, .age = {1}, .mass = 1e300};
    memset(evil[1].name, 'x', sizeof evil[1].name - 1);
    top_state_init(&s);
    for (int filled = 0; filled < 2; filled++) {
        for (int mode = TOP_TABLE; mode <= TOP_HELP; mode++) {
            s.mode = (enum top_mode)mode;
            for (unsigned rows = 1; rows < 30; rows++)
                for (unsigned columns = 1; columns < 130; columns += 1 + columns / 8)
                    draw(&s, rows, columns);
        }
        s.mode = TOP_TABLE;
        give(&s, &a_pool, evil, 2);
        give(&s, &a_pool, evil, 2);
        struct ctl_answer heads = answer_of(&head, 1, sizeof head);
        top_state_take_heads(&s, &heads);
        s.detail = evil[filled];
    }
    s.mode = TOP_TABLE;
    draw(&s, 24, 200);
    assert_shows("?[2J??");
    top_state_deinit(&s);
}

static void test_memory(void **state) {
    (void)state;
    size_t before = alloc_live();
    struct proto_session_stat one = session(1, "a", 1, 0);
    for (size_t k = 0; k < 4; k++) {
        struct top_state s;
        struct top_grid g;
        struct top_frame f = frame_of(&a_pool, &one, 1);
        top_state_init(&s);
        alloc_fail_after(k, 1);
        if (top_frame_compare(&f, &s.frame))
            top_state_take(&s, &f); /* takes it over, or frees it */
        if (top_grid_init(&g, 5, 5)) {
            top_layout(&s, &g);
            top_grid_deinit(&g);
        }
        alloc_fail_never();
        top_frame_deinit(&f);
        top_state_deinit(&s);
        assert_int_equal(alloc_live(), before);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rates),  cmocka_unit_test(test_screen),     cmocka_unit_test(test_long),
        cmocka_unit_test(test_sort),   cmocka_unit_test(test_select),     cmocka_unit_test(test_close),
        cmocka_unit_test(test_detail), cmocka_unit_test(test_other_keys), cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests_name("top", tests, NULL, NULL);
}
