/* private_daemon.c - see private_daemon.h. */
#include "private_daemon.h"

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

#include "alloc.h"
#include "scissor.h"

/* A socket's path has 107 characters; the daemon's names need some of them. */
#define PRIVATE_DIRECTORY_BYTES 64
#define PRIVATE_PATH_BYTES 4096
#define PRIVATE_STOP_MS 5000
#define PRIVATE_CONNECT_TRIES 1500 /* of 20 ms */
#define PRIVATE_EXEC_FAILED 127

struct private_daemon {
    pid_t pid; /* 0 once waited for */
    char directory[PRIVATE_DIRECTORY_BYTES];
};

/* "…/scissord" beside our own executable if it is there, else the bare name, for a search in PATH. */
static void private_daemon_find(char path[PRIVATE_PATH_BYTES]) {
    ssize_t size = readlink("/proc/self/exe", path, PRIVATE_PATH_BYTES - 16);
    char *slash = NULL;
    if (size > 0) {
        path[size] = '\0';
        slash = strrchr(path, '/');
    }
    if (slash) {
        strcpy(slash + 1, "scissord");
        if (access(path, X_OK) == 0)
            return;
    }
    strcpy(path, "scissord");
}

static int private_daemon_make_directory(struct private_daemon *daemon, struct failure *failure) {
    const char *base = getenv("TMPDIR");
    if (!base || *base != '/' || strlen(base) > PRIVATE_DIRECTORY_BYTES - 24)
        base = "/tmp";
    snprintf(daemon->directory, sizeof(daemon->directory), "%.40s/scissor-run-XXXXXX", base);
    if (!mkdtemp(daemon->directory))
        return failure_set(failure, SCISSOR_ESYSTEM, "cannot make a directory in %.40s: %s", base, strerror(errno));
    return 0;
}

static void private_daemon_remove_directory(const struct private_daemon *daemon) {
    DIR *directory = opendir(daemon->directory);
    struct dirent *entry;
    while (directory && (entry = readdir(directory)) != NULL)
        unlinkat(dirfd(directory), entry->d_name, 0);
    if (directory)
        closedir(directory);
    rmdir(daemon->directory);
}

/* In the child, which may only make system calls here: OpenBLAS threads may hold locks. */
static void private_daemon_exec(const char *path, char *const argv[], int log, pid_t parent) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    setpgid(0, 0); /* Ctrl-C is ours to handle: we still need the daemon to finish properly */
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || getppid() != parent)
        _exit(PRIVATE_EXEC_FAILED);
    int null = open("/dev/null", O_RDONLY);
    if (null < 0 || dup2(null, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0)
        _exit(PRIVATE_EXEC_FAILED);
    execvp(path, argv);
    static const char text[] =
        "scissord was not found beside scissor-run nor in PATH; name a running one with --socket\n";
    ssize_t written = write(2, text, sizeof(text) - 1);
    _exit(written < 0 ? PRIVATE_EXEC_FAILED - 1 : PRIVATE_EXEC_FAILED);
}

static int private_daemon_open_log(const struct private_daemon *daemon, int flags) {
    char path[PRIVATE_DIRECTORY_BYTES + 8];
    snprintf(path, sizeof(path), "%s/log", daemon->directory);
    return open(path, flags | O_CLOEXEC, 0600);
}

int private_daemon_start(const struct private_daemon_options *options, struct private_daemon **ret_daemon,
                         struct failure *failure) {
    char path[PRIVATE_PATH_BYTES], pool[32];
    struct private_daemon *daemon = scissor_calloc(1, sizeof(*daemon));
    if (!daemon)
        return failure_set_memory(failure);
    int r = private_daemon_make_directory(daemon, failure);
    if (r != 0) {
        scissor_free(daemon);
        return r;
    }
    private_daemon_find(path);
    snprintf(pool, sizeof(pool), "%uMiB", options->pool_mib);
    const char *argv[16] = {path, "--pool", pool, "--dir", daemon->directory, "--config", "/dev/null"};
    int argc = 7;
    if (options->device)
        argv[argc++] = "--device", argv[argc++] = options->device;
    if (options->reclaim)
        argv[argc++] = "--reclaim", argv[argc++] = options->reclaim;
    pid_t parent = getpid();
    int log = private_daemon_open_log(daemon, O_WRONLY | O_CREAT | O_APPEND);
    daemon->pid = log < 0 ? -1 : fork();
    if (daemon->pid == 0)
        private_daemon_exec(path, (char *const *)argv, log, parent);
    if (daemon->pid < 0) {
        failure_write(failure, "cannot start a process: %s", strerror(errno));
        daemon->pid = 0;
        r = SCISSOR_ESYSTEM;
    }
    if (log >= 0)
        close(log);
    if (r != 0) {
        private_daemon_stop(daemon);
        return r;
    }
    *ret_daemon = daemon;
    return 0;
}

const char *private_daemon_directory(const struct private_daemon *daemon) {
    return daemon->directory;
}

/* The last line or so of the log, for the failure's text. */
static void private_daemon_read_log(const struct private_daemon *daemon, char text[200]) {
    ssize_t size = 0;
    int log = private_daemon_open_log(daemon, O_RDONLY);
    if (log >= 0) {
        off_t end = lseek(log, 0, SEEK_END);
        size = pread(log, text, 199, end > 199 ? end - 199 : 0);
        close(log);
    }
    while (size > 0 && text[size - 1] == '\n')
        size--;
    text[size > 0 ? size : 0] = '\0';
}

int private_daemon_check(struct private_daemon *daemon, struct failure *failure) {
    char text[200];
    int status;
    if (daemon->pid != 0 && waitpid(daemon->pid, &status, WNOHANG) != daemon->pid)
        return 0;
    daemon->pid = 0;
    private_daemon_read_log(daemon, text);
    return failure_set(failure, SCISSOR_ENODAEMON, "the private daemon has ended; it said: %s", text);
}

int private_daemon_await(struct private_daemon *daemon, struct failure *failure) {
    const struct timespec pause = {0, 20 * 1000 * 1000};
    for (int try = 0; try < PRIVATE_CONNECT_TRIES; try++) {
        struct scissor_client *client;
        int r = scissor_connect(daemon->directory, &client);
        if (r == 0) {
            scissor_disconnect(client);
            return 0;
        }
        if (r != SCISSOR_ENODAEMON)
            return failure_set(failure, r, "the private daemon: %s", scissor_strerror(r));
        r = private_daemon_check(daemon, failure);
        if (r != 0)
            return r;
        nanosleep(&pause, NULL);
    }
    return failure_set(failure, SCISSOR_ETIMEDOUT, "the private daemon does not answer");
}

void private_daemon_stop(struct private_daemon *daemon) {
    if (!daemon)
        return;
    const struct timespec pause = {0, 10 * 1000 * 1000};
    if (daemon->pid != 0)
        kill(daemon->pid, SIGTERM);
    for (int waited = 0; daemon->pid != 0; waited += 10) {
        if (waitpid(daemon->pid, NULL, WNOHANG) != 0) {
            daemon->pid = 0;
            break;
        }
        if (waited == PRIVATE_STOP_MS)
            kill(daemon->pid, SIGKILL);
        nanosleep(&pause, NULL);
    }
    private_daemon_remove_directory(daemon);
    scissor_free(daemon);
}
