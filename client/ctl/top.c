/* top.c - `scissorctl top`: the full screen on a terminal; else one frame as text, or JSON, one line a second. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "alloc.h"
#include "json.h"
#include "live.h"
#include "out.h"
#include "top_frame.h"
#include "top_screen.h"
#include "view.h"

#define PERIOD_MS 1000

static int show_text(struct ctl *ctl, const struct top_frame *f) {
    struct out o;
    out_init(&o, ctl->colour);
    for (size_t i = 0; i < f->pools.count; i++)
        ctl_view_pool_brief(&o, top_frame_pool(f, i));
    out_printf(&o, "\n");
    ctl_view_sessions(&o, f->sessions.entries, NULL, f->sessions.count);
    bool good = out_flush(&o, stdout);
    out_deinit(&o);
    return good ? CTL_DONE : CTL_REFUSED;
}

static int show_json(const struct top_frame *f, bool line) {
    return ctl_json_print(
        json_pack("{s:o, s:o}", "pools", ctl_json_pools(&f->pools), "sessions", ctl_json_sessions(&f->sessions)), line);
}

/* Frames as text or JSON until the end, or one. */
static int print_frames(struct ctl *ctl, struct ctl_link *link) {
    int status;
    ctl_live_begin();
    do {
        struct top_frame frame;
        status = top_frame_take(link, &(struct top_frame){.seconds = 0}, &frame);
        if (status)
            break;
        status = ctl->json ? show_json(&frame, !ctl->once) : show_text(ctl, &frame);
        top_frame_deinit(&frame);
    } while (status == CTL_DONE && ctl->json && !ctl->once && ctl_live_sleep(PERIOD_MS));
    ctl_link_close(link);
    return status;
}

int ctl_top(struct ctl *ctl) {
    struct ctl_link link;
    int status = ctl_link_open(&link, ctl->directory);
    if (status)
        return status;
    if (isatty(STDOUT_FILENO) && !ctl->once && !ctl->json)
        status = ctl_top_screen(ctl, &link);
    else
        status = CTL_TOP_NO_SCREEN;
    return status == CTL_TOP_NO_SCREEN ? print_frames(ctl, &link) : status;
}
