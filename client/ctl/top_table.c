/* top_table.c - the sessions, and what the layers of one of them hold, in `scissorctl top`.
 *
 * Columns are as wide as what stands in them. If that is too wide together, name and policy are shortened
 * (a '~' marks it), since all else are figures; then columns go, the least important first. */
#include <stdio.h>
#include <string.h>

#include "dtype.h"
#include "out.h"
#include "top_layout.h"
#include "view.h"

#define NAME_WANTED 14u
#define NAME_LEAST 8u
#define POLICY_LEAST 6u
#define DETAIL_ROWS 3u

/* ---------- short figures ---------- */

static void short_bytes(char *text, size_t size, uint64_t bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    size_t unit = 0;
    for (; value >= 1023.5 && unit + 1 < sizeof units / sizeof units[0]; unit++)
        value /= 1024;
    snprintf(text, size, "%.*f %s", unit && value < 99.95 ? 1 : 0, value, units[unit]);
}

static void short_time(char *text, size_t size, uint64_t ns) {
    unsigned long long s = ns / 1000000000u;
    if (s == 0)
        snprintf(text, size, "%llums", (unsigned long long)ns / 1000000u);
    else if (s < 60)
        snprintf(text, size, "%.1fs", (double)(ns / 100000000u) / 10);
    else if (s < 3600)
        snprintf(text, size, "%llum%02llu", s / 60, s % 60);
    else if (s < 86400)
        snprintf(text, size, "%lluh%02llu", s / 3600, s / 60 % 60);
    else
        snprintf(text, size, "%llud%02llu", s / 86400, s / 3600 % 24);
}

static void short_rate(char *text, size_t size, double rate, bool known) {
    if (known)
        snprintf(text, size, "%.*f", rate < 999.5 ? 1 : 0, rate);
    else
        snprintf(text, size, "-");
}

static void short_range(char *text, size_t size, uint32_t low, uint32_t high) {
    if (low == high)
        snprintf(text, size, "%u", low);
    else
        snprintf(text, size, "%u-%u", low, high);
}

/* ---------- sessions ---------- */

#define CELL 40

static void session_cell(const struct top_state *s, size_t i, enum top_column column, char text[CELL]) {
    const struct proto_session_stat *p = top_frame_session(&s->frame, i);
    bool rates = s->frame.seconds > 0;
    switch (column) {
    case TOP_COLUMN_ID:
        snprintf(text, CELL, "%llu", (unsigned long long)p->session);
        break;
    case TOP_COLUMN_NAME:
        snprintf(text, CELL, "%s", NAME(p->name));
        break;
    case TOP_COLUMN_PID:
        snprintf(text, CELL, "%u", p->pid);
        break;
    case TOP_COLUMN_STATE:
        snprintf(text, CELL, "%s", ctl_session_state(p));
        text[strcspn(text, " ")] = 0;
        break;
    case TOP_COLUMN_POLICY:
        snprintf(text, CELL, "%s", NAME(p->policy));
        break;
    case TOP_COLUMN_ROWS:
        short_range(text, CELL, p->settled_min, p->settled_max);
        break;
    case TOP_COLUMN_CHARGED:
        short_bytes(text, CELL, p->charged_bytes);
        break;
    case TOP_COLUMN_TOKENS:
        short_rate(text, CELL, s->frame.rows[i].tokens, rates);
        break;
    case TOP_COLUMN_EVICTED:
        short_rate(text, CELL, s->frame.rows[i].evicted, rates);
        break;
    case TOP_COLUMN_IDLE:
        short_time(text, CELL, p->idle_ns);
        break;
    case TOP_COLUMN_PRIORITY:
        snprintf(text, CELL, "%u", p->priority);
        break;
    case TOP_COLUMNS:
        text[0] = 0;
    }
}

struct widths {
    unsigned of[TOP_COLUMNS]; /* 0: not shown */
    unsigned gap;
};

static unsigned widths_sum(const struct widths *w) {
    unsigned sum = 0;
    for (size_t i = 0; i < TOP_COLUMNS; i++)
        sum += w->of[i] ? w->of[i] + (sum ? w->gap : 0) : 0;
    return sum;
}

static void shorten(struct widths *w, enum top_column column, unsigned least, unsigned columns) {
    unsigned sum = widths_sum(w), over = sum > columns ? sum - columns : 0;
    unsigned may = w->of[column] > least ? w->of[column] - least : 0;
    w->of[column] -= over < may ? over : may;
}

/* Over all sessions, not only the ones on the screen, so that columns stay where they are while one scrolls. */
static void widths_fit(const struct top_state *s, unsigned columns, struct widths *ret) {
    static const enum top_column dispensable[] = {TOP_COLUMN_PRIORITY, TOP_COLUMN_POLICY, TOP_COLUMN_PID,
                                                  TOP_COLUMN_IDLE,     TOP_COLUMN_STATE,  TOP_COLUMN_EVICTED,
                                                  TOP_COLUMN_ROWS,     TOP_COLUMN_TOKENS};
    char text[CELL];
    struct widths w = {.gap = 1};
    for (int c = 0; c < TOP_COLUMNS; c++) {
        w.of[c] = (unsigned)strlen(top_columns[c].title + (top_columns[c].title[0] == '>'));
        for (size_t i = 0; i < s->frame.sessions.count; i++) {
            session_cell(s, i, (enum top_column)c, text);
            w.of[c] = strlen(text) > w.of[c] ? (unsigned)strlen(text) : w.of[c];
        }
    }
    shorten(&w, TOP_COLUMN_NAME, NAME_WANTED, columns);
    shorten(&w, TOP_COLUMN_POLICY, POLICY_LEAST, columns);
    shorten(&w, TOP_COLUMN_NAME, NAME_LEAST, columns);
    for (size_t i = 0; widths_sum(&w) > columns && i < sizeof dispensable / sizeof dispensable[0]; i++)
        w.of[dispensable[i]] = 0;
    if (widths_sum(&w) + TOP_COLUMNS <= columns)
        w.gap = 2;
    *ret = w;
}

static unsigned put_cell(struct top_grid *g, unsigned row, unsigned at, enum top_look look, const char *text,
                         unsigned width, bool right) {
    unsigned length = (unsigned)strlen(text);
    if (length > width)
        return top_grid_put(g, row, at, look, "%.*s~", (int)width - 1, text);
    return top_grid_put(g, row, at, look, "%*s", right ? (int)width : -(int)width, text);
}

static void layout_titles(const struct top_state *s, struct top_grid *g, const struct widths *w, unsigned row) {
    unsigned at = 0;
    top_grid_paint(g, row, TOP_LOOK_TITLE);
    for (size_t c = 0; c < TOP_COLUMNS; c++) {
        bool right = top_columns[c].title[0] == '>';
        if (!w->of[c])
            continue;
        at = put_cell(g, row, at, c == s->sort ? TOP_LOOK_SORTED : TOP_LOOK_TITLE, top_columns[c].title + right,
                      w->of[c], right);
        at = top_grid_fill(g, row, at, TOP_LOOK_TITLE, ' ', w->gap);
    }
}

static void layout_session(const struct top_state *s, struct top_grid *g, const struct widths *w, unsigned row,
                           size_t line) {
    char text[CELL];
    unsigned at = 0;
    for (size_t c = 0; c < TOP_COLUMNS; c++) {
        if (!w->of[c])
            continue;
        session_cell(s, s->order[line], (enum top_column)c, text);
        at = put_cell(g, row, at, TOP_LOOK_PLAIN, text, w->of[c], top_columns[c].title[0] == '>') + w->gap;
    }
    const struct proto_session_stat *p = top_frame_session(&s->frame, s->order[line]);
    if (line == s->cursor)
        top_grid_paint(g, row, TOP_LOOK_SELECTED);
    else if (p->state == PROTO_SESSION_CLOSING || p->state == PROTO_SESSION_QUARANTINED || p->orphan)
        top_grid_paint(g, row, TOP_LOOK_DIM);
}

void top_layout_table(const struct top_state *s, struct top_grid *g, unsigned row, unsigned end) {
    size_t count = s->frame.sessions.count;
    if (row >= end)
        return;
    if (!count) {
        top_grid_put(g, row, 0, TOP_LOOK_PLAIN, "no session is open");
        return;
    }
    struct widths w;
    widths_fit(s, g->columns, &w);
    layout_titles(s, g, &w, row++);
    /* Whole pages: where a line stands depends on the cursor alone. */
    size_t room = row < end ? end - row : 0;
    if (room && room < count)
        room--;
    size_t first = room ? s->cursor / room * room : 0;
    for (size_t line = first; line < count && line < first + room; line++)
        layout_session(s, g, &w, row++, line);
    if (room < count && end > row)
        top_grid_put(g, end - 1, 0, TOP_LOOK_DIM, "-- %zu to %zu of %zu", first + 1,
                     first + room < count ? first + room : count, count);
}

/* ---------- one session ---------- */

/* Sums of the heads of a layer. */
struct layer {
    uint32_t number, heads, gathered, low, high, oldest, newest;
    uint64_t evicted, age[PROTO_AGE_BUCKETS], rows;
    double mass; /* mean of those heads that gather it */
};

/* Makes the layer that begins at `first`; returns where the next one begins. */
static size_t layer_sum(const struct ctl_answer *heads, size_t first, struct layer *ret) {
    const struct proto_head_stat *h = heads->entries;
    struct layer l = {.number = h[first].layer, .low = UINT32_MAX, .oldest = UINT32_MAX};
    size_t i = first;
    for (; i < heads->count && h[i].layer == l.number; i++) {
        l.heads++;
        l.low = h[i].settled < l.low ? h[i].settled : l.low;
        l.high = h[i].settled > l.high ? h[i].settled : l.high;
        l.oldest = h[i].oldest < l.oldest ? h[i].oldest : l.oldest;
        l.newest = h[i].newest > l.newest ? h[i].newest : l.newest;
        l.gathered += h[i].mass >= 0;
        l.mass += h[i].mass >= 0 ? h[i].mass : 0;
        for (size_t j = 0; j < PROTO_REASON_COUNT; j++)
            l.evicted += h[i].evicted[j];
        for (size_t j = 0; j < PROTO_AGE_BUCKETS; j++) {
            l.age[j] += h[i].age[j];
            l.rows += h[i].age[j];
        }
    }
    l.mass = l.gathered ? l.mass / l.gathered : 0;
    *ret = l;
    return i;
}

static void layout_layer(const struct layer *l, struct top_grid *g, unsigned row) {
    char range[CELL];
    short_range(range, sizeof range, l->low, l->high);
    unsigned at = top_grid_put(g, row, 0, TOP_LOOK_PLAIN, "%5u %5u %11s ", l->number, l->heads, range);
    at = l->gathered ? top_grid_put(g, row, at, TOP_LOOK_PLAIN, "%5.3f ", l->mass)
                     : top_grid_put(g, row, at, TOP_LOOK_DIM, "    - ");
    for (size_t i = 0; i < PROTO_AGE_BUCKETS; i++) {
        double share = l->rows ? 100 * (double)l->age[i] / (double)l->rows : 0;
        if (l->age[i])
            at = top_grid_put(g, row, at, TOP_LOOK_PLAIN, " %3.0f%%", share);
        else
            at = top_grid_put(g, row, at, TOP_LOOK_DIM, "    .");
    }
    if (l->evicted < 10000000)
        top_grid_put(g, row, at, TOP_LOOK_PLAIN, " %9s", COUNT(l->evicted));
    else
        top_grid_put(g, row, at, TOP_LOOK_PLAIN, " %8.1fM", (double)l->evicted / 1e6);
}

static void layout_session_head(const struct top_state *s, struct top_grid *g, unsigned row) {
    const struct proto_session_stat *p = &s->detail;
    unsigned at =
        top_grid_put(g, row, 0, TOP_LOOK_BOLD, "session %llu %s", (unsigned long long)p->session, NAME(p->name));
    at = top_grid_put(g, row, at, TOP_LOOK_PLAIN, "  %s, process %u",
                      p->orphan ? "without its client" : proto_session_state_name(p->state), p->pid);
    if (s->detail_over)
        top_grid_put(g, row, at, TOP_LOOK_WARN, "  has been closed");
    top_grid_put(g, row + 1, 0, TOP_LOOK_PLAIN, "%s, %s, priority %u, rows %s-%s, fresh %s, seen %s", NAME(p->policy),
                 kernel_dtype_name(p->storage_dtype), p->priority, COUNT(p->guaranteed_rows), COUNT(p->max_rows),
                 COUNT(p->fresh_count), COUNT(p->tokens_seen));
}

void top_layout_detail(const struct top_state *s, struct top_grid *g, unsigned row, unsigned end) {
    if (end < row + DETAIL_ROWS + 1)
        return;
    layout_session_head(s, g, row);
    row += DETAIL_ROWS - 1;
    top_grid_paint(g, row, TOP_LOOK_TITLE);
    top_grid_put(g, row++, 0, TOP_LOOK_TITLE, "%5s %5s %11s %5s %s %9s", "LAYER", "HEADS", "ROWS/HEAD", "MASS",
                 "  <64 <256  <1K  <4K <16K <66K<262K more", "EVICTED");
    size_t at = 0;
    struct layer l;
    /* Down to the last layer, and no further. */
    for (size_t layer = 0; at < s->heads.count && row < end; layer++) {
        at = layer_sum(&s->heads, at, &l);
        if (layer >= s->detail_at)
            layout_layer(&l, g, row++);
    }
    if (!s->heads.count)
        top_grid_put(g, row, 0, TOP_LOOK_DIM, "nothing is known about its layers");
}
