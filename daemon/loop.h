/* loop.h - the daemon around the broker: one libuv loop that brings messages in and carries actions out.
 *
 * The loop's thread owns everything here and is the only one that calls the broker; libuv's thread pool runs jobs. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "broker/broker.h"
#include "daemon/attach_socket.h"
#include "daemon/front_link.h"
#include "daemon/options.h"
#include "daemon/orphans.h"
#include "daemon/report.h"
#include "daemon/rundir.h"

/* How an end goes: answers to what is in flight, then the sessions, then the last packets, then the handles. Sessions
 * that are kept for the next process are left alone: once no job runs, the handles are closed. */
enum server_phase {
    SERVER_STARTING, /* until the front is ready */
    SERVER_RUNNING,
    SERVER_SETTLING, /* told to end; nothing is read any more, what is in flight gets its answer */
    SERVER_CLOSING,  /* all sessions were closed; their jobs and last packets go out */
    SERVER_ENDED,
};

#define SERVER_SIGNALS 3

struct server {
    uv_loop_t loop;
    uv_timer_t deadline;   /* broker_deadline() */
    uv_timer_t stop_timer; /* bounds a phase of the end */
    uv_signal_t signals[SERVER_SIGNALS];
    struct broker *broker;
    struct attach attach;
    struct front_link front;
    struct orphans orphans;
    struct report report;
    struct rundir *rundir;
    const char *ready_text;
    void (*reload)(void *data, struct broker *broker);
    void *reload_data;
    uint64_t deadline_ns;         /* what the timer is set to */
    uint32_t jobs;                /* on the thread pool now, or held back */
    uint64_t jobs_done;           /* ever */
    _Atomic uint32_t jobs_queued; /* no thread has begun with them */
    uint64_t extended_ns;         /* when the manager was told last that the end takes longer */
    bool keeps;                   /* the next process has the sessions */
    uint32_t bulk_jobs, bulk_jobs_max;
    struct server_job *held, **held_last; /* bulk jobs that wait until others of their kind are done */
    enum server_phase phase;
    int status; /* exit status */
};

/* Runs until a signal has ended it; takes the broker over and frees it, or leaves it if it `keeps` its sessions for the
 * next process. `ready_text` is logged when clients may come; `reload` is called at each SIGHUP. Gives the exit status.
 */
int server_run(struct rundir *rundir, struct broker *broker, bool keeps, const char *ready_text,
               void (*reload)(void *data, struct broker *broker), void *reload_data);

/* Carries out whatever the broker wants done; after every call of it. */
void server_pump(struct server *s);
/* The front is ready for the first time, or cannot start at all. */
void server_front_ready(struct server *s);
void server_front_broken(struct server *s);

uint64_t server_now(void); /* CLOCK_MONOTONIC in ns */
