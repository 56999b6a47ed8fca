/* top_state.h - what the full screen of `scissorctl top` shows and how keys change it. Knows no terminal: keys come in,
 * what is left to do for the caller goes out, and top_layout() makes a grid of characters of it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "top_frame.h"

/* X(name, title, letter that sorts by it or 0, falling at first). A title that starts with '>' aligns to the right. */
#define TOP_COLUMN_MAP(X)             \
    X(ID, ">ID", 'I', false)          \
    X(NAME, "NAME", 'N', false)       \
    X(PID, ">PID", 'P', false)        \
    X(STATE, "STATE", 'A', false)     \
    X(POLICY, "POLICY", 'O', false)   \
    X(ROWS, ">ROWS", 'R', true)       \
    X(CHARGED, ">CHARGED", 'C', true) \
    X(TOKENS, ">TOK/S", 'T', true)    \
    X(EVICTED, ">EVICT/S", 'E', true) \
    X(IDLE, ">IDLE", 'L', true)       \
    X(PRIORITY, ">PRI", 'Y', true)
enum top_column {
#define TOP_COLUMN_ENUM(name, title, letter, falling) TOP_COLUMN_##name,
    TOP_COLUMN_MAP(TOP_COLUMN_ENUM)
#undef TOP_COLUMN_ENUM
        TOP_COLUMNS
};
struct top_column_row {
    const char *title;
    char letter;
    bool falling;
};
extern const struct top_column_row top_columns[TOP_COLUMNS];

enum top_mode { TOP_TABLE, TOP_DETAIL, TOP_HELP };

#define TOP_INTERVAL_MIN_MS 100u
#define TOP_INTERVAL_MAX_MS 60000u
#define TOP_TEXT 256

struct top_state {
    struct top_frame frame;
    size_t *order;     /* indices of frame.sessions as they are shown */
    size_t cursor;     /* in `order` */
    uint64_t selected; /* the session there; 0: none */
    enum top_column sort;
    bool rising;
    enum top_mode mode;
    bool asking;             /* for the confirmation of a close of... */
    uint64_t asking_session; /* ...this one */
    struct ctl_answer heads; /* TOP_DETAIL: of `detail` */
    struct proto_session_stat detail;
    bool detail_over; /* it has been closed */
    size_t detail_at; /* first layer shown */
    unsigned interval_ms;
    bool paused;
    char message[TOP_TEXT]; /* outcome of the last command; until the next key */
    char gone[TOP_TEXT];    /* why there is no news from the daemon; empty: there is */
};

/* What a terminal sends beside characters. */
enum top_key { TOP_KEY_UP = 0x1000, TOP_KEY_DOWN, TOP_KEY_PAGE_UP, TOP_KEY_PAGE_DOWN, TOP_KEY_HOME, TOP_KEY_END };
#define TOP_KEY_ESCAPE 0x1b
#define TOP_PAGE 10

enum top_action {
    TOP_NOTHING,
    TOP_QUIT,
    TOP_ASK,   /* fetch a frame (and details) now */
    TOP_CLOSE, /* close the session asking_session */
};

void top_state_init(struct top_state *s);
void top_state_deinit(struct top_state *s);
/* Takes the frame over, whatever the outcome. False if out of memory. */
bool top_state_take(struct top_state *s, struct top_frame *frame);
/* Takes over the heads of the session `detail.session`. */
void top_state_take_heads(struct top_state *s, struct ctl_answer *heads);
enum top_action top_state_key(struct top_state *s, int key);
void top_state_say(struct top_state *s, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Index in frame.sessions of a session, or SIZE_MAX. */
size_t top_state_find(const struct top_state *s, uint64_t session);
