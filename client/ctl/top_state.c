/* top_state.c - sorting, the selection, and what each key does. */
#include "top_state.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "out.h"

const struct top_column_row top_columns[TOP_COLUMNS] = {
#define TOP_COLUMN_ROW(name, title, letter, falling) {title, letter, falling},
    TOP_COLUMN_MAP(TOP_COLUMN_ROW)
#undef TOP_COLUMN_ROW
};

void top_state_init(struct top_state *s) {
    *s = (struct top_state){.sort = TOP_COLUMN_CHARGED, .interval_ms = 1000};
}

void top_state_deinit(struct top_state *s) {
    top_frame_deinit(&s->frame);
    ctl_answer_deinit(&s->heads);
    s->order = scissor_free(s->order);
}

void top_state_say(struct top_state *s, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(s->message, sizeof s->message, format, arguments);
    va_end(arguments);
}

size_t top_state_find(const struct top_state *s, uint64_t session) {
    for (size_t i = 0; i < s->frame.sessions.count; i++)
        if (top_frame_session(&s->frame, i)->session == session)
            return i;
    return SIZE_MAX;
}

/* ---------- order ---------- */

static int compare_numbers(double a, double b) {
    return a < b ? -1 : a > b;
}

static int compare(const struct top_state *s, size_t i, size_t j) {
    const struct proto_session_stat *a = top_frame_session(&s->frame, i), *b = top_frame_session(&s->frame, j);
    switch (s->sort) {
    case TOP_COLUMN_NAME:
        return strncmp(a->name, b->name, sizeof a->name);
    case TOP_COLUMN_PID:
        return compare_numbers(a->pid, b->pid);
    case TOP_COLUMN_STATE:
        return compare_numbers(a->state, b->state);
    case TOP_COLUMN_POLICY:
        return strncmp(a->policy, b->policy, sizeof a->policy);
    case TOP_COLUMN_ROWS:
        return compare_numbers(a->settled_max, b->settled_max);
    case TOP_COLUMN_CHARGED:
        return compare_numbers((double)a->charged_bytes, (double)b->charged_bytes);
    case TOP_COLUMN_TOKENS:
        return compare_numbers(s->frame.rows[i].tokens, s->frame.rows[j].tokens);
    case TOP_COLUMN_EVICTED:
        return compare_numbers(s->frame.rows[i].evicted, s->frame.rows[j].evicted);
    case TOP_COLUMN_IDLE:
        return compare_numbers((double)a->idle_ns, (double)b->idle_ns);
    case TOP_COLUMN_PRIORITY:
        return compare_numbers(a->priority, b->priority);
    case TOP_COLUMN_ID:
    case TOP_COLUMNS:
        break;
    }
    return a->session < b->session ? -1 : a->session > b->session;
}

/* Equal ones stay in the order of their opening, so that lines do not jump about. */
static int compare_rows(const void *left, const void *right, void *context) {
    const struct top_state *s = context;
    size_t i = *(const size_t *)left, j = *(const size_t *)right;
    int order = compare(s, i, j);
    if (order)
        return s->rising ? order : -order;
    return i < j ? -1 : i > j;
}

/* The selection stays with its session; if that has gone, with its line. */
static void sort(struct top_state *s) {
    size_t count = s->frame.sessions.count;
    for (size_t i = 0; i < count; i++)
        s->order[i] = i;
    qsort_r(s->order, count, sizeof *s->order, compare_rows, s);
    for (size_t i = 0; i < count; i++)
        if (top_frame_session(&s->frame, s->order[i])->session == s->selected)
            s->cursor = i;
    s->cursor = count && s->cursor >= count ? count - 1 : count ? s->cursor : 0;
    s->selected = count ? top_frame_session(&s->frame, s->order[s->cursor])->session : 0;
}

bool top_state_take(struct top_state *s, struct top_frame *frame) {
    size_t *order = scissor_calloc(frame->sessions.count + 1, sizeof *order);
    if (!order) {
        top_frame_deinit(frame);
        return false;
    }
    top_frame_deinit(&s->frame);
    s->frame = *frame;
    *frame = (struct top_frame){.seconds = 0};
    scissor_free(s->order);
    s->order = order;
    s->gone[0] = 0;
    sort(s);
    if (s->asking && top_state_find(s, s->asking_session) == SIZE_MAX) {
        s->asking = false;
        top_state_say(s, "session %llu has been closed already", (unsigned long long)s->asking_session);
    }
    if (s->mode == TOP_DETAIL) {
        size_t at = top_state_find(s, s->detail.session);
        s->detail_over = at == SIZE_MAX;
        if (!s->detail_over)
            s->detail = *top_frame_session(&s->frame, at);
    }
    return true;
}

void top_state_take_heads(struct top_state *s, struct ctl_answer *heads) {
    ctl_answer_deinit(&s->heads);
    s->heads = *heads;
    *heads = (struct ctl_answer){.count = 0};
}

/* ---------- keys ---------- */

static void sort_by(struct top_state *s, enum top_column column) {
    /* The same key again turns the order round. */
    s->rising = s->sort == column ? !s->rising : !top_columns[column].falling;
    s->sort = column;
    if (s->order)
        sort(s);
}

static void move(struct top_state *s, size_t by, bool down) {
    size_t *at = s->mode == TOP_DETAIL ? &s->detail_at : &s->cursor;
    size_t count = s->mode == TOP_DETAIL ? s->detail.layers : s->frame.sessions.count;
    size_t last = count ? count - 1 : 0;
    if (down)
        *at = by > last || *at > last - by ? last : *at + by;
    else
        *at = by > *at ? 0 : *at - by;
    if (s->mode == TOP_TABLE)
        s->selected = count ? top_frame_session(&s->frame, s->order[s->cursor])->session : 0;
}

static bool key_moves(struct top_state *s, int key) {
    switch (key) {
    case TOP_KEY_UP:
    case 'k':
        move(s, 1, false);
        return true;
    case TOP_KEY_DOWN:
    case 'j':
        move(s, 1, true);
        return true;
    case TOP_KEY_PAGE_UP:
        move(s, TOP_PAGE, false);
        return true;
    case TOP_KEY_PAGE_DOWN:
        move(s, TOP_PAGE, true);
        return true;
    case TOP_KEY_HOME:
    case 'g':
        move(s, SIZE_MAX, false);
        return true;
    case TOP_KEY_END:
    case 'G':
        move(s, SIZE_MAX, true);
        return true;
    default:
        return false;
    }
}

/* 100, 200, 500 ms, 1, 2, 5 s... up to a minute. */
static void change_interval(struct top_state *s, bool longer) {
    static const unsigned steps[] = {100, 200, 500, 1000, 2000, 5000, 10000, 30000, 60000};
    size_t count = sizeof steps / sizeof steps[0], at = 0;
    while (at + 1 < count && steps[at] < s->interval_ms)
        at++;
    if (longer)
        at = at + 1 < count ? at + 1 : at;
    else
        at = at ? at - 1 : 0;
    s->interval_ms = steps[at];
}

static bool key_sorts(struct top_state *s, int key) {
    if (key == 'r') {
        s->rising = !s->rising;
        if (s->order)
            sort(s);
        return true;
    }
    if (key == 's') {
        sort_by(s, (s->sort + 1) % TOP_COLUMNS);
        return true;
    }
    for (size_t i = 0; i < TOP_COLUMNS; i++) {
        if (key == top_columns[i].letter) {
            sort_by(s, (enum top_column)i);
            return true;
        }
    }
    return false;
}

static void ask_close(struct top_state *s) {
    uint64_t session = s->mode == TOP_DETAIL ? s->detail.session : s->selected;
    if (!session || top_state_find(s, session) == SIZE_MAX) {
        top_state_say(s, "there is no session to close");
        return;
    }
    s->asking = true;
    s->asking_session = session;
}

static enum top_action open_detail(struct top_state *s) {
    size_t at = top_state_find(s, s->selected);
    if (!s->selected || at == SIZE_MAX) {
        top_state_say(s, "there is no session to look into");
        return TOP_NOTHING;
    }
    ctl_answer_deinit(&s->heads);
    s->mode = TOP_DETAIL;
    s->detail = *top_frame_session(&s->frame, at);
    s->detail_over = false;
    s->detail_at = 0;
    return TOP_ASK;
}

static enum top_action key_asked(struct top_state *s, int key) {
    s->asking = false;
    if (key == 'y' || key == 'Y')
        return TOP_CLOSE;
    top_state_say(s, "session %llu stays open", (unsigned long long)s->asking_session);
    return TOP_NOTHING;
}

enum top_action top_state_key(struct top_state *s, int key) {
    s->message[0] = 0;
    if (s->asking)
        return key_asked(s, key);
    if (key == 'q' && s->mode == TOP_TABLE)
        return TOP_QUIT;
    if (s->mode != TOP_TABLE &&
        (key == 'q' || key == TOP_KEY_ESCAPE || (key == 'd' && s->mode == TOP_DETAIL) || s->mode == TOP_HELP)) {
        s->mode = TOP_TABLE;
        return TOP_NOTHING;
    }
    switch (key) {
    case 'h':
    case '?':
        s->mode = TOP_HELP;
        return TOP_NOTHING;
    case ' ':
        s->paused = !s->paused;
        return s->paused ? TOP_NOTHING : TOP_ASK;
    case '+':
    case '-':
        change_interval(s, key == '+');
        return TOP_NOTHING;
    case 'c':
        ask_close(s);
        return TOP_NOTHING;
    case 'd':
    case '\n':
    case '\r':
        return s->mode == TOP_TABLE ? open_detail(s) : TOP_NOTHING;
    default:
        if (!key_moves(s, key) && (s->mode != TOP_TABLE || !key_sorts(s, key)))
            top_state_say(s, "this key does nothing; h lists those that do");
        return TOP_NOTHING;
    }
}
