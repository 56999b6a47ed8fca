/* top_layout.c - the head of the screen (pools, counters, rates) and its last line; the help.
 *
 * At 80 x 24 with one pool the head takes eight rows, which leaves a title and fourteen sessions. On a terminal with
 * fewer rows the head gives way: first the counters, then the second line of figures. */
#include "top_layout.h"

#include <string.h>

#include "out.h"

#define BYTES(n) figure_bytes(&(struct figure){""}, n)
#define COUNT(n) figure_count(&(struct figure){""}, n)
#define TIME(ns) figure_time(&(struct figure){""}, ns)
#define PERCENT(part, whole) figure_percent(&(struct figure){""}, (double)(part), (double)(whole))
#define NAME(text) figure_name(&(struct figure){""}, text)

/* How a pool's bytes divide: charged = own + lent; promised is what guarantees may still claim of the free rest. */
struct parts {
    uint64_t own, lent, promised, free;
};

static struct parts parts_of(const struct proto_pool_stat *p) {
    struct parts parts = {.lent = p->lent_bytes < p->charged_bytes ? p->lent_bytes : p->charged_bytes};
    uint64_t rest = p->limit_bytes > p->charged_bytes ? p->limit_bytes - p->charged_bytes : 0;
    parts.own = p->charged_bytes - parts.lent;
    uint64_t open = p->guaranteed_bytes > parts.own ? p->guaranteed_bytes - parts.own : 0;
    parts.promised = open < rest ? open : rest;
    parts.free = rest - parts.promised;
    return parts;
}

static unsigned scale(uint64_t bytes, uint64_t limit, unsigned width) {
    double cells = limit ? (double)bytes / (double)limit * width : 0;
    return cells > width ? width : (unsigned)(cells + 0.5);
}

static void layout_bar(const struct proto_pool_stat *p, struct top_grid *g, unsigned row) {
    struct parts parts = parts_of(p);
    unsigned at = top_grid_put(g, row, 0, TOP_LOOK_BOLD, "%s ", NAME(p->name));
    at = top_grid_put(g, row, at, TOP_LOOK_PLAIN, "[");
    unsigned width = g->columns > at + 10 ? g->columns - at - 10 : 0;
    /* Edges are rounded, not lengths, so that the parts fill the bar exactly. */
    uint64_t limit = p->limit_bytes;
    unsigned own = scale(parts.own, limit, width), charged = scale(parts.own + parts.lent, limit, width);
    unsigned promised = scale(parts.own + parts.lent + parts.promised, limit, width);
    at = top_grid_fill(g, row, at, TOP_LOOK_OWN, '#', own);
    at = top_grid_fill(g, row, at, TOP_LOOK_LENT, '+', charged - own);
    at = top_grid_fill(g, row, at, TOP_LOOK_PROMISED, ':', promised - charged);
    at = top_grid_fill(g, row, at, TOP_LOOK_FREE, '.', width - promised);
    top_grid_put(g, row, at, TOP_LOOK_PLAIN, "] %7s", PERCENT(p->charged_bytes, limit));
}

static void layout_legend(const struct proto_pool_stat *p, struct top_grid *g, unsigned row) {
    struct parts parts = parts_of(p);
    unsigned at = top_grid_put(g, row, 2, TOP_LOOK_OWN, "#");
    at = top_grid_put(g, row, at, TOP_LOOK_PLAIN, " own %s  ", BYTES(parts.own));
    at = top_grid_put(g, row, at, TOP_LOOK_LENT, "+");
    at = top_grid_put(g, row, at, TOP_LOOK_PLAIN, " lent %s  ", BYTES(parts.lent));
    at = top_grid_put(g, row, at, TOP_LOOK_PROMISED, ":");
    at = top_grid_put(g, row, at, TOP_LOOK_PLAIN, " promised %s  ", BYTES(parts.promised));
    at = top_grid_put(g, row, at, TOP_LOOK_FREE, ".");
    top_grid_put(g, row, at, TOP_LOOK_PLAIN, " free %s", BYTES(parts.free));
}

static void layout_figures(const struct proto_pool_stat *p, struct top_grid *g, unsigned row) {
    unsigned at =
        top_grid_put(g, row, 2, TOP_LOOK_PLAIN, "charged %s of %s, guaranteed %s, peak %s", BYTES(p->charged_bytes),
                     BYTES(p->limit_bytes), BYTES(p->guaranteed_bytes), BYTES(p->peak_bytes));
    if (p->target_bytes && p->target_bytes < p->limit_bytes)
        top_grid_put(g, row, at, TOP_LOOK_WARN, "; limit goes to %s", BYTES(p->target_bytes));
}

/* One rate: "-" before there are two frames. */
static unsigned put_rate(const struct top_state *s, struct top_grid *g, unsigned row, unsigned at, const char *what,
                         double rate, bool bad) {
    enum top_look look = bad && rate > 0 ? TOP_LOOK_WARN : TOP_LOOK_PLAIN;
    if (s->frame.seconds > 0)
        return top_grid_put(g, row, at, look, "%.*f %s  ", rate < 1000 ? 1 : 0, rate, what);
    return top_grid_put(g, row, at, look, "- %s  ", what);
}

static void layout_counters(const struct top_state *s, struct top_grid *g, unsigned row) {
    const struct proto_pool_stat *first = top_frame_pool(&s->frame, 0);
    uint32_t open = 0, waiting = 0, orphans = 0, quarantined = 0, lost = 0;
    uint64_t refused = 0;
    for (size_t i = 0; i < s->frame.pools.count; i++) {
        open += first[i].sessions;
        waiting += first[i].waiting;
        orphans += first[i].orphans;
        quarantined += first[i].quarantined;
        lost += first[i].device_lost;
        refused += first[i].refused;
    }
    unsigned at = top_grid_put(g, row, 0, TOP_LOOK_BOLD, "sessions ");
    at = top_grid_put(g, row, at, TOP_LOOK_PLAIN, "%u open", open);
    at = top_grid_put(g, row, at, waiting ? TOP_LOOK_WARN : TOP_LOOK_PLAIN, ", %u waiting", waiting);
    at = top_grid_put(g, row, at, TOP_LOOK_PLAIN, ", %s refused ever", COUNT(refused));
    if (orphans)
        at = top_grid_put(g, row, at, TOP_LOOK_WARN, ", %u without their client", orphans);
    if (quarantined)
        at = top_grid_put(g, row, at, TOP_LOOK_WARN, ", %u quarantined", quarantined);
    if (lost)
        at = top_grid_put(g, row, at, TOP_LOOK_WARN, ", device failed");
    if (first->draining)
        top_grid_put(g, row, at, TOP_LOOK_WARN, ", draining");
}

static void layout_rates(const struct top_state *s, struct top_grid *g, unsigned row) {
    const struct top_rates *r = &s->frame.rates;
    unsigned at = top_grid_put(g, row, 0, TOP_LOOK_BOLD, "a second ");
    at = put_rate(s, g, row, at, "tokens", r->tokens, false);
    at = put_rate(s, g, row, at, "settles", r->settles, false);
    at = put_rate(s, g, row, at, "score frames", r->frames, false);
    put_rate(s, g, row, at, "lost", r->frames_lost, true);
}

static void layout_evictions(const struct top_state *s, struct top_grid *g, unsigned row) {
    unsigned at = top_grid_put(g, row, 0, TOP_LOOK_BOLD, "  evicted ");
    for (uint32_t i = 0; i < PROTO_REASON_COUNT; i++)
        at = put_rate(s, g, row, at, proto_reason_name(i), s->frame.rates.evicted[i], i == PROTO_REASON_PRESSURE);
}

/* The head; the row behind it. */
static unsigned layout_head(const struct top_state *s, struct top_grid *g, unsigned end) {
    size_t pools = s->frame.pools.count;
    unsigned row = 0;
    if (!pools)
        return row;
    const struct proto_pool_stat *first = top_frame_pool(&s->frame, 0);
    unsigned at = top_grid_put(g, row, 0, TOP_LOOK_BOLD, "scissord %s", NAME(first->version));
    at = top_grid_put(g, row, at, TOP_LOOK_PLAIN, "  up %s  every %s", TIME(first->uptime_ns),
                      TIME(s->interval_ms * 1000000ull));
    if (s->mode == TOP_TABLE)
        at = top_grid_put(g, row, at, TOP_LOOK_PLAIN, "  by %s, %s",
                          top_columns[s->sort].title + (top_columns[s->sort].title[0] == '>'),
                          s->rising ? "rising" : "falling");
    if (s->paused)
        top_grid_put(g, row, at, TOP_LOOK_WARN, "  paused");
    row++;
    /* What is left for the head when the table has its title and three sessions. */
    unsigned room = end > row + 4 ? end - row - 4 : 0;
    unsigned lines = room >= 3 * pools + 4 ? 3 : room >= 2 * pools ? 2 : 1;
    for (size_t i = 0; i < pools && row < end; i++) {
        const struct proto_pool_stat *p = top_frame_pool(&s->frame, i);
        layout_bar(p, g, row);
        if (lines > 1)
            layout_figures(p, g, row + 1);
        if (lines > 2)
            layout_legend(p, g, row + 2);
        row += lines;
    }
    if (lines > 2) {
        layout_counters(s, g, row++);
        layout_rates(s, g, row++);
        layout_evictions(s, g, row++);
        row++;
    }
    return row;
}

static void layout_last(const struct top_state *s, struct top_grid *g, unsigned row) {
    static const char *const hints[] = {
        [TOP_TABLE] = "q quit  h help  s sort  r reverse  c close  d details  space pause  +/- interval",
        [TOP_DETAIL] = "q back  c close  up/down layers  space pause  +/- interval  h help",
        [TOP_HELP] = "any key: back",
    };
    if (s->asking) {
        size_t at = top_state_find(s, s->asking_session);
        top_grid_put(g, row, 0, TOP_LOOK_WARN, "close session %llu (%s)? y: yes, other keys: no",
                     (unsigned long long)s->asking_session,
                     at == SIZE_MAX ? "" : NAME(top_frame_session(&s->frame, at)->name));
    } else if (s->message[0]) {
        top_grid_put(g, row, 0, TOP_LOOK_BOLD, "%s", s->message);
    } else if (s->gone[0]) {
        top_grid_put(g, row, 0, TOP_LOOK_WARN, "%s", s->gone);
    } else {
        top_grid_put(g, row, 0, TOP_LOOK_DIM, "%s", hints[s->mode]);
    }
}

void top_layout_help(struct top_grid *g, unsigned row, unsigned end) {
    static const char *const lines[] = {
        "up, down, k, j   select a session; page up and down, g and G: further",
        "s                sort by the next column; its title is marked",
        "I N P A O R      sort by id, name, process, state, policy, rows,",
        "C T E L Y        charged, tokens, evicted rows, idle time, priority",
        "r                turn the order round",
        "d, enter         what the layers of the selected session hold",
        "c                close the selected session (asks before)",
        "space            pause, go on",
        "+ -              longer, shorter interval",
        "q                back; quit",
        "",
        "Bar: # charged within guarantees, + lent above them, : free but promised,",
        ". free. ROWS: fewest and most settled rows of a KV head. TOK/S, EVICT/S:",
        "tokens and evicted rows (of all heads) a second. IDLE: since its last message.",
        "Details: share of rows by age in tokens; MASS: attention that a query pays",
        "to all settled rows of a head, of 1 in all.",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0] && row < end; i++)
        top_grid_put(g, row++, 0, TOP_LOOK_PLAIN, "%s", lines[i]);
}

void top_layout(const struct top_state *s, struct top_grid *g) {
    if (g->rows < TOP_ROWS_MIN || g->columns < TOP_COLUMNS_MIN) {
        top_grid_put(g, 0, 0, TOP_LOOK_PLAIN, "too small (q quits)");
        return;
    }
    unsigned last = g->rows - 1;
    if (s->mode == TOP_HELP) {
        top_grid_put(g, 0, 0, TOP_LOOK_BOLD, "scissorctl top");
        top_layout_help(g, 2, last);
    } else {
        unsigned row = layout_head(s, g, last);
        (s->mode == TOP_DETAIL ? top_layout_detail : top_layout_table)(s, g, row, last);
        /* What stands there is old. */
        for (unsigned i = 0; s->gone[0] && i < last; i++)
            top_grid_paint(g, i, TOP_LOOK_DIM);
    }
    layout_last(s, g, last);
}
