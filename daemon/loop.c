/* loop.c - the loop: actions out, jobs to the thread pool and back, time, signals and the orderly end. */
#include "daemon/loop.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "alloc.h"
#include "daemon/log.h"
#include "daemon/service.h"
#include "scissor_error.h"

/* Bounds of the phases of an end, in ms: what is in flight gets its answer, then the last packets go out. */
#define SERVER_SETTLE_MS 2000
#define SERVER_CLOSE_MS 2000

/* While the memory of many sessions goes back at an end, the manager is told at most this often that it goes on. */
#define SERVER_EXTEND_NS 1000000000u

static void server_advance(struct server *s);

static uint64_t server_clock(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t server_now(void) {
    return server_clock(CLOCK_MONOTONIC);
}

/* ---------- actions ---------- */

struct server_job {
    uv_work_t work;
    struct server *server;
    struct broker_job *job;
    struct server_job *next; /* held back */
};

static void server_job_run(uv_work_t *work) {
    struct server_job *j = work->data;
    if (atomic_fetch_sub(&j->server->jobs_queued, 1) > 1)
        broker_job_hurry(j->job);
    broker_job_run(j->job);
}

static void server_queue_job(struct server_job *j);

/* A job done at an end is progress; what is still to be freed may take longer than the manager waits. */
static void server_extend(struct server *s, uint64_t now) {
    if (s->phase < SERVER_SETTLING || s->jobs == 0 || now - s->extended_ns < SERVER_EXTEND_NS)
        return;
    s->extended_ns = now;
    service_extend(30ull * SERVER_EXTEND_NS);
}

static void server_job_done(uv_work_t *work, int status) {
    struct server_job *j = work->data, *held;
    struct server *s = j->server;
    (void)status; /* nothing cancels a job */
    s->jobs--;
    s->jobs_done++;
    if (broker_job_is_bulk(j->job)) {
        s->bulk_jobs--;
        held = s->held;
        if (held) {
            s->held = held->next;
            if (!s->held)
                s->held_last = &s->held;
            server_queue_job(held);
        }
    }
    broker_job_done(s->broker, j->job, server_now());
    server_extend(s, server_now());
    scissor_free(j);
    server_pump(s);
}

static void server_queue_job(struct server_job *j) {
    j->server->bulk_jobs += broker_job_is_bulk(j->job);
    atomic_fetch_add(&j->server->jobs_queued, 1);
    uv_queue_work(&j->server->loop, &j->work, server_job_run, server_job_done); /* only fails without a function */
}

/* Threads are taken in the order of coming, so those who open and close large sessions all the time would make every
 * settle wait: they get half of the threads. */
static void server_start_job(struct server *s, struct broker_job *job) {
    struct server_job *j = scissor_calloc(1, sizeof *j);
    if (!j) {
        /* A job must be done, whatever happens: here, then. */
        broker_job_hurry(job);
        broker_job_run(job);
        broker_job_done(s->broker, job, server_now());
        return;
    }
    *j = (struct server_job){.server = s, .job = job};
    j->work.data = j;
    s->jobs++;
    if (!broker_job_is_bulk(job) || s->bulk_jobs < s->bulk_jobs_max) {
        server_queue_job(j);
        return;
    }
    *s->held_last = j;
    s->held_last = &j->next;
}

static void server_do_nothing(uv_work_t *work) {
    (void)work;
}

/* libuv makes its threads with the first job, and aborts if it cannot: not when sessions are open, then. */
static void server_start_threads(struct server *s) {
    static uv_work_t first;
    uv_queue_work(&s->loop, &first, server_do_nothing, NULL);
}

static uint32_t server_bulk_jobs_max(void) {
    const char *threads = getenv("UV_THREADPOOL_SIZE"); /* main() has set it if nobody else has */
    int count = threads ? atoi(threads) : 4;
    return count < 4 ? 1 : (uint32_t)count / 2;
}

static const char *server_why_closed(const struct proto_event *e) {
    return e->code == SCISSOR_OK            ? "by its client"
           : e->code == SCISSOR_EDEVICELOST ? "as its device failed"
                                            : proto_reason_name(e->reason);
}

/* A daemon has one pool. */
static void server_log_lost(const struct server *s) {
    const char *why = broker_pool_lost(s->broker, 0);
    daemon_log(LOG_ERR, "the device has failed, and all sessions on it are lost (%s); restart scissord to use it again",
               why ? why : "");
}

static void server_log_event(const struct server *s, const struct proto_event *e, pid_t pid) {
    char size[32];
    const char *bytes = daemon_size_text(e->bytes, " ", size, sizeof size), *what = proto_event_name(e->type);
    switch (e->type) {
    case PROTO_EVENT_OPENED:
        daemon_log_session(LOG_INFO, e->session, pid, "%s: %" PRIu64 " (%s), %s", what, e->session, e->name, bytes);
        break;
    case PROTO_EVENT_CLOSED:
        daemon_log_session(LOG_INFO, e->session, pid, "%s: %" PRIu64 " (%s), %s given back, %s", what, e->session,
                           e->name, bytes, server_why_closed(e));
        break;
    case PROTO_EVENT_QUARANTINED:
        daemon_log_session(LOG_INFO, e->session, pid,
                           "%s: session %" PRIu64 " (%s), %s, until process %d has closed it or is gone", what,
                           e->session, e->name, bytes, (int)pid);
        break;
    case PROTO_EVENT_DEVICE_LOST:
        server_log_lost(s);
        break;
    case PROTO_EVENT_PRESSURE:
        daemon_log_session(LOG_INFO, e->session, pid, "%s: session %" PRIu64 " (%s) gave back %s", what, e->session,
                           e->name, bytes);
        break;
    case PROTO_EVENT_EVICTED:
        daemon_log_session(LOG_DEBUG, e->session, pid, "%s: session %" PRIu64 ", %" PRIu64 " rows, %s", what,
                           e->session, e->rows, proto_reason_name(e->reason));
        break;
    case PROTO_EVENT_REFUSED:
        daemon_log_session(LOG_INFO, e->session, pid, "%s: %s (%s)", what, e->name, scissor_strerror(e->code));
        break;
    case PROTO_EVENT_DRAINING:
        daemon_log(LOG_NOTICE, "draining: no new sessions");
        break;
    case PROTO_EVENT_TAKEN_OVER:
    case PROTO_EVENT_REATTACHED:
        daemon_log_session(LOG_INFO, e->session, pid, "%s: %" PRIu64 " (%s)", what, e->session, e->name);
        break;
    case PROTO_EVENT_SCORES_LOST:
        daemon_log_session(LOG_INFO, e->session, pid, "%s: session %" PRIu64 " (%s)", what, e->session, e->name);
        break;
    default:
        daemon_log_session(LOG_DEBUG, e->session, pid, "%s: session %" PRIu64, what, e->session);
    }
}

static void server_event(struct server *s, const void *bytes, pid_t pid) {
    struct proto_event e;
    memcpy(&e, bytes, sizeof e);
    e.time_ns = server_clock(CLOCK_REALTIME);
    server_log_event(s, &e, pid);
    front_link_event(&s->front, &e, sizeof e);
}

static void server_act(struct server *s, const struct broker_action *action) {
    switch (action->type) {
    case BROKER_ACTION_SEND:
        attach_send(&s->attach, broker_peer_data(action->peer), action);
        break;
    case BROKER_ACTION_HANGUP:
        attach_hangup(&s->attach, broker_peer_data(action->peer));
        break;
    case BROKER_ACTION_JOB:
        server_start_job(s, action->job);
        break;
    case BROKER_ACTION_ANSWER:
        front_link_answer(&s->front, action->cookie, action->bytes, action->size);
        break;
    case BROKER_ACTION_EVENT:
        server_event(s, action->bytes, action->pid);
        break;
    }
}

static void server_on_deadline(uv_timer_t *timer) {
    struct server *s = timer->data;
    s->deadline_ns = UINT64_MAX;
    broker_tick(s->broker, server_now());
    server_pump(s);
}

/* libuv counts whole ms from the begin of the loop's turn: rounded up, and an early call only sets it again. */
static void server_set_deadline(struct server *s) {
    uint64_t due = broker_deadline(s->broker), now;
    if (due == s->deadline_ns || uv_is_closing((uv_handle_t *)&s->deadline))
        return;
    s->deadline_ns = due;
    if (due == UINT64_MAX) {
        uv_timer_stop(&s->deadline);
        return;
    }
    now = server_now();
    uv_update_time(&s->loop);
    uv_timer_start(&s->deadline, server_on_deadline, due > now ? (due - now + 999999) / 1000000 : 0, 0);
}

void server_pump(struct server *s) {
    struct broker_action action;
    if (s->attach.leaving)
        return; /* what is still wanted, the next process does */
    while (broker_action_next(s->broker, &action))
        server_act(s, &action);
    server_set_deadline(s);
    if (s->phase >= SERVER_SETTLING)
        server_advance(s);
}

/* ---------- begin and end ---------- */

void server_front_ready(struct server *s) {
    if (s->phase != SERVER_STARTING)
        return;
    s->phase = SERVER_RUNNING;
    daemon_log_bare(LOG_NOTICE, "%s", s->ready_text);
    service_ready();
}

static void server_finish(struct server *s) {
    s->phase = SERVER_ENDED;
    uv_close((uv_handle_t *)&s->deadline, NULL);
    uv_close((uv_handle_t *)&s->stop_timer, NULL);
    for (size_t i = 0; i < SERVER_SIGNALS; i++)
        uv_close((uv_handle_t *)&s->signals[i], NULL);
    s->attach.leaving = s->keeps; /* also if it could not start: another one may */
    orphans_deinit(&s->orphans);
    report_deinit(&s->report);
    attach_deinit(&s->attach);
    front_link_deinit(&s->front);
    server_pump(s); /* sessions that were still there went with their peers; their jobs keep the loop going */
}

/* Jobs that do not end cannot be left behind; what they had published the next process does, as after a crash. */
static void server_exit_at_once(struct server *s, int status) {
    front_link_kill(&s->front);
    rundir_deinit(s->rundir);
    _exit(status);
}

static void server_on_stop_timer(uv_timer_t *timer) {
    struct server *s = timer->data;
    if (s->phase == SERVER_SETTLING && s->keeps) {
        if (s->jobs == 0) {
            server_finish(s);
            return;
        }
        daemon_log(LOG_NOTICE, "%" PRIu32 " jobs are not done in time; the next process goes on with them", s->jobs);
        server_exit_at_once(s, s->status);
    } else if (s->phase == SERVER_SETTLING) {
        s->phase = SERVER_CLOSING;
        uv_timer_start(&s->stop_timer, server_on_stop_timer, SERVER_CLOSE_MS, 0);
        broker_close_all(s->broker, server_now());
        server_pump(s);
    } else if (s->phase == SERVER_CLOSING) {
        server_finish(s);
    }
}

/* Goes on with the end when what a phase waits for is done; the stop timer does the rest, so that nothing here runs
 * inside of a call that is still busy with what would be closed. */
static void server_advance(struct server *s) {
    bool idle = s->jobs == 0 && (s->keeps || broker_is_quiet(s->broker));
    if ((s->phase == SERVER_SETTLING && idle) || (s->phase == SERVER_CLOSING && idle && attach_is_flushed(&s->attach)))
        uv_timer_start(&s->stop_timer, server_on_stop_timer, 0, 0);
}

/* Begins to end in order; the phases are in loop.h. */
static void server_end(struct server *s) {
    s->phase = SERVER_SETTLING;
    attach_stop_reading(&s->attach);
    uv_timer_start(&s->stop_timer, server_on_stop_timer, SERVER_SETTLE_MS, 0);
    if (!s->keeps)
        broker_drain(s->broker, server_now());
    server_pump(s);
}

void server_front_broken(struct server *s) {
    if (s->phase == SERVER_STARTING) {
        s->status = 1;
        server_end(s);
    }
}

/* The first signal ends the daemon in order, the second at once. */
static void server_on_signal(uv_signal_t *handle, int signal) {
    struct server *s = handle->data;
    if (s->phase >= SERVER_SETTLING) {
        daemon_log(LOG_WARNING, "second signal (%s): exit at once", strsignal(signal));
        server_exit_at_once(s, 1);
    }
    daemon_log(LOG_NOTICE, "%s: ending; %" PRIu32 " sessions are open%s", strsignal(signal),
               broker_session_count(s->broker), s->keeps ? " and stay for the next process" : "");
    service_stopping();
    server_end(s);
}

static void server_on_hangup(uv_signal_t *handle, int signal) {
    struct server *s = handle->data;
    (void)signal;
    if (s->phase >= SERVER_SETTLING)
        return;
    service_reloading();
    s->reload(s->reload_data, s->broker);
    if (s->phase == SERVER_RUNNING)
        service_ready();
}

static int server_init(struct server *s) {
    static const int signals[SERVER_SIGNALS] = {SIGTERM, SIGINT, SIGHUP};
    int r = uv_loop_init(&s->loop);
    if (r < 0)
        return r;
    server_start_threads(s);
    uv_timer_init(&s->loop, &s->deadline);
    uv_timer_init(&s->loop, &s->stop_timer);
    s->deadline.data = s->stop_timer.data = s;
    for (size_t i = 0; i < SERVER_SIGNALS; i++) {
        uv_signal_init(&s->loop, &s->signals[i]);
        s->signals[i].data = s;
        r = uv_signal_start(&s->signals[i], signals[i] == SIGHUP ? server_on_hangup : server_on_signal, signals[i]);
        if (r < 0)
            return r;
    }
    r = attach_init(&s->attach, s, s->rundir->attach_fd);
    if (r == 0)
        r = orphans_init(&s->orphans, s);
    if (r == 0)
        r = report_init(&s->report, s);
    return r < 0 ? r : front_link_init(&s->front, s, s->rundir->path);
}

int server_run(struct rundir *rundir, struct broker *broker, bool keeps, const char *ready_text,
               void (*reload)(void *data, struct broker *broker), void *reload_data) {
    static struct server server;
    struct server *s = &server;
    *s = (struct server){.broker = broker,
                         .rundir = rundir,
                         .keeps = keeps,
                         .ready_text = ready_text,
                         .reload = reload,
                         .reload_data = reload_data,
                         .deadline_ns = UINT64_MAX};
    s->bulk_jobs_max = server_bulk_jobs_max();
    s->held_last = &s->held;
    int r = server_init(s);
    if (r < 0) {
        /* Nothing has been let in yet; the process ends and takes what is half there with it. */
        daemon_log(LOG_ERR, "cannot start: %s", uv_strerror(r));
        return 1;
    }
    broker_tick(broker, server_now()); /* its uptime begins here */
    uv_run(&s->loop, UV_RUN_DEFAULT);
    uv_loop_close(&s->loop);
    front_link_free(&s->front);
    if (broker_session_count(broker) && !s->attach.leaving)
        daemon_log(LOG_WARNING, "the memory of %" PRIu32 " sessions is still open in their clients' processes",
                   broker_session_count(broker));
    if (s->attach.leaving)
        broker_leave(broker);
    else
        broker_free(broker);
    return s->status;
}
