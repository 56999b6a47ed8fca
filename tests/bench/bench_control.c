/* bench_control.c - how long the daemon takes to say how it is, idle and while eight clients work.
 *
 * Starts a real scissord. Timed are `scissorctl stat` (the whole process, from its start to its end) and a STAT request
 * on a link that stays open. The clients are processes of their own, this program with other arguments, which append,
 * attend and settle for as long as they live; so on a machine with fewer cores the figures tell of its scheduler, too.
 */
#include <fcntl.h>
#include <nanomsg/nn.h>
#include <nanomsg/reqrep.h>
#include <spawn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "scissor.h"

#define CLIENTS 8
#define PROCESSES 100 /* samples of each kind */
#define REQUESTS 2000
#define WARM_UP_SETTLES 64u /* of all clients together, before it counts as busy */

#define LAYERS 4u
#define KV_HEADS 3u
#define Q_HEADS 9u
#define HEAD_DIM 64u
#define FRESH 64u
#define ROWS 512u

static void die(const char *what, const char *why) {
    fprintf(stderr, "bench_control: %s: %s\n", what, why);
    exit(1);
}

/* ---------- a client ---------- */

static int client_step(struct scissor_session *s) {
    static float q[Q_HEADS * HEAD_DIM] = {1}, k[KV_HEADS * HEAD_DIM] = {1}, out[Q_HEADS * HEAD_DIM];
    int r = scissor_step_begin(s, 1);
    for (uint32_t layer = 0; layer < LAYERS && r == 0; layer++) {
        struct scissor_attend_item item = {s, layer, 0.125f, q, out};
        r = scissor_append(s, layer, k, k, SCISSOR_F32);
        if (r == 0)
            r = scissor_attend(&item, 1);
    }
    if (r == 0)
        r = scissor_step_end(s);
    if (r == 0 && scissor_fresh_room(s) == 0)
        r = scissor_settle(s);
    return r == SCISSOR_SCORES_LOST ? 0 : r;
}

/* Until it is killed. */
static int client_run(const char *directory) {
    struct scissor_client *client;
    struct scissor_session *session;
    struct scissor_session_spec spec = {
        .compute_dtype = SCISSOR_F16,
        .storage_dtype = SCISSOR_F16,
        .fresh_rows = FRESH,
        .group_count = 1,
        .groups = {{.layers = LAYERS,
                    .kv_heads = KV_HEADS,
                    .q_heads = Q_HEADS,
                    .head_dim = HEAD_DIM,
                    .guaranteed_rows = ROWS,
                    .max_rows = ROWS}},
    };
    int r = scissor_connect(directory, &client);
    if (r == 0)
        r = scissor_open(client, &spec, &session);
    while (r == 0)
        r = client_step(session);
    die("a client", scissor_strerror(r));
    return 1;
}

/* ---------- timing ---------- */

struct result {
    double p50, p99; /* us */
};

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static struct result result_of(double *us, size_t count) {
    qsort(us, count, sizeof *us, compare);
    return (struct result){us[count / 2], us[count * 99 / 100]};
}

static struct result time_process(const struct harness_daemon *d) {
    static double us[PROCESSES];
    char program[512];
    posix_spawn_file_actions_t silent;
    snprintf(program, sizeof program, "%s", harness_program("scissorctl"));
    char *argv[] = {program, "--dir", (char *)(uintptr_t)d->dir, "stat", NULL};
    posix_spawn_file_actions_init(&silent);
    posix_spawn_file_actions_addopen(&silent, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    for (size_t i = 0; i < PROCESSES; i++) {
        /* Not harness_run(), which looks for the end once in a millisecond. */
        pid_t pid;
        int status = -1;
        uint64_t start = harness_now_ns();
        if (posix_spawn(&pid, program, &silent, NULL, argv, environ) != 0 || waitpid(pid, &status, 0) != pid || status)
            die("scissorctl stat", "failed");
        us[i] = (double)(harness_now_ns() - start) / 1e3;
    }
    posix_spawn_file_actions_destroy(&silent);
    return result_of(us, PROCESSES);
}

static int link_open(const struct harness_daemon *d) {
    char url[128];
    int patience = HARNESS_PATIENCE_MS, link = nn_socket(AF_SP, NN_REQ);
    snprintf(url, sizeof url, "ipc://%s/%s", d->dir, PROTO_CONTROL_SOCKET);
    if (link < 0 || nn_setsockopt(link, NN_SOL_SOCKET, NN_RCVTIMEO, &patience, sizeof patience) < 0 ||
        nn_connect(link, url) < 0)
        die("control socket", nn_strerror(nn_errno()));
    return link;
}

static struct result time_request(int link) {
    static double us[REQUESTS];
    static char answer[PROTO_ANSWER_MAX];
    struct proto_request request = {
        .magic = PROTO_REQUEST_MAGIC, .major = PROTO_VERSION_MAJOR, .minor = PROTO_VERSION_MINOR, .op = PROTO_OP_STAT};
    for (size_t i = 0; i < REQUESTS; i++) {
        uint64_t start = harness_now_ns();
        int got = -1;
        if (nn_send(link, &request, sizeof request, 0) == sizeof request)
            got = nn_recv(link, answer, sizeof answer, 0);
        us[i] = (double)(harness_now_ns() - start) / 1e3;
        const char *why = "nothing came";
        if (got < 0 || proto_answer_check(answer, (size_t)got, PROTO_OP_STAT, &why) < 0)
            die("STAT", why);
    }
    return result_of(us, REQUESTS);
}

static void print_rows(const char *what, struct result idle, struct result busy) {
    printf("  %-24s  idle  p50 %8.0f us  p99 %8.0f us\n", what, idle.p50, idle.p99);
    printf("  %-24s  busy  p50 %8.0f us  p99 %8.0f us\n", "", busy.p50, busy.p99);
    printf("  %-24s  ratio p50 %8.1f     p99 %8.1f\n", "", busy.p50 / idle.p50, busy.p99 / idle.p99);
}

int main(int argc, char **argv) {
    static struct harness_daemon d;
    pid_t pids[CLIENTS];
    struct proto_pool_stat before, after;
    harness_init(180);
    if (argc == 3 && strcmp(argv[1], "--client") == 0)
        return client_run(argv[2]);
    if (harness_start(&d, NULL) < 0)
        return 1;
    int link = link_open(&d);
    time_request(link); /* connects */
    struct result process_idle = time_process(&d), request_idle = time_request(link);

    const char *client[] = {argv[0], "--client", d.dir, NULL};
    for (int i = 0; i < CLIENTS; i++)
        if (harness_spawn(client, NULL, &pids[i]) < 0)
            return 1;
    if (harness_wait_counter(&d, offsetof(struct proto_pool_stat, settles), WARM_UP_SETTLES, HARNESS_PATIENCE_MS) < 0 ||
        harness_stat(&d, &before) < 0)
        return 1;
    uint64_t start = harness_now_ns();
    struct result process_busy = time_process(&d), request_busy = time_request(link);
    double seconds = (double)(harness_now_ns() - start) / 1e9;
    if (harness_stat(&d, &after) < 0 || after.sessions != CLIENTS || after.settles == before.settles)
        die("the clients", "they did not work all the time");

    printf("control: an answer to STAT, idle and while %d clients work (%.0f settles of %u rows a second)\n", CLIENTS,
           (double)(after.settles - before.settles) / seconds, FRESH);
    print_rows("scissorctl stat", process_idle, process_busy);
    print_rows("request on an open link", request_idle, request_busy);
    for (int i = 0; i < CLIENTS; i++)
        harness_kill(pids[i]);
    nn_close(link);
    return harness_stop(&d) == 0 ? 0 : 1;
}
