/* rundir.c - lock first, then everything else: whoever holds the lock owns all names in the directory. */
#include "daemon/rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "control.h"
#include "score.h"

#define RUNDIR_BACKLOG 128
#define RUNDIR_LONGEST "/" PROTO_SCORE_SOCKET_FORMAT /* no socket's name is longer */

/* The attach socket comes first: it may be another's. */
static const char *const rundir_names[] = {PROTO_ATTACH_SOCKET, PROTO_CONTROL_SOCKET, PROTO_EVENT_SOCKET};

struct rundir_why {
    char *text;
    size_t bytes;
};

static int rundir_fail(struct rundir_why why, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int rundir_fail(struct rundir_why why, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why.text, why.bytes, format, arguments);
    va_end(arguments);
    return -1;
}

/* Name of a file in the directory; the options' limit for --dir makes it fit a socket address. */
static const char *rundir_file(const struct rundir *r, const char *name, char path[128]) {
    snprintf(path, 128, "%s/%s", r->path, name);
    return path;
}

static void rundir_remove_files(const struct rundir *r) {
    char path[128], name[sizeof PROTO_SCORE_SOCKET_FORMAT];
    for (size_t i = r->passed ? 1 : 0; i < sizeof rundir_names / sizeof *rundir_names; i++)
        unlink(rundir_file(r, rundir_names[i], path));
    for (uint32_t i = 0; i < PROTO_SCORE_SOCKETS; i++) {
        snprintf(name, sizeof name, PROTO_SCORE_SOCKET_FORMAT, i % PROTO_SCORE_SOCKETS);
        unlink(rundir_file(r, name, path));
    }
}

static int rundir_name(struct rundir *r, const char *path, struct rundir_why why) {
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    int n;
    if (path)
        n = snprintf(r->path, sizeof r->path, "%s", path);
    else if (runtime && *runtime)
        n = snprintf(r->path, sizeof r->path, "%s/scissord", runtime);
    else
        n = snprintf(r->path, sizeof r->path, "/run/scissord");
    struct sockaddr_un address;
    if (n < 0 || (size_t)n >= sizeof r->path || (size_t)n + sizeof RUNDIR_LONGEST > sizeof address.sun_path)
        return rundir_fail(why, "the directory's name is too long for sockets (%d bytes, at most %zu); use --dir", n,
                           sizeof address.sun_path - sizeof RUNDIR_LONGEST);
    return 0;
}

static int rundir_make(struct rundir *r, struct rundir_why why) {
    struct stat st;
    if (mkdir(r->path, 0750) == 0)
        r->made = true;
    else if (errno != EEXIST)
        return rundir_fail(why, "cannot make the directory %s: %s", r->path, strerror(errno));
    if (stat(r->path, &st) < 0)
        return rundir_fail(why, "%s: %s", r->path, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return rundir_fail(why, "%s is not a directory", r->path);
    if (st.st_mode & S_IWOTH)
        return rundir_fail(why,
                           "everybody may write into %s, so anybody could put a socket of theirs there; use a "
                           "directory of the daemon's own",
                           r->path);
    return 0;
}

/* The lock's file is removed at the end, so what was locked may be a file that is not there any more: look again. */
static int rundir_lock(struct rundir *r, struct rundir_why why) {
    char path[128];
    rundir_file(r, RUNDIR_LOCK, path);
    for (int tries = 0; tries < 100; tries++) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
            return rundir_fail(why, "%s: %s", path, strerror(errno));
        if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
            int error = errno;
            close(fd);
            if (error == EWOULDBLOCK)
                return rundir_fail(why, "another scissord runs in %s; end it, or choose another directory with --dir",
                                   r->path);
            return rundir_fail(why, "%s: %s", path, strerror(error));
        }
        struct stat ours, there;
        if (fstat(fd, &ours) == 0 && stat(path, &there) == 0 && ours.st_ino == there.st_ino &&
            ours.st_dev == there.st_dev) {
            r->lock_fd = fd;
            return 0;
        }
        close(fd);
    }
    return rundir_fail(why, "%s changes all the time", path);
}

static int rundir_listen(struct rundir *r, struct rundir_why why) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char path[128];
    rundir_file(r, PROTO_ATTACH_SOCKET, path);
    memcpy(address.sun_path, path, strnlen(path, sizeof address.sun_path - 1)); /* fits: rundir_name() */
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return rundir_fail(why, "socket: %s", strerror(errno));
    mode_t before = umask(0117); /* the socket: 0660 */
    int bound = bind(fd, (struct sockaddr *)&address, sizeof address);
    umask(before);
    if (bound < 0 || listen(fd, RUNDIR_BACKLOG) < 0) {
        rundir_fail(why, "%s: %s", path, strerror(errno));
        close(fd);
        return -1;
    }
    r->attach_fd = fd;
    return 0;
}

/* A socket that the service manager listens at for us. */
static int rundir_take(struct rundir *r, int fd, struct rundir_why why) {
    struct sockaddr_un address = {0};
    socklen_t size = sizeof address - 1;
    char path[128];
    rundir_file(r, PROTO_ATTACH_SOCKET, path);
    if (sd_is_socket_unix(fd, SOCK_SEQPACKET, 1, NULL, 0) <= 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) < 0)
        return rundir_fail(why, "the socket that was passed is no listening Unix socket of type SEQPACKET; see "
                                "ListenSequentialPacket= in systemd.socket(5)");
    if (strcmp(address.sun_path, path) != 0)
        return rundir_fail(why,
                           "the socket that was passed listens at %s, and clients look for %s; make --dir and "
                           "ListenSequentialPacket= agree",
                           *address.sun_path ? address.sun_path : "no file", path);
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return rundir_fail(why, "the socket that was passed: %s", strerror(errno));
    r->attach_fd = fd;
    return 0;
}

int rundir_init(struct rundir *r, const char *path, int attach_fd, char *why, size_t why_bytes) {
    struct rundir_why to = {why, why_bytes};
    *r = (struct rundir){.lock_fd = -1, .attach_fd = -1, .passed = attach_fd >= 0};
    if (rundir_name(r, path, to) < 0 || rundir_make(r, to) < 0 || rundir_lock(r, to) < 0) {
        rundir_deinit(r);
        return -1;
    }
    rundir_remove_files(r);
    if ((r->passed ? rundir_take(r, attach_fd, to) : rundir_listen(r, to)) < 0) {
        rundir_deinit(r);
        return -1;
    }
    return 0;
}

void rundir_deinit(struct rundir *r) {
    char path[128];
    if (r->attach_fd >= 0)
        close(r->attach_fd);
    if (r->lock_fd >= 0) {
        rundir_remove_files(r);
        unlink(rundir_file(r, RUNDIR_LOCK, path));
        close(r->lock_fd);
    }
    if (r->made)
        rmdir(r->path);
    *r = (struct rundir){.lock_fd = -1, .attach_fd = -1};
}
