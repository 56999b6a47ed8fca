/* test_service.c - scissord as a service: what it says to its manager, what is passed to it, and that sessions outlive
 * its process. The manager is played by tests/manager.c; systemd itself has its turn in test_nspawn.c. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "attention.h"
#include "client_set_up.h"
#include "manager.h"
#include "scissor.h"

static void stop(struct manager *m) {
    assert_int_equal(harness_stop(&m->daemon), 0);
    manager_deinit(m);
}

/* ---------- what it says ---------- */

static void says_how_it_is(void **state) {
    (void)state;
    struct manager m;
    char status[256];
    assert_int_equal(manager_init(&m, 0, false), 0);
    m.watchdog_us = 400000;
    assert_int_equal(manager_start(&m, NULL), 0);
    struct scissor_client *client;
    assert_int_equal(scissor_connect(m.daemon.dir, &client), 0); /* ready means that clients may come */
    struct proto_pool_stat stat;
    assert_int_equal(harness_stat(&m.daemon, &stat), 0);
    struct scissor_session_spec spec = {.name = "one", .group_count = 1};
    spec.groups[0] =
        (struct scissor_group_spec){.layers = 1, .kv_heads = 1, .q_heads = 1, .head_dim = 64, .guaranteed_rows = 128};
    struct scissor_session *session;
    assert_int_equal(scissor_open(client, &spec, &session), 0);
    for (int i = 0; i < 500; i++) {
        manager_status(&m, status);
        if (strncmp(status, "1 session, ", 11) == 0)
            break;
        harness_sleep_ms(20);
    }
    assert_int_equal(strncmp(status, "1 session, ", 11), 0);
    assert_non_null(strstr(status, " of 64 MiB"));
    assert_int_equal(manager_wait(&m, &m.alive, m.alive + 3), 0);
    kill(m.daemon.pid, SIGHUP);
    assert_int_equal(manager_wait(&m, &m.reloading, 1), 0);
    assert_int_equal(manager_wait(&m, &m.ready, 2), 0);
    scissor_disconnect(client);
    assert_int_equal(harness_stop(&m.daemon), 0);
    assert_int_equal(manager_wait(&m, &m.stopping, 1), 0);
    assert_int_equal(m.ready, 2);
    manager_deinit(&m);
}

/* One that is stopped gives no sign of life. (Its manager would end it.) */
static void is_silent_when_it_hangs(void **state) {
    (void)state;
    struct manager m;
    assert_int_equal(manager_init(&m, 0, false), 0);
    m.watchdog_us = 200000;
    assert_int_equal(manager_start(&m, NULL), 0);
    assert_int_equal(manager_wait(&m, &m.alive, 2), 0);
    kill(m.daemon.pid, SIGSTOP);
    harness_sleep_ms(50); /* what was on its way */
    pthread_mutex_lock(&m.lock);
    uint32_t heard = m.alive;
    pthread_mutex_unlock(&m.lock);
    harness_sleep_ms(400);
    pthread_mutex_lock(&m.lock);
    uint32_t then = m.alive;
    pthread_mutex_unlock(&m.lock);
    assert_int_equal(heard, then);
    kill(m.daemon.pid, SIGCONT);
    assert_int_equal(manager_wait(&m, &m.alive, heard + 2), 0);
    stop(&m);
}

/* A manager that does not read for a while: the daemon goes on, and speaks again when it does. */
static void goes_on_when_nobody_listens(void **state) {
    (void)state;
    struct manager m;
    struct proto_pool_stat stat;
    struct scissor_client *client;
    assert_int_equal(manager_init(&m, 0, false), 0);
    m.watchdog_us = 400000;
    assert_int_equal(manager_start(&m, NULL), 0);
    assert_int_equal(manager_wait(&m, &m.alive, 2), 0);
    pthread_mutex_lock(&m.lock);
    harness_sleep_ms(1500); /* more signs of life than Linux leaves waiting, unless somebody has set it higher */
    int r = harness_stat(&m.daemon, &stat);
    if (r == 0 && (r = scissor_connect(m.daemon.dir, &client)) == 0)
        scissor_disconnect(client);
    uint32_t heard = m.alive;
    pthread_mutex_unlock(&m.lock);
    assert_int_equal(r, 0);
    assert_int_equal(manager_wait(&m, &m.alive, heard + 20), 0);
    stop(&m);
}

/* ---------- what is passed ---------- */

static void *connect_early(void *data) {
    const struct manager *m = data;
    struct scissor_client *client = NULL;
    intptr_t r = scissor_connect(m->daemon.dir, &client);
    scissor_disconnect(client);
    return (void *)r;
}

static void takes_the_socket(void **state) {
    (void)state;
    struct manager m;
    struct stat st;
    char path[128];
    pthread_t early;
    void *code;
    assert_int_equal(manager_init(&m, 0, true), 0);
    assert_int_equal(pthread_create(&early, NULL, connect_early, &m), 0);
    harness_sleep_ms(50); /* it waits in the backlog */
    assert_int_equal(manager_start(&m, NULL), 0);
    pthread_join(early, &code);
    assert_int_equal((intptr_t)code, 0);
    assert_int_equal(harness_stop(&m.daemon), 0);
    snprintf(path, sizeof path, "%s/" PROTO_ATTACH_SOCKET, m.daemon.dir);
    assert_int_equal(stat(path, &st), 0); /* the manager's, so it stays */
    manager_deinit(&m);
}

static void refuses_other_sockets(void **state) {
    (void)state;
    for (int wrong = 0; wrong < 3; wrong++) {
        struct manager m;
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int status;
        assert_int_equal(manager_init(&m, 0, false), 0);
        mkdir(m.daemon.dir, 0750);
        m.attach = socket(AF_UNIX, (wrong == 0 ? SOCK_STREAM : SOCK_SEQPACKET) | SOCK_CLOEXEC, 0);
        snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", m.daemon.dir,
                 wrong == 2 ? "other" : "attach.sock");
        assert_int_equal(bind(m.attach, (struct sockaddr *)&address, sizeof address), 0);
        if (wrong != 1)
            assert_int_equal(listen(m.attach, 1), 0);
        assert_int_equal(manager_spawn(&m, NULL), 0);
        assert_int_equal(
            harness_wait_log(&m.daemon, wrong == 2 ? "clients look for" : "no listening Unix socket", 5000), 0);
        assert_int_equal(harness_wait(m.daemon.pid, HARNESS_PATIENCE_MS, &status), 0);
        assert_int_equal(status, 1);
        manager_deinit(&m);
    }
}

/* ---------- sessions that outlive it ---------- */

static const struct attention_model model = {.seed = 9,
                                             .layers = 4,
                                             .kv_heads = 2,
                                             .q_heads = 4,
                                             .head_dim = 64,
                                             .compute_dtype = SCISSOR_F16,
                                             .storage_dtype = SCISSOR_F16,
                                             .scale = 0.125f};

struct life {
    const char *dir;
    uint32_t seed, settles;
    uint32_t stops_after;   /* settles; 0: never */
    volatile uint32_t gate; /* goes no further than that before it is told; 0: runs free */
    volatile uint32_t done; /* settles so far */
    volatile bool ended;
    volatile uint64_t stepped_ns; /* end of the last step */
    int code;
    char text[200]; /* why */
    uint64_t digest, tokens, evicted, lost;
};

static void add_bytes(uint64_t *digest, const void *bytes, size_t count) {
    for (const unsigned char *p = bytes; count > 0; count--, p++)
        *digest = (*digest ^ *p) * 1099511628211u;
}

/* A session far beyond its budget; everything that attention gives goes into the digest. */
static void *live(void *data) {
    struct life *life = data;
    struct scissor_client *client = NULL;
    struct scissor_session *session = NULL;
    struct scissor_session_spec spec = {.name = "life",
                                        .compute_dtype = SCISSOR_F16,
                                        .storage_dtype = life->seed % 2 ? SCISSOR_INT4 : SCISSOR_F16,
                                        .fresh_rows = 32,
                                        .group_count = 1};
    struct attention_model mine = model;
    float out[16 * 4 * 64];
    spec.groups[0] = (struct scissor_group_spec){.layers = mine.layers,
                                                 .kv_heads = mine.kv_heads,
                                                 .q_heads = mine.q_heads,
                                                 .head_dim = mine.head_dim,
                                                 .guaranteed_rows = 300};
    mine.seed = life->seed;
    life->digest = 14695981039346656037u;
    int r = scissor_connect(life->dir, &client);
    if (!r)
        r = scissor_open(client, &spec, &session);
    for (uint32_t i = 0; i < life->settles && !r; i++) {
        for (uint32_t half = 0; half < 2 && !r; half++) {
            r = attention_step(&mine, session, 16, (i + half) % 4, out);
            life->stepped_ns = harness_now_ns();
            add_bytes(&life->digest, out, sizeof out);
        }
        while (life->gate && i >= life->gate)
            usleep(100);
        client_be_patient(client); /* of each connection, as it may be a new one */
        if (!r)
            r = scissor_settle(session);
        if (r == SCISSOR_SCORES_LOST) {
            life->lost++;
            r = 0;
        }
        life->done = i + 1;
        if (life->done == life->stops_after)
            raise(SIGSTOP); /* not in a step: what it has mapped may be taken away meanwhile */
    }
    struct scissor_session_info info = {0};
    if (session)
        scissor_session_info(session, &info);
    life->tokens = info.tokens_seen;
    life->evicted = info.evicted_rows;
    snprintf(life->text, sizeof life->text, "%s", r ? scissor_last_text(client) : "");
    int closed = session ? scissor_close(session) : 0;
    life->code = r ? r : closed;
    scissor_disconnect(client);
    life->ended = true;
    return NULL;
}

#define LIVES 2
#define PATIENT "--score-wait", "10000"

/* False if it ends before so many settles. */
static bool wait_for(const struct life *life, uint32_t settles) {
    while (life->done < settles && life->done < life->settles && !life->ended)
        usleep(200);
    return life->done >= settles && !life->ended;
}

static void run_lives(struct manager *m, struct life lives[LIVES], uint32_t settles, int signal, uint32_t *ret_deaths,
                      uint64_t *ret_longest) {
    static const char *const args[] = {PATIENT, NULL};
    pthread_t threads[LIVES];
    unsigned random = 1;
    *ret_deaths = 0;
    *ret_longest = 0;
    for (uint32_t i = 0; i < LIVES; i++) {
        lives[i] = (struct life){.dir = m->daemon.dir, .seed = 20 + i, .settles = settles, .gate = signal ? 1 : 0};
        assert_int_equal(pthread_create(&threads[i], NULL, live, &lives[i]), 0);
    }
    /* Not before both are open: an open that is under way when the daemon dies is asked for again, as another session.
     */
    for (uint32_t next = 1; signal && wait_for(&lives[0], next) && wait_for(&lives[1], next); next += 8) {
        lives[0].gate = lives[1].gate = next + 8; /* however slow this thread is, they do not run away */
        usleep(rand_r(&random) % 10000);
        uint64_t died = harness_now_ns();
        assert_int_equal(manager_restart(m, signal, args), 0);
        while (lives[0].stepped_ns <= died && lives[0].done < lives[0].gate && !lives[0].ended)
            usleep(200);
        uint64_t took = lives[0].stepped_ns > died ? lives[0].stepped_ns - died : 0;
        *ret_longest = took > *ret_longest ? took : *ret_longest;
        (*ret_deaths)++;
    }
    for (uint32_t i = 0; i < LIVES; i++)
        pthread_join(threads[i], NULL);
}

static void outlive(int signal) {
    static const char *const args[] = {PATIENT, NULL};
    struct manager m;
    struct life calm[LIVES], rough[LIVES];
    uint32_t deaths, lossy = 0;
    uint64_t longest;
    const char *more = getenv("SCISSOR_TEST_SETTLES");
    uint32_t settles = more ? (uint32_t)atoi(more) : 60;
    assert_int_equal(manager_init(&m, 512, false), 0);
    assert_int_equal(manager_start(&m, args), 0);
    run_lives(&m, calm, settles, 0, &deaths, &longest);
    run_lives(&m, rough, settles, signal, &deaths, &longest);
    print_message("%u deaths by signal %d; from one to the end of a step after it at most %.0f ms\n", deaths, signal,
                  (double)longest / 1e6);
    for (uint32_t i = 0; i < LIVES; i++) {
        assert_int_equal(calm[i].code, 0);
        if (rough[i].code)
            fail_msg("life %u ended after %u settles: %s (%s)", i, rough[i].done, scissor_errname(rough[i].code),
                     rough[i].text);
        assert_int_equal(rough[i].tokens, settles * 32);
        assert_int_equal(rough[i].evicted, calm[i].evicted);
        /* A client gives nanomsg some ms to connect anew and then settles without its scores, as it says: on a busy
         * machine the victims may be others. */
        lossy += rough[i].lost || calm[i].lost;
        assert_true(rough[i].lost || calm[i].lost || rough[i].digest == calm[i].digest);
    }
    if (lossy)
        print_message("%u of %u sessions lost scores\n", lossy, LIVES);
    assert_true(deaths >= 2);
    struct proto_pool_stat stat;
    assert_int_equal(harness_wait_sessions(&m.daemon, 0, 5000), 0);
    assert_int_equal(harness_stat(&m.daemon, &stat), 0);
    assert_int_equal(stat.charged_bytes, 0);
    assert_int_equal(stat.lost, 0);
    for (int i = 0; i < 500 && manager_count(&m); i++)
        harness_sleep_ms(10);
    assert_int_equal(manager_count(&m), 0); /* nothing is left in the store */
    stop(&m);
}

static void outlives_crashes(void **state) {
    (void)state;
    outlive(SIGKILL);
}

static void outlives_restarts(void **state) {
    (void)state;
    outlive(SIGTERM);
}

/* Without a store a session is lost, its client hears so once, and can open another one. */
static void is_lost_without_a_store(void **state) {
    (void)state;
    struct manager m;
    struct life life;
    pthread_t thread;
    assert_int_equal(manager_init(&m, 0, false), 0);
    assert_int_equal(manager_start(&m, NULL), 0);
    life = (struct life){.dir = m.daemon.dir, .seed = 20, .settles = 100000};
    assert_int_equal(pthread_create(&thread, NULL, live, &life), 0);
    while (life.done < 3)
        harness_sleep_ms(1);
    assert_int_equal(manager_restart(&m, SIGKILL, NULL), 0);
    pthread_join(thread, NULL);
    assert_int_equal(life.code, SCISSOR_ERESTARTED);
    life = (struct life){.dir = m.daemon.dir, .seed = 20, .settles = 3};
    live(&life);
    assert_int_equal(life.code, 0);
    stop(&m);
}

/* What scissorctl says about it. */
static bool tool_says(const struct manager *m, const char *asked, const char *text) {
    char command[256], said[4096];
    int status;
    snprintf(command, sizeof command, "%s %s --dir %s", harness_program("scissorctl"), asked, m->daemon.dir);
    assert_int_equal(harness_shell(command, HARNESS_PATIENCE_MS, said, sizeof said, &status), 0);
    assert_int_equal(status, 0);
    return strstr(said, text);
}

static bool tool_knows(const struct manager *m, uint64_t epoch) {
    char text[32];
    snprintf(text, sizeof text, "\"%016llx\"", (unsigned long long)epoch);
    return tool_says(m, "stat --json", text);
}

/* Each start is another epoch. Its client hears of a session that is lost once, and opens another one. */
static void restart_is_an_epoch(uint32_t store_max) {
    struct manager m;
    struct scissor_client *client;
    struct scissor_session *session;
    struct attention_model mine = model;
    struct scissor_session_spec spec = {.name = "epoch", .fresh_rows = 32, .group_count = 1};
    spec.compute_dtype = spec.storage_dtype = SCISSOR_F16;
    spec.groups[0] = (struct scissor_group_spec){.layers = mine.layers,
                                                 .kv_heads = mine.kv_heads,
                                                 .q_heads = mine.q_heads,
                                                 .head_dim = mine.head_dim,
                                                 .guaranteed_rows = 300};
    float out[16 * 4 * 64];
    assert_int_equal(manager_init(&m, store_max, false), 0);
    assert_int_equal(manager_start(&m, NULL), 0);
    assert_int_equal(scissor_connect(m.daemon.dir, &client), 0);
    assert_int_equal(scissor_open(client, &spec, &session), 0);
    uint64_t before = scissor_epoch(client);
    assert_true(tool_knows(&m, before));
    assert_true(tool_says(&m, "stat", store_max ? "are kept for the next process" : "do not outlive this process"));
    assert_int_equal(attention_step(&mine, session, 16, 0, out), 0);
    assert_int_equal(manager_restart(&m, SIGKILL, NULL), 0);
    int r = scissor_settle(session);
    uint64_t after = scissor_epoch(client);
    assert_true(after != before);
    assert_true(tool_knows(&m, after));
    assert_true(store_max ? r == 0 || r == SCISSOR_SCORES_LOST : r == SCISSOR_ERESTARTED);
    assert_int_equal(scissor_close(session), 0);
    assert_int_equal(scissor_open(client, &spec, &session), 0);
    assert_int_equal(attention_step(&mine, session, 16, 0, out), 0);
    client_be_patient(client);
    assert_int_equal(scissor_settle(session), 0);
    assert_int_equal(scissor_close(session), 0);
    scissor_disconnect(client);
    stop(&m);
}

static void each_start_is_an_epoch(void **state) {
    (void)state;
    restart_is_an_epoch(0);
    restart_is_an_epoch(512);
}

/* A process with an open session, which lives and does nothing. */
static pid_t open_and_stop(struct manager *m) {
    pid_t pid = fork();
    int status;
    if (pid == 0) {
        struct life life = {.dir = m->daemon.dir, .seed = 20, .settles = 1000000, .stops_after = 20};
        live(&life);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
    return pid;
}

static void kill_client(pid_t pid) {
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* A client that dies while no daemon is there: its session is closed as soon as the next one sees it. */
static void closes_for_the_dead(void **state) {
    (void)state;
    struct manager m;
    assert_int_equal(manager_init(&m, 512, false), 0);
    assert_int_equal(manager_start(&m, NULL), 0);
    pid_t pid = open_and_stop(&m); /* it cannot attach again */
    int status;
    kill(m.daemon.pid, SIGKILL);
    assert_int_equal(harness_wait(m.daemon.pid, HARNESS_PATIENCE_MS, &status), 0);
    assert_int_equal(manager_start(&m, NULL), 0);
    struct proto_pool_stat stat;
    assert_int_equal(harness_stat(&m.daemon, &stat), 0);
    assert_int_equal(stat.orphans, 1);
    assert_int_equal(stat.sessions, 1);
    assert_true(tool_says(&m, "sessions", " orphan "));
    kill_client(pid);
    assert_int_equal(harness_wait_sessions(&m.daemon, 0, 5000), 0);
    assert_int_equal(harness_stat(&m.daemon, &stat), 0);
    assert_int_equal(stat.charged_bytes, 0);
    stop(&m);
}

/* An engine may rest for longer than the option says, as long as its process lives. */
static void waits_for_orphans(void **state) {
    (void)state;
    static const char *const args[] = {"--orphan-wait", "1", NULL};
    struct manager m;
    assert_int_equal(manager_init(&m, 512, false), 0);
    assert_int_equal(manager_start(&m, args), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct life life = {.dir = m.daemon.dir, .seed = 20, .settles = 24, .stops_after = 20};
        live(&life);
        _exit(life.code == 0 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
    assert_int_equal(manager_restart(&m, SIGKILL, args), 0);
    harness_sleep_ms(1500);
    struct proto_pool_stat stat;
    assert_int_equal(harness_stat(&m.daemon, &stat), 0);
    assert_int_equal(stat.orphans, 1);
    kill(pid, SIGCONT);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    stop(&m);
}

/* What a process does not ask for when it is back is closed after the time of the option. */
static void gives_up_what_nobody_asks_for(void **state) {
    (void)state;
    static const char *const args[] = {"--orphan-wait", "1", NULL};
    struct manager m;
    struct proto_open open;
    struct proto_opened opened;
    struct proto_pool_stat stat;
    assert_int_equal(manager_init(&m, 512, false), 0);
    assert_int_equal(manager_start(&m, args), 0);
    int old = harness_hello(&m.daemon);
    harness_open_default(&open);
    assert_int_equal(harness_open(old, &open, &opened, NULL), 0);
    assert_int_equal(manager_restart(&m, SIGKILL, args), 0);
    harness_sleep_ms(1500);
    assert_int_equal(harness_stat(&m.daemon, &stat), 0);
    assert_int_equal(stat.orphans, 1);
    int back = harness_hello(&m.daemon);
    assert_int_equal(harness_wait_sessions(&m.daemon, 0, 10000), 0);
    close(old);
    close(back);
    stop(&m);
}

/* A daemon that cannot start leaves the sessions to the next one. */
static void keeps_when_it_cannot_start(void **state) {
    (void)state;
    struct manager m;
    struct proto_pool_stat stat;
    char path[128];
    int status;
    assert_int_equal(manager_init(&m, 512, false), 0);
    assert_int_equal(manager_start(&m, NULL), 0);
    pid_t pid = open_and_stop(&m);
    kill(m.daemon.pid, SIGKILL);
    assert_int_equal(harness_wait(m.daemon.pid, HARNESS_PATIENCE_MS, &status), 0);
    snprintf(path, sizeof path, "%s/" PROTO_CONTROL_SOCKET, m.daemon.dir);
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0); /* in the way of the front's socket */
    assert_int_equal(manager_spawn(&m, NULL), 0);
    assert_int_equal(harness_wait(m.daemon.pid, HARNESS_PATIENCE_MS, &status), 0);
    assert_int_equal(status, 1);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(manager_start(&m, NULL), 0);
    assert_int_equal(harness_stat(&m.daemon, &stat), 0);
    assert_int_equal(stat.orphans, 1);
    kill_client(pid);
    assert_int_equal(harness_wait_sessions(&m.daemon, 0, 5000), 0);
    stop(&m);
}

/* A daemon that is to keep nothing gives back what the one before has kept. */
static void empties_a_store_not_wanted(void **state) {
    static const char *const args[] = {"--descriptor-store", "0", NULL};
    (void)state;
    struct manager m;
    assert_int_equal(manager_init(&m, 512, false), 0);
    assert_int_equal(manager_start(&m, NULL), 0);
    pid_t pid = open_and_stop(&m);
    assert_true(manager_count(&m) > 0);
    assert_int_equal(manager_restart(&m, SIGTERM, args), 0);
    for (int i = 0; i < 500 && manager_count(&m); i++)
        harness_sleep_ms(10);
    assert_int_equal(manager_count(&m), 0);
    kill_client(pid);
    stop(&m);
}

/* A store that is too small for a session: the open is refused, and says why. */
static void refuses_what_it_cannot_keep(void **state) {
    (void)state;
    struct manager m;
    assert_int_equal(manager_init(&m, 4, false), 0);
    assert_int_equal(manager_start(&m, NULL), 0);
    struct life life = {.dir = m.daemon.dir, .seed = 20, .settles = 3};
    live(&life);
    assert_int_equal(life.code, SCISSOR_ELIMIT);
    struct proto_pool_stat stat;
    assert_int_equal(harness_stat(&m.daemon, &stat), 0);
    assert_int_equal(stat.charged_bytes, 0);
    assert_int_equal(stat.stored_max, 4);
    stop(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_how_it_is),
        cmocka_unit_test(is_silent_when_it_hangs),
        cmocka_unit_test(goes_on_when_nobody_listens),
        cmocka_unit_test(takes_the_socket),
        cmocka_unit_test(refuses_other_sockets),
        cmocka_unit_test(outlives_crashes),
        cmocka_unit_test(outlives_restarts),
        cmocka_unit_test(is_lost_without_a_store),
        cmocka_unit_test(each_start_is_an_epoch),
        cmocka_unit_test(closes_for_the_dead),
        cmocka_unit_test(waits_for_orphans),
        cmocka_unit_test(gives_up_what_nobody_asks_for),
        cmocka_unit_test(refuses_what_it_cannot_keep),
        cmocka_unit_test(keeps_when_it_cannot_start),
        cmocka_unit_test(empties_a_store_not_wanted),
    };
    harness_init(240);
    return cmocka_run_group_tests_name("service", tests, NULL, NULL);
}
