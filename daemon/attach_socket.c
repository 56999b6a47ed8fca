/* attach_socket.c - peers of the attach socket.
 *
 * A peer is freed by libuv's close callback, so it may be hung up in the middle of its own packets: `fd` is -1 then.
 * Descriptors that a client sends are dropped by the kernel, as no room for them is given to recv(). */
#include "daemon/attach_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "alloc.h"
#include "attach.h"
#include "daemon/log.h"
#include "daemon/loop.h"
#include "scissor_error.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* the headers of Debian 12 are older than it */
#endif

#define ATTACH_PEERS_MAX 4096u
#define ATTACH_PEERS_KEPT                                                                      \
    8u /* of these, for root and the daemon's user: so that they can end what takes all others \
        */
#define ATTACH_ACCEPTS_PER_TURN 16
#define ATTACH_PACKETS_PER_TURN 16
#define ATTACH_PACKETS_AFTER_ERROR 1024
/* A session that is taken up again comes in one go: the GROW packets of all segments that a store can have (service.c)
 * are half as many. */
#define ATTACH_QUEUE_PACKETS 1024u
#define ATTACH_QUEUE_BYTES (4u << 20)

struct attach_packet {
    struct attach_packet *next;
    size_t size;
    uint32_t fd_count;
    int fds[PROTO_SEGMENTS_PER_MESSAGE];
    char bytes[];
};

struct attach_peer {
    struct attach *attach;
    struct broker_peer *broker_peer; /* NULL: the broker does not know it any more */
    uv_poll_t poll;
    int fd; /* -1: hung up, waits for libuv */
    pid_t pid;
    struct attach_peer *next, *previous;
    struct attach_packet *first, **last; /* that wait for room in the socket */
    uint32_t queued;
    size_t queued_bytes;
};

static void attach_on_ready(uv_poll_t *handle, int status, int events);

/* ---------- sending ---------- */

static void attach_close_fds(const int *fds, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        close(fds[i]);
}

/* 0 or a negative errno. */
static int attach_write(int fd, const void *bytes, size_t size, const int *fds, uint32_t fd_count) {
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * PROTO_SEGMENTS_PER_MESSAGE)];
    } control;
    struct iovec part = {(void *)bytes, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd_count) {
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * fd_count);
    }
    ssize_t n;
    do
        n = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

static void attach_packet_free(struct attach_packet *p) {
    attach_close_fds(p->fds, p->fd_count);
    scissor_free(p);
}

/* What libuv shall look for; a failure can only be one of our own making. */
static void attach_listen_to(struct attach_peer *peer) {
    int events = (peer->attach->reading ? UV_READABLE : 0) | (peer->first ? UV_WRITABLE : 0);
    if (events)
        uv_poll_start(&peer->poll, events, attach_on_ready);
    else
        uv_poll_stop(&peer->poll);
}

/* Keeps a packet until the socket has room; false if too much is waiting already or there is no memory. */
static bool attach_queue(struct attach_peer *peer, const struct broker_action *action) {
    if (peer->queued >= ATTACH_QUEUE_PACKETS || action->size > ATTACH_QUEUE_BYTES - peer->queued_bytes)
        return false;
    struct attach_packet *p = scissor_malloc(sizeof *p + action->size);
    if (!p)
        return false;
    p->next = NULL;
    p->size = action->size;
    p->fd_count = action->fd_count;
    memcpy(p->fds, action->fds, sizeof(int) * action->fd_count);
    memcpy(p->bytes, action->bytes, action->size);
    *peer->last = p;
    peer->last = &p->next;
    peer->queued++;
    peer->queued_bytes += p->size;
    attach_listen_to(peer);
    return true;
}

/* Sends what waits; 0, -EAGAIN if the socket is full, or another negative errno. */
static int attach_flush(struct attach_peer *peer) {
    int r = 0;
    for (struct attach_packet *p; (p = peer->first);) {
        r = attach_write(peer->fd, p->bytes, p->size, p->fds, p->fd_count);
        if (r < 0)
            break;
        peer->first = p->next;
        if (!peer->first)
            peer->last = &peer->first;
        peer->queued--;
        peer->queued_bytes -= p->size;
        attach_packet_free(p);
    }
    return r;
}

void attach_send(struct attach *a, struct attach_peer *peer, const struct broker_action *action) {
    int r = peer->first ? -EAGAIN : attach_write(peer->fd, action->bytes, action->size, action->fds, action->fd_count);
    if (r == -EAGAIN && attach_queue(peer, action))
        return;
    attach_close_fds(action->fds, action->fd_count);
    if (r == 0)
        return;
    /* A peer that is just gone is the ordinary case. */
    if (r == -EAGAIN)
        daemon_log(LOG_WARNING, "process %d does not read its packets (%u wait, %zu bytes); hung up", (int)peer->pid,
                   peer->queued, peer->queued_bytes);
    else if (r != -EPIPE && r != -ECONNRESET)
        daemon_log(LOG_WARNING, "cannot send to process %d: %s; hung up", (int)peer->pid, strerror(-r));
    attach_hangup(a, peer);
}

/* ---------- the end of a peer ---------- */

static void attach_on_closed(uv_handle_t *handle) {
    scissor_free(handle->data);
}

void attach_hangup(struct attach *a, struct attach_peer *peer) {
    char rest;
    if (peer->fd < 0)
        return;
    attach_flush(peer);
    for (struct attach_packet *p, *next = peer->first; (p = next);) {
        next = p->next;
        attach_packet_free(p);
    }
    /* Closing a socket with unread packets would reset the connection and take our last words away from the peer. */
    shutdown(peer->fd, SHUT_RDWR);
    while (recv(peer->fd, &rest, 1, MSG_DONTWAIT) > 0)
        ;
    uv_close((uv_handle_t *)&peer->poll, attach_on_closed);
    close(peer->fd);
    peer->fd = -1;
    peer->first = NULL;
    *(peer->previous ? &peer->previous->next : &a->peers) = peer->next;
    if (peer->next)
        peer->next->previous = peer->previous;
    a->peer_count--;
    if (!a->leaving)
        broker_peer_gone(a->server->broker, peer->broker_peer, server_now());
}

/* ---------- receiving ---------- */

/* The broker never sees a packet that is too long to be one. */
static void attach_refuse_long(struct attach *a, struct attach_peer *peer) {
    char packet[sizeof(struct proto_header) + sizeof(struct proto_failed)];
    struct proto_failed failed = {.code = SCISSOR_EPROTO};
    proto_text_set(failed.text, sizeof failed.text, "a packet longer than any message");
    size_t size = proto_attach_write(packet, sizeof packet, PROTO_FAILED, 0, &failed, NULL, 0);
    if (!peer->first)
        attach_write(peer->fd, packet, size, NULL, 0);
    attach_hangup(a, peer);
}

/* Takes one packet; false if there is none, or the peer is gone. */
static bool attach_read(struct attach *a, struct attach_peer *peer) {
    static uint64_t packet[PROTO_ATTACH_MAX / sizeof(uint64_t)]; /* aligned, as the broker may look into it in place */
    ssize_t n = recv(peer->fd, packet, sizeof packet, MSG_DONTWAIT | MSG_TRUNC);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n < 0 && errno == ECONNRESET)
        return true; /* told once, before the packets that are still there */
    if (n <= 0)
        attach_hangup(a, peer);
    else if ((size_t)n > sizeof packet)
        attach_refuse_long(a, peer);
    else
        broker_peer_message(a->server->broker, peer->broker_peer, packet, (size_t)n, server_now());
    server_pump(a->server);
    return peer->fd >= 0;
}

static void attach_on_ready(uv_poll_t *handle, int status, int events) {
    struct attach_peer *peer = handle->data;
    struct attach *a = peer->attach;
    if (status == 0 && (events & UV_WRITABLE)) {
        int r = attach_flush(peer);
        if (r < 0 && r != -EAGAIN) {
            attach_hangup(a, peer);
            server_pump(a->server);
            return;
        }
        attach_listen_to(peer);
        server_pump(a->server); /* the end of the daemon may wait for this */
    }
    if (status == 0 && !(events & UV_READABLE))
        return;
    /* After an error libuv has stopped looking: read all that the dead peer left in the kernel. */
    int most = status < 0 ? ATTACH_PACKETS_AFTER_ERROR : ATTACH_PACKETS_PER_TURN;
    for (int i = 0; i < most && a->reading && attach_read(a, peer); i++)
        ;
    if (status < 0 && peer->fd >= 0) {
        attach_hangup(a, peer);
        server_pump(a->server);
    }
}

/* ---------- new peers ---------- */

/* Last words to a connection that does not become a peer. */
static void attach_refuse(int fd, int code, const char *text) {
    char packet[sizeof(struct proto_header) + sizeof(struct proto_failed)];
    struct proto_failed failed = {.code = code};
    proto_text_set(failed.text, sizeof failed.text, text);
    attach_write(fd, packet, proto_attach_write(packet, sizeof packet, PROTO_FAILED, 0, &failed, NULL, 0), NULL, 0);
    close(fd);
}

/* Who keeps sessions for the next process needs to know then whether their client lives; and memory that cannot be
 * taken away waits for the process that has it open. */
static bool attach_wants_pidfds(const struct server *s) {
    return s->keeps || broker_waits_for_processes(s->broker);
}

/* The kernel gives one of the very process that connected since Linux 6.5, of a PID namespace that has no number for it
 * here, too. Older ones know it by its number; there, -1 is one that cannot be had. False if the process is gone. */
static bool attach_pidfd(const struct attach *a, int fd, pid_t pid, int *ret) {
    socklen_t size = sizeof *ret;
    *ret = -1;
    if (!attach_wants_pidfds(a->server) || getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, ret, &size) == 0)
        return true;
    if (errno != ENOPROTOOPT)
        return false;
    *ret = (int)syscall(SYS_pidfd_open, pid, 0);
    return true;
}

static void attach_admit(struct attach *a, int fd) {
    struct ucred who;
    socklen_t size = sizeof who;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0) {
        attach_refuse(fd, SCISSOR_ESYSTEM, "the kernel does not say who is connecting");
        return;
    }
    uint32_t kept = who.uid == 0 || who.uid == geteuid() ? 0 : ATTACH_PEERS_KEPT;
    if (a->peer_count >= a->peers_max - kept) {
        attach_refuse(fd, SCISSOR_ELIMIT, "the daemon has as many connections as it takes");
        return;
    }
    int pidfd;
    if (!attach_pidfd(a, fd, who.pid, &pidfd)) {
        attach_refuse(fd, SCISSOR_ESYSTEM, "the process that connected cannot be watched, or has ended");
        return;
    }
    struct attach_peer *peer = scissor_calloc(1, sizeof *peer);
    if (!peer || broker_peer_new(a->server->broker, who.pid, who.uid, who.gid, pidfd, &peer->broker_peer) < 0) {
        if (pidfd >= 0)
            close(pidfd);
        scissor_free(peer);
        attach_refuse(fd, SCISSOR_ENOMEM, "the daemon has no memory for another connection");
        return;
    }
    *peer = (struct attach_peer){.attach = a, .broker_peer = peer->broker_peer, .fd = fd, .pid = who.pid};
    peer->last = &peer->first;
    if (uv_poll_init(&a->server->loop, &peer->poll, fd) < 0) {
        broker_peer_gone(a->server->broker, peer->broker_peer, server_now());
        scissor_free(peer);
        attach_refuse(fd, SCISSOR_ENOMEM, "the daemon cannot watch another connection");
        return;
    }
    peer->poll.data = peer;
    broker_peer_set_data(peer->broker_peer, peer);
    peer->next = a->peers;
    if (a->peers)
        a->peers->previous = peer;
    a->peers = peer;
    a->peer_count++;
    attach_listen_to(peer);
}

/* A job may have been quicker to take the last descriptor: then the next connection tries again. */
static void attach_take_spare(struct attach *a) {
    if (a->spare_fd < 0)
        a->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/* Without a descriptor left the connection would stay in the backlog and wake the loop for ever: take and close it. */
static void attach_refuse_without_fd(struct attach *a) {
    if (a->spare_fd < 0)
        return;
    close(a->spare_fd);
    a->spare_fd = -1;
    int fd = accept4(a->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0) {
        daemon_log(LOG_WARNING, "no descriptor left for another connection; refused");
        attach_refuse(fd, SCISSOR_ELIMIT, "the daemon has no descriptor left for another connection");
    }
    attach_take_spare(a);
}

static void attach_on_connection(uv_poll_t *handle, int status, int events) {
    struct attach *a = handle->data;
    (void)status;
    (void)events;
    attach_take_spare(a);
    for (int i = 0; i < ATTACH_ACCEPTS_PER_TURN && a->reading; i++) {
        int fd = accept4(a->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0)
            attach_admit(a, fd);
        else if (errno == EMFILE || errno == ENFILE)
            attach_refuse_without_fd(a);
        else
            break;
    }
    server_pump(a->server);
}

/* ---------- all of it ---------- */

/* Connections must leave descriptors for the memory of the sessions. Each is one itself, and one of its process. */
static uint32_t attach_peers_max(bool pidfds) {
    struct rlimit files;
    uint32_t share = pidfds ? 4 : 2;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0 || files.rlim_cur / share >= ATTACH_PEERS_MAX)
        return ATTACH_PEERS_MAX;
    return files.rlim_cur / share > ATTACH_PEERS_KEPT ? (uint32_t)files.rlim_cur / share : ATTACH_PEERS_KEPT + 1;
}

int attach_init(struct attach *a, struct server *server, int listen_fd) {
    *a = (struct attach){.server = server, .listen_fd = listen_fd, .spare_fd = -1, .reading = true};
    a->peers_max = attach_peers_max(attach_wants_pidfds(server));
    attach_take_spare(a);
    int r = uv_poll_init(&server->loop, &a->listener, listen_fd);
    if (r < 0)
        return r;
    a->listener.data = a;
    return uv_poll_start(&a->listener, UV_READABLE, attach_on_connection);
}

void attach_stop_reading(struct attach *a) {
    a->reading = false;
    uv_poll_stop(&a->listener);
    for (struct attach_peer *peer = a->peers; peer; peer = peer->next)
        attach_listen_to(peer);
}

bool attach_is_flushed(const struct attach *a) {
    for (struct attach_peer *peer = a->peers; peer; peer = peer->next)
        if (peer->first)
            return false;
    return true;
}

void attach_deinit(struct attach *a) {
    while (a->peers)
        attach_hangup(a, a->peers);
    uv_close((uv_handle_t *)&a->listener, NULL);
    if (a->spare_fd >= 0)
        close(a->spare_fd);
    a->spare_fd = -1;
}
