/* test_metrics.c - `scissorctl metrics`, printed and over HTTP, with scissord, the program. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "harness.h"

#define SCRAPES 24
#define SLOW 100

static struct harness_daemon daemon_;
static char text[262144], program[512];

static int setup(void **state) {
    (void)state;
    snprintf(program, sizeof program, "%s", harness_program("scissorctl"));
    return harness_start(&daemon_, NULL);
}

static int teardown(void **state) {
    (void)state;
    return daemon_.pid ? harness_stop(&daemon_) : 0;
}

/* The name of the daemon's pool. */
static const char *pool(void) {
    return harness_device() ? harness_device() : "host";
}

static void said(const char *what) {
    if (!strstr(text, what))
        fail_msg("'%s' is not in:\n%s", what, text);
}

/* The same of a line of the pool's. */
static void said_of_pool(const char *metric, unsigned value) {
    char line[128];
    snprintf(line, sizeof line, "\nscissord_pool_%s{pool=\"%s\"} %u\n", metric, pool(), value);
    said(line);
}

/* Runs `scissorctl metrics` with the words; what it wrote is in `text`. */
static int run(const char *word, const char *argument) {
    char path[128];
    int status = -1;
    const char *argv[] = {program, "--dir", daemon_.dir, "metrics", word, argument, NULL};
    snprintf(path, sizeof path, "%s/metrics.out", daemon_.base);
    unlink(path);
    assert_int_equal(harness_run(argv, path, &status), 0);
    assert_true(harness_read_file(path, text, sizeof text) >= 0);
    return status;
}

/* ---------- printed ---------- */

static void test_printed(void **state) {
    (void)state;
    struct proto_open open;
    struct proto_opened opened;
    char wanted[256];
    int fd = harness_hello(&daemon_);
    harness_open_default(&open);
    proto_text_set(open.name, sizeof open.name, "quote\" and\nline");
    assert_int_equal(harness_open(fd, &open, &opened, NULL), 0);
    assert_int_equal(run(NULL, NULL), 0);
    said_of_pool("limit_bytes", 67108864);
    said_of_pool("sessions", 1);
    snprintf(wanted, sizeof wanted,
             "scissord_session_memory_bytes{session=\"%llu\",name=\"quote\\\" and\\nline\",policy=\"streaming\","
             "pool=\"%s\",uid=\"%u\",part=\"bookkeeping\"} ",
             (unsigned long long)opened.session, pool(), getuid());
    said(wanted);
    assert_int_equal(run("--json", NULL), 2);
    close(fd);
}

/* With a session whose name needs every escape. */
static void test_promtool(void **state) {
    (void)state;
    struct proto_open open;
    struct proto_opened opened;
    char command[1024];
    int status = -1;
    assert_int_equal(harness_shell("command -v promtool", 60000, text, sizeof text, &status), 0);
    if (status) {
        printf("SKIP: needs promtool (package prometheus) to check the format with\n");
        skip();
    }
    int fd = harness_hello(&daemon_);
    harness_open_default(&open);
    proto_text_set(open.name, sizeof open.name, "\"\\\n\xff\x01");
    assert_int_equal(harness_open(fd, &open, &opened, NULL), 0);
    snprintf(command, sizeof command, "set -o pipefail; \"%s\" --dir \"%s\" metrics | promtool check metrics 2>&1",
             program, daemon_.dir);
    assert_int_equal(harness_shell(command, 60000, text, sizeof text, &status), 0);
    if (status || *text)
        fail_msg("promtool: status %d, %s", status, text);
    close(fd);
}

static void test_nobody(void **state) {
    (void)state;
    assert_int_equal(harness_stop(&daemon_), 0);
    assert_int_equal(run(NULL, NULL), 3);
    said("scissord is not running");
}

/* ---------- over HTTP ---------- */

struct endpoint {
    pid_t pid;
    char log[128], path[128];
    uint16_t port; /* 0: at `path` */
    bool six;
};

/* Waits for the line that says where it listens. */
static void endpoint_await(struct endpoint *e) {
    for (unsigned waited = 0; !strstr(text, "/metrics"); waited += 10) {
        assert_true(waited < HARNESS_PATIENCE_MS);
        harness_sleep_ms(10);
        if (harness_read_file(e->log, text, sizeof text) < 0)
            *text = 0;
    }
    const char *colon = strstr(text, "http://") ? strrchr(text, ':') : NULL;
    e->port = colon ? (uint16_t)atoi(colon + 1) : 0;
}

static void endpoint_start(struct endpoint *e, const char *address) {
    const char *argv[] = {program, "--dir", daemon_.dir, "metrics", "--listen", address, NULL};
    memset(e, 0, sizeof *e);
    snprintf(e->log, sizeof e->log, "%s/endpoint.log", daemon_.base);
    snprintf(e->path, sizeof e->path, "%s", address);
    e->six = address[0] == '[';
    unlink(e->log);
    *text = 0;
    assert_int_equal(harness_spawn(argv, e->log, &e->pid), 0);
    endpoint_await(e);
}

static void endpoint_stop(struct endpoint *e) {
    int status = -1;
    kill(e->pid, SIGTERM);
    assert_int_equal(harness_wait(e->pid, HARNESS_PATIENCE_MS, &status), 0);
    assert_int_equal(status, 0);
}

static int endpoint_connect(const struct endpoint *e) {
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(e->port)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(e->port), .sin6_addr = in6addr_loopback};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    snprintf(un.sun_path, sizeof un.sun_path, "%.100s", e->path);
    struct sockaddr *at = !e->port ? (void *)&un : e->six ? (void *)&six : (void *)&four;
    socklen_t size = !e->port ? sizeof un : e->six ? sizeof six : sizeof four;
    int fd = socket(at->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval patience = {HARNESS_PATIENCE_MS / 1000, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, at, size) < 0)
        fail_msg("connect: %s", strerror(errno));
    return fd;
}

static void ask(int fd, const char *method, const char *path) {
    char request[256];
    int length = snprintf(request, sizeof request, "%s %s HTTP/1.1\r\nHost: here\r\n\r\n", method, path);
    assert_int_equal(send(fd, request, (size_t)length, MSG_NOSIGNAL), length);
}

/* Reads to the end; the status of the answer, which is in `text`. */
static int answer(int fd) {
    size_t size = 0;
    for (ssize_t got; (got = recv(fd, text + size, sizeof text - 1 - size, 0)) > 0;)
        size += (size_t)got;
    text[size] = 0;
    close(fd);
    return strncmp(text, "HTTP/1.1 ", 9) == 0 ? atoi(text + 9) : -1;
}

static int get(const struct endpoint *e, const char *method, const char *path) {
    int fd = endpoint_connect(e);
    ask(fd, method, path);
    return answer(fd);
}

static void test_requests(void **state) {
    (void)state;
    struct endpoint e;
    endpoint_start(&e, "127.0.0.1:0");
    assert_int_equal(get(&e, "GET", "/metrics"), 200);
    said("Content-Type: text/plain; version=0.0.4");
    said_of_pool("limit_bytes", 67108864);
    assert_int_equal(get(&e, "HEAD", "/metrics"), 200);
    assert_null(strstr(text, "scissord_"));
    assert_int_equal(get(&e, "GET", "/"), 404);
    said("There is only /metrics here.");
    assert_int_equal(get(&e, "POST", "/metrics"), 405);
    said("Allow: GET, HEAD");
    int fd = endpoint_connect(&e);
    assert_int_equal(send(fd, "\x16\x03\x01 no http\r\n\r\n", 15, MSG_NOSIGNAL), 15);
    assert_int_not_equal(answer(fd), 200);
    /* Many at once; some say nothing, some go away. */
    int fds[SCRAPES], silent = endpoint_connect(&e);
    for (int i = 0; i < SCRAPES; i++) {
        fds[i] = endpoint_connect(&e);
        ask(fds[i], "GET", "/metrics");
    }
    for (int i = 0; i < SCRAPES; i++) {
        if (i % 5 == 4)
            close(fds[i]);
        else
            assert_int_equal(answer(fds[i]), 200);
    }
    close(silent);
    endpoint_stop(&e);
}

/* More connections than there may be, each of which says a little from time to time, keep nobody out. */
static void test_slow_connections(void **state) {
    (void)state;
    struct endpoint e;
    int fds[SLOW];
    endpoint_start(&e, "127.0.0.1:0");
    for (int i = 0; i < SLOW; i++) {
        fds[i] = endpoint_connect(&e);
        assert_int_equal(send(fds[i], "GET /metrics HTTP/1.1\r\nHost", 27, MSG_NOSIGNAL), 27);
    }
    uint64_t begin = harness_now_ns();
    for (int i = 0; i < 3; i++)
        assert_int_equal(get(&e, "GET", "/metrics"), 200);
    assert_true(harness_now_ns() - begin < 3000000000u);
    for (int i = 0; i < SLOW; i++)
        close(fds[i]);
    assert_int_equal(get(&e, "GET", "/metrics"), 200);
    endpoint_stop(&e);
}

/* Asks until the answer has this status: one may be a second old. */
static void await_status(const struct endpoint *e, int status) {
    for (unsigned waited = 0; get(e, "GET", "/metrics") != status; waited += 50) {
        assert_true(waited < HARNESS_PATIENCE_MS);
        harness_sleep_ms(50);
    }
}

static void test_restart(void **state) {
    (void)state;
    struct endpoint e;
    endpoint_start(&e, "[::1]:0");
    await_status(&e, 200);
    harness_crash(&daemon_);
    await_status(&e, 503);
    said("scissord is not running");
    assert_int_equal(harness_start_again(&daemon_, NULL), 0);
    await_status(&e, 200);
    said_of_pool("sessions", 0);
    /* One that stands still: says so, and ends when it is told to nevertheless. */
    kill(daemon_.pid, SIGSTOP);
    pid_t front = harness_front_pid(&daemon_);
    kill(front, SIGSTOP);
    await_status(&e, 503);
    said("no answer within");
    kill(front, SIGCONT);
    kill(daemon_.pid, SIGCONT);
    await_status(&e, 200);
    endpoint_stop(&e);
}

static void test_unix_socket(void **state) {
    (void)state;
    struct endpoint e;
    struct stat st;
    char path[100];
    snprintf(path, sizeof path, "%s/http.sock", daemon_.base);
    endpoint_start(&e, path);
    assert_int_equal(get(&e, "GET", "/metrics"), 200);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0660);
    assert_int_equal(run("--listen", path), 1);
    said("Address already in use");
    /* One that was killed leaves its socket, which is in nobody's way. */
    harness_kill(e.pid);
    assert_int_equal(stat(path, &st), 0);
    endpoint_start(&e, path);
    assert_int_equal(get(&e, "GET", "/metrics"), 200);
    endpoint_stop(&e);
    assert_int_equal(stat(path, &st), -1);
    /* A file that is no socket stays. */
    snprintf(text, sizeof text, "%s", path);
    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    assert_int_equal(run("--listen", path), 1);
    assert_int_equal(stat(path, &st), 0);
}

static void test_addresses(void **state) {
    (void)state;
    static const char *const reachable[] = {"0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[2001:db8::1]:0"};
    static const char *const wrong[] = {
        "",       "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1", "localhost:0",
        "[::1:0", ":0",        "systemd"};
    for (size_t i = 0; i < sizeof reachable / sizeof *reachable; i++) {
        assert_int_equal(run("--listen", reachable[i]), 2);
        said("could be reached by others");
    }
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(run("--listen", wrong[i]), 2);
        said("--listen ");
    }
}

/* Becomes what systemd would start with a socket at descriptor 3: a shell sets LISTEN_PID to its own id. */
static int passed(struct in_addr address, struct endpoint *e) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = address};
    socklen_t size = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0), status = 0;
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &size), 0);
    memset(e, 0, sizeof *e);
    snprintf(e->log, sizeof e->log, "%s/passed.log", daemon_.base);
    unlink(e->log);
    char command[1024];
    snprintf(command, sizeof command,
             "LISTEN_PID=$$ LISTEN_FDS=1 exec \"%s\" --dir \"%s\" metrics --listen systemd 3<&%d", program, daemon_.dir,
             fd);
    const char *argv[] = {"bash", "-c", command, NULL};
    *text = 0;
    if (ntohl(address.s_addr) == INADDR_LOOPBACK) {
        assert_int_equal(harness_spawn(argv, e->log, &e->pid), 0);
        endpoint_await(e);
        assert_int_equal(e->port, ntohs(at.sin_port));
    } else {
        assert_int_equal(harness_run(argv, e->log, &status), 0);
        assert_true(harness_read_file(e->log, text, sizeof text) > 0);
    }
    close(fd);
    return status;
}

static void test_activation(void **state) {
    (void)state;
    struct endpoint e;
    passed((struct in_addr){htonl(INADDR_LOOPBACK)}, &e);
    assert_int_equal(get(&e, "GET", "/metrics"), 200);
    endpoint_stop(&e);
    assert_int_equal(passed((struct in_addr){htonl(INADDR_ANY)}, &e), 2);
    said("other machines could reach");
}

int main(void) {
    harness_init(240);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_printed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_promtool, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(test_requests, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slow_connections, setup, teardown),
        cmocka_unit_test_setup_teardown(test_restart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unix_socket, setup, teardown),
        cmocka_unit_test_setup_teardown(test_addresses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_activation, setup, teardown),
    };
    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
