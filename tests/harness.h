/* harness.h - starts the real scissord for a test, speaks its protocols by hand and cleans up whatever happens.
 *
 * harness_init() comes first in main(). Every process that is started through here dies with the test program
 * (PR_SET_PDEATHSIG, and killed at exit), every directory is removed at exit, and an alarm ends a test that hangs.
 * Functions that return int give 0 or a negative errno value, after a line on stderr that says what went wrong; so a
 * test says assert_int_equal(harness_start(&d, NULL), 0). Programs are taken from $BUILD (default: "build"). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "attach.h"
#include "control.h"

/* Time-out of whatever waits for a process, in ms. Generous: sanitized builds on a busy machine are slow. */
#define HARNESS_PATIENCE_MS 20000

/* Ends the program with status 124 after `seconds`, or $TEST_SECONDS if that is longer. */
void harness_init(unsigned seconds);

uint64_t harness_now_ns(void); /* CLOCK_MONOTONIC */
void harness_sleep_ms(unsigned ms);
/* "$BUILD/name"; static, valid until the next call. */
const char *harness_program(const char *name);
/* A fresh directory, removed with all that is in it at exit. `bytes` of 64 are enough. */
int harness_directory(char *path, size_t bytes);

/* ---------- processes ---------- */

/* Starts argv[0] (with $PATH search) with stdout and stderr going to `output` (NULL: this program's own). */
int harness_spawn(const char *const *argv, const char *output, pid_t *ret_pid);
/* The same; `prepare` (may be NULL) runs in the new process just before the program. */
int harness_spawn_prepared(const char *const *argv, const char *output, void (*prepare)(void *data), void *data,
                           pid_t *ret_pid);
/* Waits for the end of a process: *ret_status is its exit status, or -signal if a signal ended it. -ETIMEDOUT. */
int harness_wait(pid_t pid, unsigned timeout_ms, int *ret_status);
/* Runs to the end; 0 or a negative errno. Output as above. */
int harness_run(const char *const *argv, const char *output, int *ret_status);
/* The same for a bash command of any length of time below `timeout_ms`; what it printed goes to `text`, cut to `bytes`.
 */
int harness_shell(const char *command, unsigned timeout_ms, char *text, size_t bytes, int *ret_status);
/* Forgets what an outer make has put into the environment for its inner ones. */
void harness_leave_make(void);
/* Ends one process that harness_spawn() started, and reaps it. */
void harness_kill(pid_t pid);
/* The whole of a file, NUL-terminated, cut to `bytes`; the length or a negative errno. */
ssize_t harness_read_file(const char *path, char *text, size_t bytes);

/* ---------- a daemon ---------- */

struct harness_daemon {
    pid_t pid;     /* 0: not running */
    char base[64]; /* of this daemon alone; room for a test's own files */
    char dir[80];  /* of the sockets: for scissor_connect() and scissorctl --dir */
    char log[80];  /* what it wrote to stderr */
};

/* What $SCISSOR_TEST_DEVICE says; NULL: daemons are on the host. */
const char *harness_device(void);
/* Starts scissord and waits until it is ready. `args`: more arguments, ended by NULL; NULL: none. The pool is 64 MiB
 * if the arguments do not say --pool, and on $SCISSOR_TEST_DEVICE if that is set. */
int harness_start(struct harness_daemon *d, const char *const *args);
/* The same in the directories of a daemon that ended (a restart). */
int harness_start_again(struct harness_daemon *d, const char *const *args);
/* SIGTERM, and waits: the exit status, or -signal; prints the log if it is not 0. Directories stay until exit. */
int harness_stop(struct harness_daemon *d);
/* SIGKILL, and waits. */
void harness_crash(struct harness_daemon *d);
/* Waits until the log has a line with this text. */
int harness_wait_log(const struct harness_daemon *d, const char *text, unsigned timeout_ms);
/* Whether it still runs. */
bool harness_alive(const struct harness_daemon *d);
/* The daemon's child that speaks nanomsg; 0 if there is none just now. */
pid_t harness_front_pid(const struct harness_daemon *d);
/* A process that `parent` has started and that runs; 0: there is none. */
pid_t harness_child(pid_t parent);

/* ---------- attach socket, packet by packet ---------- */

/* A connected descriptor, or a negative errno (nothing is printed). */
int harness_attach(const struct harness_daemon *d);
/* Sends one packet of any content; 0 or a negative errno (nothing is printed). */
int harness_send(int socket, const void *packet, size_t size);
/* Writes a message without entries by the table and sends it. */
int harness_send_message(int socket, uint16_t type, uint32_t request, const void *body);
/* Receives one packet: its size, 0 if the daemon hung up, -ETIMEDOUT, or another negative errno. Descriptors that came
 * with it go to `fds` (room for PROTO_SEGMENTS_PER_MESSAGE) and belong to the caller; NULL: closed at once. */
ssize_t harness_receive(int socket, void *packet, size_t capacity, unsigned timeout_ms, int *fds, uint32_t *ret_fds);
/* Receives until a packet of `type` with this request number comes; others are dropped. FAILED with that number, or
 * with 0, ends it, too: then -EREMOTEIO, and *ret_failed is filled in if not NULL. `body_bytes` of the body are
 * copied. 0, -ECONNRESET if the daemon hung up, -ETIMEDOUT. */
int harness_expect(int socket, uint16_t type, uint32_t request, void *ret_body, size_t body_bytes,
                   struct proto_failed *ret_failed);

/* Connects and says HELLO; a descriptor or a negative errno. */
int harness_hello(const struct harness_daemon *d);
/* The same, and gives the number of the score socket to push to. */
int harness_hello_scores(const struct harness_daemon *d, uint32_t *ret_score_socket);
/* A small valid OPEN: one group, 2 layers, 2 KV heads, 4 query heads, 64 channels, f16, F 16, 64 rows, "streaming". */
void harness_open_default(struct proto_open *ret_open);
/* Opens a session; its segments' descriptors are closed at once. 0, or as harness_expect(). */
int harness_open(int socket, const struct proto_open *open, struct proto_opened *ret_opened,
                 struct proto_failed *ret_failed);
/* Settles `rows` fresh rows that nobody wrote, with `sequence` as the last score frame's number. */
int harness_settle(int socket, uint64_t session, uint64_t sequence, uint32_t rows, struct proto_settled *ret_settled);

/* ---------- control and score sockets ---------- */

/* One request, one answer: its bytes, or a negative errno. Magic and version are filled in here. */
ssize_t harness_control(const struct harness_daemon *d, struct proto_request *request, void *answer, size_t capacity);
/* The first pool's counters; on $SCISSOR_TEST_DEVICE without what is in quarantine, which is a matter of a device
 * alone. */
int harness_stat(const struct harness_daemon *d, struct proto_pool_stat *ret_stat);
/* Asks until the uint64_t at `offset` of the first pool's struct proto_pool_stat is `least` or more. */
int harness_wait_counter(const struct harness_daemon *d, size_t offset, uint64_t least, unsigned timeout_ms);
/* A pass of the user that this program runs as, valid while the connection is open; its descriptor or a negative
 * errno. */
int harness_pass(const struct harness_daemon *d, uint8_t ret_pass[PROTO_TOKEN_BYTES]);
/* The same for its number of sessions, waiting until it is `count`: of those that are open and, but in a test that is
 * for the host, too (SCISSOR_TEST_DEVICE), of those in quarantine. */
int harness_wait_sessions(const struct harness_daemon *d, uint32_t count, unsigned timeout_ms);
/* A nanomsg PUSH socket connected to a score socket, to be closed with nn_close(); or a negative errno. */
int harness_push(const struct harness_daemon *d, uint32_t score_socket);
