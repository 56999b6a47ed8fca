/* top_screen.c - the loop of `scissorctl top`: asks, draws with curses, reads keys.
 *
 * What stands where is decided in top_layout.c; this copies a grid to the terminal. Everything that would go to
 * standard error meanwhile is captured and shown in the last line. Signals end the loop by a flag, so there is one way
 * out, and it gives the terminal back. */
#include "top_screen.h"

#include <curses.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "live.h"
#include "pass.h"
#include "top_layout.h"

/* A wait never lasts longer, so that a signal that came just before it is seen. */
#define WAIT_MAX_MS 1000

struct screen {
    const struct ctl *ctl;
    struct ctl_link *link;
    struct top_state state;
    char said[TOP_TEXT]; /* what ctl_fail() said last */
    attr_t looks[TOP_LOOKS];
    bool keys; /* standard input is a terminal, too */
    bool over;
    enum top_action pending; /* of a key that came while an answer was awaited */
};

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---------- the terminal ---------- */

static void looks_init(struct screen *s, bool colour) {
    static const struct {
        enum top_look look;
        attr_t attributes;
        short colour; /* -1: that of the terminal */
    } looks[] = {
        {TOP_LOOK_PLAIN, A_NORMAL, -1},
        {TOP_LOOK_BOLD, A_BOLD, -1},
        {TOP_LOOK_DIM, A_DIM, -1},
        {TOP_LOOK_TITLE, A_UNDERLINE, -1},
        {TOP_LOOK_SORTED, A_UNDERLINE | A_BOLD | A_REVERSE, -1},
        {TOP_LOOK_SELECTED, A_REVERSE, -1},
        {TOP_LOOK_WARN, A_BOLD, COLOR_RED},
        {TOP_LOOK_OWN, A_BOLD, COLOR_GREEN},
        {TOP_LOOK_LENT, A_BOLD, COLOR_YELLOW},
        {TOP_LOOK_PROMISED, A_NORMAL, COLOR_CYAN},
        {TOP_LOOK_FREE, A_NORMAL, -1},
    };
    for (size_t i = 0; i < sizeof looks / sizeof looks[0]; i++) {
        short pair = (short)(i + 1);
        s->looks[looks[i].look] = looks[i].attributes;
        if (colour && looks[i].colour >= 0 && init_pair(pair, looks[i].colour, -1) == OK)
            s->looks[looks[i].look] |= (attr_t)COLOR_PAIR(pair);
    }
}

static SCREEN *terminal_begin(struct screen *s) {
    SCREEN *terminal = newterm(NULL, stdout, stdin);
    if (!terminal)
        return NULL;
    const char *moves = tigetstr("cup");
    if (!moves || moves == (const char *)-1) {
        endwin();
        delscreen(terminal);
        return NULL;
    }
    bool colour = s->ctl->colour && has_colors() && start_color() == OK && use_default_colors() == OK;
    looks_init(s, colour);
    cbreak();
    noecho();
    nonl();
    keypad(stdscr, TRUE);
    nodelay(stdscr, TRUE);
    set_escdelay(50);
    curs_set(0);
    return terminal;
}

static bool draw(struct screen *s) {
    struct top_grid g;
    if (!top_grid_init(&g, LINES > 0 ? (unsigned)LINES : 1, COLS > 0 ? (unsigned)COLS : 1))
        return false;
    top_layout(&s->state, &g);
    erase();
    for (unsigned row = 0; row < g.rows; row++) {
        const char *text = g.text + (size_t)row * g.columns;
        const uint8_t *look = g.look + (size_t)row * g.columns;
        for (unsigned at = 0, next; at < g.columns; at = next) {
            for (next = at + 1; next < g.columns && look[next] == look[at];)
                next++;
            attrset(s->looks[look[at]]);
            mvaddnstr((int)row, (int)at, text + at, (int)(next - at));
        }
    }
    attrset(A_NORMAL);
    refresh();
    top_grid_deinit(&g);
    return true;
}

/* ---------- the daemon ---------- */

static void gone(struct screen *s) {
    ctl_link_close(s->link);
    snprintf(s->state.gone, sizeof s->state.gone, "no daemon, trying again: %.*s", (int)sizeof s->state.gone - 40,
             s->said);
}

static bool keys_while_waiting(void *data);

static int connect_again(struct screen *s) {
    if (s->link->socket >= 0)
        return CTL_DONE;
    int status = ctl_link_open(s->link, s->ctl->directory);
    return status ? status : ctl_link_while_waiting(s->link, keys_while_waiting, s);
}

static void ask_heads(struct screen *s) {
    struct ctl_answer heads;
    uint64_t session = s->state.detail.session;
    if (s->state.mode != TOP_DETAIL || s->state.detail_over)
        return;
    /* It may have been closed since the list came; the next one tells. */
    if (ctl_link_ask(s->link, PROTO_OP_SESSION, session, &heads) != CTL_DONE)
        return;
    if (session == s->state.detail.session) /* no key has changed that meanwhile */
        top_state_take_heads(&s->state, &heads);
    else
        ctl_answer_deinit(&heads);
}

/* Connects again if need be. False if memory ran out. */
static bool ask(struct screen *s) {
    struct top_frame frame;
    int status = connect_again(s);
    if (status == CTL_DONE)
        status = top_frame_take(s->link, &s->state.frame, &frame);
    if (status) {
        gone(s);
        return true;
    }
    if (!top_state_take(&s->state, &frame))
        return false;
    ask_heads(s);
    return true;
}

static void close_session(struct screen *s) {
    struct ctl_answer answer;
    struct ctl_pass pass;
    if (s->state.gone[0]) { /* asking for a pass would only wait */
        top_state_say(&s->state, "not closed: %.*s", TOP_TEXT - 20, s->state.gone);
        return;
    }
    int status = ctl_pass_open(&pass, s->ctl->directory);
    if (status == CTL_DONE)
        status = connect_again(s);
    if (status == CTL_DONE)
        status = ctl_link_change(s->link, PROTO_OP_CLOSE_SESSION, s->state.asking_session, pass.is.pass, &answer);
    ctl_pass_close(&pass);
    if (status) {
        top_state_say(&s->state, "not closed: %.*s", TOP_TEXT - 20, s->said);
        return;
    }
    ctl_answer_deinit(&answer);
    top_state_say(&s->state, "session %llu is closed", (unsigned long long)s->state.asking_session);
}

/* ---------- keys ---------- */

static int key_of(int key) {
    switch (key) {
    case KEY_UP:
        return TOP_KEY_UP;
    case KEY_DOWN:
        return TOP_KEY_DOWN;
    case KEY_PPAGE:
        return TOP_KEY_PAGE_UP;
    case KEY_NPAGE:
        return TOP_KEY_PAGE_DOWN;
    case KEY_HOME:
        return TOP_KEY_HOME;
    case KEY_END:
        return TOP_KEY_END;
    case KEY_ENTER:
        return '\n';
    default:
        return key;
    }
}

/* Takes what has been typed; stops at what the daemon must be asked for, which is left in `pending`. */
static void take_keys(struct screen *s) {
    for (int key; !s->over && s->pending == TOP_NOTHING && (key = getch()) != ERR;) {
        if (key == KEY_RESIZE)
            continue; /* the next draw() has the new size */
        s->pending = top_state_key(&s->state, key_of(key));
        s->over = s->pending == TOP_QUIT;
    }
}

/* A daemon that gives no answer must not make the keys dead. */
static bool keys_while_waiting(void *data) {
    struct screen *s = data;
    if (s->keys)
        take_keys(s);
    return !s->over && !ctl_live_over() && draw(s);
}

/* Handles what has been typed, now and while an answer was awaited. True if a frame is wanted at once. */
static bool read_keys(struct screen *s) {
    bool wanted = false;
    do {
        enum top_action action = s->pending;
        s->pending = TOP_NOTHING;
        if (action == TOP_CLOSE)
            close_session(s);
        wanted |= action == TOP_ASK || action == TOP_CLOSE;
        take_keys(s);
    } while (!s->over && s->pending != TOP_NOTHING);
    return wanted;
}

/* Sleeps until a key, a signal or the time. True if a frame is wanted before that. */
static bool wait_for_key(struct screen *s, uint64_t until) {
    uint64_t now = now_ms(), left = until > now ? until - now : 0;
    struct pollfd in = {.fd = s->keys ? STDIN_FILENO : -1, .events = POLLIN};
    if (s->pending != TOP_NOTHING)
        left = 0;
    int ready = poll(&in, 1, left < WAIT_MAX_MS ? (int)left : WAIT_MAX_MS);
    if (ready > 0 && in.revents & (POLLHUP | POLLERR | POLLNVAL))
        s->over = true;
    /* Also after a signal: a new size of the terminal is told as a key. */
    return s->keys || ready < 0 ? read_keys(s) : false;
}

static int loop(struct screen *s) {
    uint64_t next = now_ms();
    while (!s->over && !ctl_live_over()) {
        uint64_t now = now_ms();
        if (now >= next && !s->state.paused) {
            if (!ask(s))
                return ctl_fail(CTL_REFUSED, "out of memory");
            next = now + s->state.interval_ms;
        }
        if (!draw(s))
            return ctl_fail(CTL_REFUSED, "out of memory");
        unsigned interval = s->state.interval_ms;
        if (wait_for_key(s, s->state.paused ? UINT64_MAX : next) && !ask(s))
            return ctl_fail(CTL_REFUSED, "out of memory");
        if (s->state.interval_ms != interval)
            next = now_ms() + s->state.interval_ms;
    }
    return CTL_DONE;
}

int ctl_top_screen(const struct ctl *ctl, struct ctl_link *link) {
    struct screen s = {.ctl = ctl, .link = link, .keys = isatty(STDIN_FILENO)};
    top_state_init(&s.state);
    ctl_live_begin(); /* before curses, which leaves handlers alone that are set */
    SCREEN *terminal = terminal_begin(&s);
    if (!terminal)
        return CTL_TOP_NO_SCREEN;
    ctl_fail_capture(s.said, sizeof s.said);
    int status = ctl_link_while_waiting(link, keys_while_waiting, &s);
    if (status == CTL_DONE)
        status = loop(&s);
    ctl_fail_capture(NULL, 0);
    endwin();
    delscreen(terminal);
    if (status)
        ctl_fail(status, "%s", s.said);
    top_state_deinit(&s.state);
    ctl_link_close(link);
    return status;
}
