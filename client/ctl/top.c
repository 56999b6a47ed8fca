/* top.c - `scissorctl top`: pool and sessions once a second, on the whole terminal or as one frame.
 *
 * A terminal is switched to its second screen, so that what was there before comes back at the end. Rates are the
 * difference of two frames by the daemon's clock. */
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "alloc.h"
#include "json.h"
#include "live.h"
#include "out.h"
#include "view.h"

#define SCREEN_BEGIN "\033[?1049h\033[?25l"
#define SCREEN_END "\033[?25h\033[?1049l"
#define PERIOD_MS 1000

struct frame {
    struct ctl_answer pools, sessions;
    double *rate; /* tokens a second, one per session */
};

static void frame_deinit(struct frame *f) {
    ctl_answer_deinit(&f->pools);
    ctl_answer_deinit(&f->sessions);
    f->rate = scissor_free(f->rate);
}

static uint64_t frame_clock(const struct frame *f) {
    const struct proto_pool_stat *pool = f->pools.entries;
    return f->pools.count ? pool->uptime_ns : 0;
}

/* Both lists are small, and in the same order but for what came and went. */
static void frame_rates(struct frame *f, const struct frame *before) {
    const struct proto_session_stat *now = f->sessions.entries, *old = before->sessions.entries;
    double seconds = (double)(frame_clock(f) - frame_clock(before)) / 1e9;
    for (size_t i = 0; i < f->sessions.count; i++) {
        f->rate[i] = 0;
        for (size_t j = 0; j < before->sessions.count; j++)
            if (old[j].session == now[i].session && seconds > 0 && now[i].tokens_seen >= old[j].tokens_seen)
                f->rate[i] = (double)(now[i].tokens_seen - old[j].tokens_seen) / seconds;
    }
}

static int frame_take(struct ctl_link *link, struct frame *f, const struct frame *before) {
    *f = (struct frame){.rate = NULL};
    int status = ctl_link_ask(link, PROTO_OP_STAT, 0, &f->pools);
    if (status)
        return status;
    status = ctl_link_ask(link, PROTO_OP_SESSIONS, 0, &f->sessions);
    if (status == CTL_DONE) {
        f->rate = scissor_calloc(f->sessions.count + 1, sizeof *f->rate);
        if (!f->rate)
            status = ctl_fail(CTL_REFUSED, "out of memory");
    }
    if (status) {
        frame_deinit(f);
        return status;
    }
    frame_rates(f, before);
    return CTL_DONE;
}

static int show_json(const struct frame *f, bool line) {
    return ctl_json_print(
        json_pack("{s:o, s:o}", "pools", ctl_json_pools(&f->pools), "sessions", ctl_json_sessions(&f->sessions)), line);
}

static int show(struct ctl *ctl, const struct frame *f, bool screen, bool rates) {
    if (ctl->json)
        return show_json(f, !ctl->once);
    struct out o;
    out_init(&o, ctl->colour);
    const struct proto_pool_stat *pools = f->pools.entries;
    for (size_t i = 0; i < f->pools.count; i++)
        ctl_view_pool_brief(&o, &pools[i]);
    out_printf(&o, "\n");
    ctl_view_sessions(&o, f->sessions.entries, rates ? f->rate : NULL, f->sessions.count);
    bool good;
    if (screen) {
        struct winsize size = {0};
        ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
        good = out_flush_screen(&o, stdout, size.ws_row ? size.ws_row : 24, size.ws_col ? size.ws_col : 80);
    } else {
        good = out_flush(&o, stdout);
    }
    out_deinit(&o);
    return good ? CTL_DONE : CTL_REFUSED;
}

int ctl_top(struct ctl *ctl) {
    bool screen = isatty(STDOUT_FILENO) && !ctl->once && !ctl->json;
    if (!isatty(STDOUT_FILENO) && !ctl->json)
        ctl->once = true;
    struct ctl_link link;
    int status = ctl_link_open(&link, ctl->directory);
    if (status)
        return status;
    struct frame frame = {.rate = NULL};
    ctl_live_begin();
    if (screen)
        fputs(SCREEN_BEGIN, stdout);
    do {
        struct frame next;
        status = frame_take(&link, &next, &frame);
        if (status)
            break;
        frame_deinit(&frame);
        frame = next;
        status = show(ctl, &frame, screen, !ctl->once);
    } while (status == CTL_DONE && !ctl->once && ctl_live_sleep(PERIOD_MS));
    if (screen) {
        fputs(SCREEN_END, stdout);
        fflush(stdout);
    }
    frame_deinit(&frame);
    ctl_link_close(&link);
    return status;
}
