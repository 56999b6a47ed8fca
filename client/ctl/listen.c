/* listen.c - opens, or takes over from systemd, a socket of this machine alone: the figures name sessions, and nothing
 * here asks who is there. */
#include "listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "command.h"

#define BACKLOG 64
#define FIRST_PASSED 3 /* by sd_listen_fds(3) */

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_un un;
};

static bool stays_here(const union address *a) {
    if (a->any.sa_family == AF_INET)
        return ntohl(a->v4.sin_addr.s_addr) >> 24 == 127;
    if (a->any.sa_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&a->v6.sin6_addr);
    return a->any.sa_family == AF_UNIX;
}

/* "127.0.0.1:PORT" or "[::1]:PORT"; false if it is none. */
static bool read_address(const char *text, union address *ret) {
    char host[64];
    const char *colon = strrchr(text, ':');
    size_t length = colon ? (size_t)(colon - text) : 0;
    if (!length || length >= sizeof host)
        return false;
    char *end;
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end || port > 65535)
        return false;
    snprintf(host, sizeof host, "%.*s", (int)length, text);
    memset(ret, 0, sizeof *ret);
    if (host[0] == '[' && host[length - 1] == ']') {
        host[length - 1] = 0;
        ret->v6.sin6_family = AF_INET6;
        ret->v6.sin6_port = htons((uint16_t)port);
        return inet_pton(AF_INET6, host + 1, &ret->v6.sin6_addr) == 1;
    }
    ret->v4.sin_family = AF_INET;
    ret->v4.sin_port = htons((uint16_t)port);
    return inet_pton(AF_INET, host, &ret->v4.sin_addr) == 1;
}

static void show_address(const union address *a, char *text, size_t size) {
    char host[INET6_ADDRSTRLEN] = "";
    if (a->any.sa_family == AF_INET) {
        inet_ntop(AF_INET, &a->v4.sin_addr, host, sizeof host);
        snprintf(text, size, "http://%s:%u/metrics", host, ntohs(a->v4.sin_port));
    } else if (a->any.sa_family == AF_INET6) {
        inet_ntop(AF_INET6, &a->v6.sin6_addr, host, sizeof host);
        snprintf(text, size, "http://[%s]:%u/metrics", host, ntohs(a->v6.sin6_port));
    } else {
        snprintf(text, size, "/metrics at %s", a->un.sun_path[0] ? a->un.sun_path : "a socket without a name");
    }
}

/* What was asked for may be port 0, so the socket itself is asked. */
static int listener_name(struct ctl_listener *l, union address *ret) {
    socklen_t size = sizeof *ret;
    memset(ret, 0, sizeof *ret);
    if (getsockname(l->socket, &ret->any, &size) < 0)
        return -errno;
    show_address(ret, l->shown, sizeof l->shown);
    return 0;
}

/* A path that nobody listens at any more would be in the way for ever. */
static void remove_left_over(const union address *a, socklen_t size) {
    struct stat st;
    if (lstat(a->un.sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, &a->any, size) < 0 && errno == ECONNREFUSED)
        unlink(a->un.sun_path);
    if (fd >= 0)
        close(fd);
}

static int bind_socket(struct ctl_listener *l, union address *a, socklen_t size) {
    int one = 1;
    bool local = a->any.sa_family == AF_UNIX;
    l->socket = socket(a->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->socket < 0)
        return -errno;
    if (local)
        remove_left_over(a, size);
    else
        setsockopt(l->socket, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    /* The user and the group: as with the daemon's own sockets, a directory's mode says who else. */
    mode_t before = umask(0117);
    int bound = bind(l->socket, &a->any, size);
    umask(before);
    if (bound < 0)
        return -errno;
    if (local)
        snprintf(l->path, sizeof l->path, "%s", a->un.sun_path);
    if (listen(l->socket, BACKLOG) < 0)
        return -errno;
    return listener_name(l, a);
}

static int open_here(const char *text, struct ctl_listener *l) {
    union address a;
    socklen_t size = sizeof a.v4;
    if (strchr(text, '/')) {
        memset(&a, 0, sizeof a);
        if (strlen(text) >= sizeof a.un.sun_path)
            return ctl_fail(CTL_USAGE, "--listen takes a path of at most %zu characters", sizeof a.un.sun_path - 1);
        a.un.sun_family = AF_UNIX;
        strcpy(a.un.sun_path, text);
        size = sizeof a.un;
    } else if (!read_address(text, &a)) {
        return ctl_fail(CTL_USAGE,
                        "--listen takes 127.0.0.1:PORT, [::1]:PORT, the path of a Unix socket or `systemd`, not '%s'",
                        text);
    } else if (!stays_here(&a)) {
        return ctl_fail(CTL_USAGE,
                        "--listen takes addresses of this machine alone, as 127.0.0.1:PORT: %s could be reached by "
                        "others, and nobody would ask who they are",
                        text);
    } else if (a.any.sa_family == AF_INET6) {
        size = sizeof a.v6;
    }
    int error = bind_socket(l, &a, size);
    return error ? ctl_fail(CTL_REFUSED, "cannot listen at %s: %s", text, strerror(-error)) : CTL_DONE;
}

/* The protocol of sd_listen_fds(3): so many descriptors from 3 on, for the process of that id. */
static int take_passed(struct ctl_listener *l) {
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    int listens = 0;
    socklen_t size = sizeof listens;
    union address a;
    if (!pid || !count || atol(pid) != getpid() || strcmp(count, "1") != 0)
        return ctl_fail(CTL_USAGE, "--listen systemd needs exactly one socket that systemd passes, as "
                                   "scissord-metrics.socket does");
    int one = FIRST_PASSED;
    if (getsockopt(one, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) < 0 || !listens)
        return ctl_fail(CTL_USAGE, "what systemd passed is no socket that listens");
    fcntl(one, F_SETFD, FD_CLOEXEC);
    int flags = fcntl(one, F_GETFL);
    fcntl(one, F_SETFL, flags | O_NONBLOCK);
    l->socket = one;
    int error = listener_name(l, &a);
    if (error)
        return ctl_fail(CTL_REFUSED, "cannot ask for the address of what systemd passed: %s", strerror(-error));
    if (!stays_here(&a))
        return ctl_fail(CTL_USAGE,
                        "systemd passed a socket that other machines could reach (%s), and nobody would ask who they "
                        "are: ListenStream= must be 127.0.0.1:PORT, [::1]:PORT or a path",
                        l->shown);
    return CTL_DONE;
}

int ctl_listener_open(const char *address, struct ctl_listener *ret) {
    struct ctl_listener l = {.socket = -1};
    int status = strcmp(address, "systemd") == 0 ? take_passed(&l) : open_here(address, &l);
    if (status)
        ctl_listener_close(&l);
    else
        *ret = l;
    return status;
}

void ctl_listener_close(struct ctl_listener *l) {
    if (l->socket >= 0)
        close(l->socket);
    l->socket = -1;
    if (*l->path)
        unlink(l->path);
    *l->path = 0;
}
