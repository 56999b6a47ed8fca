/* watch.c - `scissorctl watch`: events as they come.
 *
 * PUB may drop for a slow reader, so each event has a number, and a gap in them is told. SUB never says that the other
 * end has gone (it reconnects for ever), so the control socket is looked at whenever a second passed without an event.
 */
#include <stdio.h>

#include "json.h"
#include "live.h"
#include "out.h"
#include "place.h"
#include "view.h"

/* The front may be restarted in between; this many seconds without a listener mean that the daemon is gone. */
#define SECONDS_GONE 3

static int show(struct ctl *ctl, struct out *o, const struct proto_event *event, uint64_t dropped) {
    if (ctl->json)
        return ctl_json_print(ctl_json_event(event, dropped), true);
    if (dropped)
        out_printf(o, "-- %s event%s dropped on the way\n", figure_count(&(struct figure){""}, dropped),
                   dropped == 1 ? "" : "s");
    ctl_view_event(o, event);
    return out_flush(o, stdout) ? CTL_DONE : CTL_REFUSED;
}

int ctl_watch(struct ctl *ctl) {
    struct ctl_link link;
    int status = ctl_link_open_events(&link, ctl->directory);
    if (status)
        return status;
    struct out o;
    out_init(&o, ctl->colour);
    ctl_live_begin();
    uint64_t last = 0, shown = 0;
    for (unsigned gone = 0; status == CTL_DONE && !ctl_live_over() && (!ctl->count || shown < ctl->count);) {
        struct proto_event event;
        int got = ctl_link_event(&link, &event);
        if (got > 0) {
            gone = 0;
            /* A smaller number than before: another daemon. */
            uint64_t dropped = last && event.sequence > last ? event.sequence - last - 1 : 0;
            last = event.sequence;
            shown++;
            status = show(ctl, &o, &event, dropped);
        } else if (got == 0 && !ctl_live_over()) {
            gone = ctl_place_check(ctl->directory, PROTO_CONTROL_SOCKET, false) ? gone + 1 : 0;
            if (gone >= SECONDS_GONE)
                status = ctl_fail(CTL_NOT_RUNNING, "scissord has gone away");
        }
    }
    out_deinit(&o);
    ctl_link_close(&link);
    return status;
}
