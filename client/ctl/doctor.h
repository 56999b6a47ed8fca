/* doctor.h - what is wrong with a daemon, found in what it tells about itself.
 *
 * doctor_examine() is a pure function of a struct doctor_state: doctor.c gathers one from a running daemon, tests make
 * them up. A finding is raised when its figure reaches its threshold; all thresholds stand in one table, which the help
 * and the manual page show. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control.h"

enum doctor_severity { DOCTOR_NOTE, DOCTOR_WARNING, DOCTOR_CRITICAL };

/* X(name, id of the finding, severity, threshold, unit, text: what is compared with it) */
#define DOCTOR_MAP(X)                                                                                                  \
    X(PROMISED, "pool-promised", WARNING, 90, "%", "of the limit is guaranteed to sessions")                           \
    X(REFUSED, "opens-refused", WARNING, 5, "%", "of all opens were refused")                                          \
    X(WAITING, "opens-waiting", WARNING, 1, "opens", "are in the queue for memory")                                    \
    X(DRAINING, "draining", WARNING, 1, "", "the daemon drains")                                                       \
    X(SHRINKING, "limit-going-down", NOTE, 1, "bytes", "of lent memory stand between the limit and what it is to be")  \
    X(FRAGMENTED, "fragmented", WARNING, 50, "%", "of the settled segments is free, and the next line holds, too")     \
    X(FRAGMENTED_MIB, "fragmented", WARNING, 16, "MiB", "are free in settled segments")                                \
    X(OVERRUN, "frames-overrun", WARNING, 1, "%", "of the score frames found the front's ring full")                   \
    X(LATE, "frames-late", WARNING, 1, "%", "of the score frames came when the session settled already")               \
    X(MALFORMED, "frames-malformed", WARNING, 0.1, "%", "of the score frames were no valid frames")                    \
    X(FORGED, "frames-forged", WARNING, 0.1, "%", "of the score frames had no session or a wrong token")               \
    X(BLIND, "settles-without-scores", WARNING, 5, "%", "of the settles lacked scores, of at least 20")                \
    X(BLIND_MOST, "settles-without-scores", CRITICAL, 50, "%", "the same")                                             \
    X(BAD_SCORES, "bad-scores", WARNING, 1, "values", "were NaN, infinite or negative")                                \
    X(FRONT, "front-restarts", WARNING, 1, "an hour", "restarts of the front")                                         \
    X(FRONT_MOST, "front-restarts", CRITICAL, 20, "an hour", "the same")                                               \
    X(NO_STORE, "no-descriptor-store", WARNING, 1, "", "runs as a service, and sessions end with its process")         \
    X(STORE, "descriptor-store-full", WARNING, 90, "%", "of the descriptors that the service manager keeps are used")  \
    X(STORE_MOST, "descriptor-store-full", CRITICAL, 100, "%", "the same")                                             \
    X(LOST, "sessions-lost", WARNING, 1, "sessions", "could not be taken over at the start")                           \
    X(ORPHANS, "orphans", NOTE, 1, "sessions", "were taken over and wait for their client")                            \
    X(ORPHANS_LONG, "orphans", WARNING, 60, "s", "after the start there are such sessions")                            \
    X(DEVICE_LOST, "device-lost", CRITICAL, 1, "", "the pool's device has failed")                                     \
    X(QUARANTINED, "quarantined", WARNING, 10, "s",                                                                    \
      "a session's memory waits for its client's process to let go of it")                                             \
    X(UNRELEASED, "not-released", WARNING, 10, "s", "a client was told to close memory, and has it open")              \
    X(MACHINE, "limit-above-memory", WARNING, 90, "%",                                                                 \
      "of the memory of the machine, or of the daemon's cgroup, is the limit of all pools")                            \
    X(MACHINE_MOST, "limit-above-memory", CRITICAL, 100, "%", "the same")                                              \
    X(FILES, "few-descriptors", WARNING, 90, "%", "of the open files allowed would be used by full pools")             \
    X(HUGE_PAGES, "no-huge-pages", NOTE, 1, "", "the kernel gives shared memory none")                                 \
    X(THRASHES, "thrashes", WARNING, 25, "%", "of a session's rows were evicted under pressure, and it is at work")    \
    X(TURNOVER, "budget-too-small", WARNING, 50, "%", "of what a head holds is evicted by each settle, of at least 4") \
    X(HOG, "idle-hog", WARNING, 10, "%", "of the limit is lent to a session that is idle, and memory is short")        \
    X(HOG_SECONDS, "idle-hog", WARNING, 60, "s", "idle")                                                               \
    X(TIGHT, "idle-hog", WARNING, 95, "%", "charged: memory is short; so it is if opens wait or rows go by pressure")  \
    X(NEVER, "never-settles", WARNING, 60, "s", "a session is open, has fresh rows and never settled")                 \
    X(STUCK, "stuck-full", WARNING, 60, "s", "a session is idle with a full fresh buffer, though it settled before")

enum doctor_threshold {
#define DOCTOR_ENUM(name, id, severity, threshold, unit, text) DOCTOR_##name,
    DOCTOR_MAP(DOCTOR_ENUM)
#undef DOCTOR_ENUM
        DOCTOR_THRESHOLDS
};

/* Below these counts a share says nothing. */
#define DOCTOR_LEAST_SETTLES 20u
#define DOCTOR_LEAST_TURNS 4u

struct doctor_info {
    const char *id;
    enum doctor_severity severity;
    double threshold;
    const char *unit, *text;
};
extern const struct doctor_info doctor_table[DOCTOR_THRESHOLDS];

/* A look at a daemon and, for rates, its pools `seconds` before. What is not known is zero or empty. */
struct doctor_state {
    double seconds;
    const struct proto_pool_stat *pools, *pools_before;
    size_t pool_count, pool_before_count;
    const struct proto_session_stat *sessions;
    size_t session_count;
    const struct proto_memory_stat *memory;
    size_t memory_count;
    char shmem_enabled[128]; /* of the kernel: "always within_size advise [never] deny force" */
    uint64_t machine_bytes;  /* memory of the machine */
    uint64_t cgroup_bytes;   /* that the daemon's cgroup may have (MemoryMax=); 0: no less than the machine */
    uint64_t descriptors;    /* that the daemon may have open */
    bool service;            /* the daemon runs in a unit of its own name */
};

struct doctor_finding {
    const char *id;
    enum doctor_severity severity;
    double value, threshold;
    const char *unit;
    uint64_t session; /* 0: about none */
    char sentence[320], advice[400];
};

struct doctor_findings {
    struct doctor_finding *list; /* the worst first */
    size_t count;
    bool failed; /* out of memory: there are more */
};

/* doctor_findings_deinit() afterwards in any case. */
void doctor_examine(const struct doctor_state *state, struct doctor_findings *ret);
void doctor_findings_deinit(struct doctor_findings *findings);
/* Of the worst finding; a note if there is none. */
enum doctor_severity doctor_worst(const struct doctor_findings *findings);
const char *doctor_severity_name(enum doctor_severity severity);

/* The parts, for doctor_examine(). Each adds what it finds. */
void doctor_examine_pools(const struct doctor_state *state, struct doctor_findings *ret);
void doctor_examine_sessions(const struct doctor_state *state, struct doctor_findings *ret);
void doctor_examine_machine(const struct doctor_state *state, struct doctor_findings *ret);
/* Adds a finding if `value` reaches the threshold; NULL if not, or out of memory. */
struct doctor_finding *doctor_find(struct doctor_findings *f, enum doctor_threshold which, double value);
void doctor_say(struct doctor_finding *finding, const char *format, ...) __attribute__((format(printf, 2, 3)));
void doctor_advise(struct doctor_finding *finding, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* 100 * part / whole; 0 of nothing. */
double doctor_percent(double part, double whole);

/* Fills in what the kernel tells of the machine and of the process that listens on DIR's control socket. */
void doctor_look_at_machine(const char *directory, struct doctor_state *ret);
/* The parts of it that read a text of /proc: the soft limit of open files, whether the last cgroup is a unit of
 * scissord. */
uint64_t doctor_parse_limits(const char *text);
bool doctor_parse_cgroup(const char *text);
/* The least memory.max from that cgroup up to the root of `mount`, where the hierarchy is; 0: none is set. */
uint64_t doctor_cgroup_limit(const char *mount, const char *text);
