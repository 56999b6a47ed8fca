/* report.c - see report.h.
 *
 * The sign of life comes from the loop, so one that hangs gives none. It is also withheld when jobs are there and none
 * was done for half of the manager's time: then the threads hang, and sessions stand still although the loop turns. A
 * front that hangs is ended after a quarter of that time, as another one can take its place without loss; the sign is
 * withheld only if that does not help. */
#include "daemon/report.h"

#include <inttypes.h>
#include <stdio.h>

#include "daemon/loop.h"
#include "daemon/service.h"

#define REPORT_STATUS_MS 1000
#define REPORT_AGAIN_MS 20 /* when the manager did not listen */

static void report_on_status(uv_timer_t *timer) {
    struct report *r = timer->data;
    struct server *s = r->server;
    struct proto_pool_stat stat;
    char text[256], charged[32], limit[32], more[160] = "";
    if (s->phase != SERVER_RUNNING)
        return;
    broker_pool_stat(s->broker, 0, server_now(), &stat);
    int used = 0;
    if (stat.waiting)
        used = snprintf(more, sizeof more, ", %" PRIu32 " wait for memory", stat.waiting);
    if (stat.orphans)
        used += snprintf(more + used, sizeof more - (size_t)used, ", %" PRIu32 " wait for their client", stat.orphans);
    if (stat.quarantined)
        used += snprintf(more + used, sizeof more - (size_t)used, ", %" PRIu32 " quarantined", stat.quarantined);
    if (stat.device_lost)
        used += snprintf(more + used, sizeof more - (size_t)used, ", device failed");
    if (stat.draining)
        snprintf(more + used, sizeof more - (size_t)used, ", draining");
    snprintf(text, sizeof text, "%" PRIu32 " session%s, %s of %s%s", stat.sessions, stat.sessions == 1 ? "" : "s",
             daemon_size_text(stat.charged_bytes, " ", charged, sizeof charged),
             daemon_size_text(stat.limit_bytes, " ", limit, sizeof limit), more);
    service_status(text);
}

static void report_on_watchdog(uv_timer_t *timer) {
    struct report *r = timer->data;
    struct server *s = r->server;
    uint64_t now = server_now();
    if (s->jobs == 0 || s->jobs_done != r->jobs_done)
        r->moved_ns = now;
    r->jobs_done = s->jobs_done;
    uint64_t silent = front_link_check(&s->front, now, r->watchdog_ns / 4);
    if (now - r->moved_ns < r->watchdog_ns / 2 && silent < r->watchdog_ns / 2 && !service_alive())
        uv_timer_start(timer, report_on_watchdog, REPORT_AGAIN_MS, uv_timer_get_repeat(timer));
}

int report_init(struct report *r, struct server *server) {
    *r = (struct report){.server = server, .watchdog_ns = service_watchdog_ns(), .moved_ns = server_now()};
    r->status.data = r->watchdog.data = r;
    int code = uv_timer_init(&server->loop, &r->status);
    if (code == 0)
        code = uv_timer_init(&server->loop, &r->watchdog);
    if (code == 0 && service_is_managed())
        code = uv_timer_start(&r->status, report_on_status, 0, REPORT_STATUS_MS);
    uint64_t often = r->watchdog_ns / 4000000u;
    if (code == 0 && r->watchdog_ns)
        code = uv_timer_start(&r->watchdog, report_on_watchdog, 0, often ? often : 1);
    return code;
}

void report_deinit(struct report *r) {
    uv_close((uv_handle_t *)&r->status, NULL);
    uv_close((uv_handle_t *)&r->watchdog, NULL);
}
