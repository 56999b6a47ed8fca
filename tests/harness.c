/* harness.c - processes, directories and the daemon of a test. Its protocols are in harness_proto.c.
 *
 * One thread uses this. What must be cleaned up is kept in two tables, so that a signal handler can do it as well. */
#include "harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HARNESS_PROCESSES 128
#define HARNESS_DIRECTORIES 128
#define HARNESS_ARGUMENTS 64

static pid_t harness_processes[HARNESS_PROCESSES];
static char harness_directories[HARNESS_DIRECTORIES][64];
static size_t harness_directory_count;
static pid_t harness_self; /* a child that has not yet called exec cleans nothing up */

uint64_t harness_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void harness_sleep_ms(unsigned ms) {
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};
    while (nanosleep(&t, &t) < 0 && errno == EINTR)
        ;
}

/* ---------- clean-up ---------- */

/* Everything here may be called in a signal handler. */
static void harness_clean(void) {
    if (harness_self != getpid())
        return;
    for (size_t i = 0; i < HARNESS_PROCESSES; i++)
        if (harness_processes[i]) {
            kill(harness_processes[i], SIGKILL);
            waitpid(harness_processes[i], NULL, 0);
            harness_processes[i] = 0;
        }
    for (size_t i = 0; i < harness_directory_count; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            execlp("rm", "rm", "-rf", "--", harness_directories[i], (char *)NULL);
            _exit(127);
        }
        if (pid > 0)
            waitpid(pid, NULL, 0);
    }
    harness_directory_count = 0;
}

static void harness_on_signal(int signal_number) {
    static const char text[] = "harness: the test took too long; ended\n";
    if (signal_number == SIGALRM) {
        ssize_t n = write(STDERR_FILENO, text, sizeof text - 1);
        (void)n;
    }
    harness_clean();
    if (signal_number == SIGALRM)
        _exit(124);
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

void harness_init(unsigned seconds) {
    static const int signals[] = {SIGALRM, SIGTERM, SIGINT, SIGHUP, SIGABRT};
    harness_self = getpid();
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        signal(signals[i], harness_on_signal);
    signal(SIGPIPE, SIG_IGN);
    atexit(harness_clean);
    const char *limit = getenv("TEST_SECONDS");
    unsigned most = limit ? (unsigned)strtoul(limit, NULL, 10) : 0;
    alarm(most > seconds ? most : seconds);
}

static int harness_fail(const char *what, int error) {
    fprintf(stderr, "harness: %s: %s\n", what, strerror(error));
    return -error;
}

int harness_directory(char *path, size_t bytes) {
    const char *parent = getenv("TMPDIR");
    char name[64];
    /* Socket addresses hold about 100 bytes. */
    if (!parent || !*parent || strlen(parent) > 30)
        parent = "/tmp";
    snprintf(name, sizeof name, "%s/scissord-test-XXXXXX", parent);
    if (harness_directory_count == HARNESS_DIRECTORIES || strlen(name) >= bytes)
        return harness_fail("directory", ENOSPC);
    if (!mkdtemp(name))
        return harness_fail(name, errno);
    memcpy(harness_directories[harness_directory_count++], name, sizeof name);
    snprintf(path, bytes, "%s", name);
    return 0;
}

/* ---------- processes ---------- */

const char *harness_program(const char *name) {
    static char path[256];
    const char *build = getenv("BUILD");
    snprintf(path, sizeof path, "%s/%s", build && *build ? build : "build", name);
    return path;
}

static void harness_exec(const char *const *argv, const char *output, void (*prepare)(void *data), void *data) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    pid_t parent = getppid(); /* 0: it is outside of a PID namespace that this process is the first of */
    if (parent && parent != harness_self)
        _exit(127);
    static const int signals[] = {SIGALRM, SIGTERM, SIGINT, SIGHUP, SIGABRT, SIGPIPE};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        signal(signals[i], SIG_DFL);
    int fd = output ? open(output, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (fd >= 0) {
        dup2(fd, STDOUT_FILENO);
        dup2(fd, STDERR_FILENO);
    }
    if (prepare)
        prepare(data);
    execvp(argv[0], (char *const *)argv);
    fprintf(stderr, "harness: %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

int harness_spawn(const char *const *argv, const char *output, pid_t *ret_pid) {
    return harness_spawn_prepared(argv, output, NULL, NULL, ret_pid);
}

int harness_spawn_prepared(const char *const *argv, const char *output, void (*prepare)(void *data), void *data,
                           pid_t *ret_pid) {
    size_t slot = 0;
    while (slot < HARNESS_PROCESSES && harness_processes[slot])
        slot++;
    if (slot == HARNESS_PROCESSES)
        return harness_fail("too many processes", ENOSPC);
    pid_t pid = fork();
    if (pid < 0)
        return harness_fail("fork", errno);
    if (pid == 0)
        harness_exec(argv, output, prepare, data);
    harness_processes[slot] = pid;
    *ret_pid = pid;
    return 0;
}

static void harness_forget(pid_t pid) {
    for (size_t i = 0; i < HARNESS_PROCESSES; i++)
        if (harness_processes[i] == pid)
            harness_processes[i] = 0;
}

int harness_wait(pid_t pid, unsigned timeout_ms, int *ret_status) {
    uint64_t end = harness_now_ns() + timeout_ms * 1000000ull;
    for (;;) {
        int status;
        pid_t r = waitpid(pid, &status, WNOHANG);
        if (r == pid) {
            harness_forget(pid);
            *ret_status = WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
            return 0;
        }
        if (r < 0 && errno != EINTR)
            return harness_fail("waitpid", errno);
        if (harness_now_ns() >= end)
            return harness_fail("a process does not end", ETIMEDOUT);
        harness_sleep_ms(1);
    }
}

int harness_run(const char *const *argv, const char *output, int *ret_status) {
    pid_t pid;
    int r = harness_spawn(argv, output, &pid);
    if (r == 0) {
        r = harness_wait(pid, HARNESS_PATIENCE_MS, ret_status);
        if (r < 0)
            harness_kill(pid);
    }
    return r;
}

int harness_shell(const char *command, unsigned timeout_ms, char *text, size_t bytes, int *ret_status) {
    static char directory[64];
    const char *argv[] = {"bash", "-c", command, NULL};
    char output[80];
    pid_t pid;
    int r = *directory ? 0 : harness_directory(directory, sizeof directory);
    if (r < 0)
        return r;
    snprintf(output, sizeof output, "%s/output", directory);
    unlink(output); /* it would be appended to */
    r = harness_spawn(argv, output, &pid);
    if (r < 0)
        return r;
    r = harness_wait(pid, timeout_ms, ret_status);
    if (r < 0)
        harness_kill(pid);
    ssize_t length = harness_read_file(output, text, bytes);
    return r < 0 ? r : length < 0 ? (int)length : 0;
}

void harness_leave_make(void) {
    static const char *const of_make[] = {"MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL",
                                          "DESTDIR",   "PREFIX", "WERROR"};
    for (size_t i = 0; i < sizeof of_make / sizeof *of_make; i++)
        unsetenv(of_make[i]);
}

void harness_kill(pid_t pid) {
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    harness_forget(pid);
}

ssize_t harness_read_file(const char *path, char *text, size_t bytes) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    size_t used = 0;
    for (ssize_t n; used < bytes - 1 && (n = read(fd, text + used, bytes - 1 - used)) > 0;)
        used += (size_t)n;
    close(fd);
    text[used] = 0;
    return (ssize_t)used;
}

/* ---------- the daemon ---------- */

static bool harness_log_has(const struct harness_daemon *d, const char *text) {
    static char log[1 << 20];
    return harness_read_file(d->log, log, sizeof log) > 0 && strstr(log, text);
}

static void harness_show_log(const struct harness_daemon *d) {
    static char log[1 << 16];
    if (harness_read_file(d->log, log, sizeof log) >= 0)
        fprintf(stderr, "---------- log of scissord ----------\n%s-------------------------------------\n", log);
}

int harness_wait_log(const struct harness_daemon *d, const char *text, unsigned timeout_ms) {
    uint64_t end = harness_now_ns() + timeout_ms * 1000000ull;
    while (!harness_log_has(d, text)) {
        if (harness_now_ns() >= end || !harness_alive(d)) {
            if (harness_log_has(d, text)) /* written just before the end */
                return 0;
            harness_show_log(d);
            return harness_fail(text, ETIMEDOUT);
        }
        harness_sleep_ms(2);
    }
    return 0;
}

bool harness_alive(const struct harness_daemon *d) {
    siginfo_t info = {0};
    return d->pid > 0 && waitid(P_PID, (id_t)d->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0;
}

const char *harness_device(void) {
    return getenv("SCISSOR_TEST_DEVICE");
}

int harness_start_again(struct harness_daemon *d, const char *const *args) {
    const char *argv[HARNESS_ARGUMENTS] = {harness_program("scissord"), "--config", "/dev/null", "--dir", d->dir};
    size_t argc = 5;
    const char *device = harness_device();
    bool pool = false;
    if (device) {
        argv[argc++] = "--device";
        argv[argc++] = device;
    }
    for (; args && *args && argc < HARNESS_ARGUMENTS - 3; args++) {
        pool = pool || strncmp(*args, "--pool", 6) == 0;
        argv[argc++] = *args; /* of two values for an option the last one counts */
    }
    if (!pool) {
        argv[argc++] = "--pool";
        argv[argc++] = "64MiB";
    }
    unlink(d->log);
    int r = harness_spawn(argv, d->log, &d->pid);
    return r < 0 ? r : harness_wait_log(d, ": ready; ", HARNESS_PATIENCE_MS);
}

int harness_start(struct harness_daemon *d, const char *const *args) {
    *d = (struct harness_daemon){0};
    int r = harness_directory(d->base, sizeof d->base);
    if (r < 0)
        return r;
    snprintf(d->dir, sizeof d->dir, "%s/run", d->base);
    snprintf(d->log, sizeof d->log, "%s/log", d->base);
    return harness_start_again(d, args);
}

int harness_stop(struct harness_daemon *d) {
    int status = 0;
    kill(d->pid, SIGTERM);
    if (harness_wait(d->pid, HARNESS_PATIENCE_MS, &status) < 0) {
        harness_kill(d->pid);
        status = -SIGKILL;
    }
    if (status != 0)
        harness_show_log(d);
    d->pid = 0;
    return status;
}

void harness_crash(struct harness_daemon *d) {
    harness_kill(d->pid);
    d->pid = 0;
}

/* Parent of a process, from its stat line "pid (name) state ppid ..."; 0 if it is gone. */
static pid_t harness_parent(const char *pid) {
    char path[300], text[512];
    int parent = 0;
    snprintf(path, sizeof path, "/proc/%s/stat", pid);
    char *end = harness_read_file(path, text, sizeof text) > 0 ? strrchr(text, ')') : NULL;
    char state;
    return end && sscanf(end + 1, " %c %d", &state, &parent) == 2 && state != 'Z' ? parent : 0;
}

pid_t harness_child(pid_t parent) {
    DIR *proc = opendir("/proc");
    pid_t found = 0;
    for (struct dirent *e; proc && !found && (e = readdir(proc));)
        if (*e->d_name >= '1' && *e->d_name <= '9' && harness_parent(e->d_name) == parent)
            found = atoi(e->d_name);
    if (proc)
        closedir(proc);
    return found;
}

pid_t harness_front_pid(const struct harness_daemon *d) {
    return harness_child(d->pid);
}
