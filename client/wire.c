/* wire.c - packets in and out of the attach socket, and waiting for answers.
 *
 * No thread of the library waits for answers, so whoever does reads for all: the first waiter sleeps in poll() with the
 * lock given up and `reading` set, applies everything that came and wakes the others; one of them reads on. Nobody
 * else touches the receiving side meanwhile, so an answer cannot be taken from under a sleeping reader. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

uint64_t scissor__now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Threads that sleep on the socket wake up; it is closed when none of them does. */
static void end_connection(struct scissor_client *client) {
    client->up = client->attached = false;
    shutdown(client->fd, SHUT_RDWR);
    pthread_cond_broadcast(&client->news);
}

void scissor__client_fail(struct scissor_client *client, int code) {
    if (client->failure)
        return;
    client->failure = code;
    end_connection(client);
}

void scissor__client_lost(struct scissor_client *client) {
    if (!client->up)
        return;
    if (!client->lost_since)
        client->lost_since = scissor__now();
    end_connection(client);
}

uint64_t scissor__client_deadline(const struct scissor_client *client) {
    return scissor__now() + client->timeout_ms * (uint64_t)1000000u;
}

void scissor__client_sleep(struct scissor_client *client, uint64_t deadline) {
    struct timespec until = {(time_t)(deadline / 1000000000u), (long)(deadline % 1000000000u)};
    pthread_cond_timedwait(&client->news, &client->lock, &until);
}

/* Collects the descriptors of a received message; returns how many. */
static uint32_t take_fds(struct msghdr *message, int fds[PROTO_SEGMENTS_PER_MESSAGE]) {
    uint32_t count = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t more = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < more; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (count < PROTO_SEGMENTS_PER_MESSAGE)
                fds[count++] = fd;
            else
                close(fd);
        }
    }
    return count;
}

/* Receives and applies one packet; false if there is none. */
static bool receive_one(struct scissor_client *client) {
    union {
        char bytes[CMSG_SPACE(PROTO_SEGMENTS_PER_MESSAGE * sizeof(int))];
        struct cmsghdr align;
    } control;
    int fds[PROTO_SEGMENTS_PER_MESSAGE];
    struct iovec data = {client->packet, PROTO_ATTACH_MAX};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t size;
    /* A daemon that left something unread resets; what it had sent before is still to be had. */
    bool reset = false;
    do
        size = recvmsg(client->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (size < 0 && (errno == EINTR || (errno == ECONNRESET && !reset && (reset = true))));
    if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return false;
    if (size <= 0) {
        scissor__client_lost(client);
        return false;
    }
    uint32_t fd_count = take_fds(&message, fds);
    if (message.msg_flags & MSG_TRUNC)
        scissor__client_fail(client, SCISSOR_EPROTO);
    else
        scissor__dispatch(client, client->packet, (size_t)size, fds, fd_count, message.msg_flags & MSG_CTRUNC);
    for (uint32_t i = 0; i < fd_count; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    return true;
}

void scissor__client_drain(struct scissor_client *client) {
    if (client->reading)
        return;
    while (client->up && receive_one(client))
        ;
}

/* 0, CLIENT_LOST, or 1 if the socket takes no more just now. */
static int send_packet(struct scissor_client *client, const void *packet, size_t size) {
    ssize_t sent;
    do
        sent = send(client->fd, packet, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent >= 0)
        return 0;
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS ? 1 : CLIENT_LOST;
}

static uint32_t next_request(struct scissor_client *client) {
    return ++client->last_request ? client->last_request : ++client->last_request;
}

/* If the daemon is gone, whoever reads next finds out. */
bool scissor__client_post(struct scissor_client *client, uint16_t type, const void *body, const void *entries,
                          uint16_t count) {
    char packet[1024];
    if (!client->up)
        return false;
    size_t size = proto_attach_write(packet, sizeof packet, type, next_request(client), body, entries, count);
    return send_packet(client, packet, size) == 0;
}

/* Sleeps until something comes (or the socket takes more, if `out`) or until `deadline`, and applies what came. */
static void sleep_and_read(struct scissor_client *client, bool out, uint64_t deadline) {
    uint64_t now = scissor__now();
    if (client->reading && !out) {
        scissor__client_sleep(client, deadline);
        return;
    }
    bool reader = !client->reading;
    struct pollfd poll_fd = {.fd = client->fd, .events = (short)((reader ? POLLIN : 0) | (out ? POLLOUT : 0))};
    uint64_t ms = now < deadline ? (deadline - now + 999999) / 1000000 : 0;
    if (reader)
        client->reading = true;
    client->polling++;
    pthread_mutex_unlock(&client->lock);
    poll(&poll_fd, 1, ms < INT32_MAX ? (int)ms : INT32_MAX);
    pthread_mutex_lock(&client->lock);
    client->polling--;
    if (reader) {
        client->reading = false;
        scissor__client_drain(client);
    }
    if (reader || !client->up)
        pthread_cond_broadcast(&client->news);
}

int scissor__client_ask(struct scissor_client *client, uint32_t connection, uint16_t type, const void *body,
                        uint64_t deadline, uint32_t *ret_request) {
    char packet[sizeof(struct proto_header) + sizeof(struct proto_open)];
    int r = CLIENT_LOST;
    *ret_request = next_request(client);
    size_t size = proto_attach_write(packet, sizeof packet, type, *ret_request, body, NULL, 0);
    while (client->up && client->connection == connection) {
        r = send_packet(client, packet, size);
        if (r == 0)
            return 0;
        if (r == CLIENT_LOST) {
            /* What the daemon said before it hung up tells more than the broken pipe. */
            scissor__client_drain(client);
            scissor__client_lost(client);
            break;
        }
        r = SCISSOR_ETIMEDOUT;
        if (scissor__now() >= deadline)
            break;
        sleep_and_read(client, true, deadline);
    }
    *ret_request = 0;
    return client->failure ? client->failure : client->connection == connection && client->up ? r : CLIENT_LOST;
}

static void call_unlink(struct scissor_client *client, struct client_call *call) {
    for (struct client_call **at = &client->calls; *at; at = &(*at)->next)
        if (*at == call) {
            *at = call->next;
            return;
        }
}

int scissor__client_call_once(struct scissor_client *client, struct client_call *call, uint16_t type, const void *body,
                              uint64_t deadline) {
    uint32_t connection = client->connection;
    call->fds[0] = call->fds[1] = -1;
    call->next = client->calls;
    client->calls = call;
    int r = scissor__client_ask(client, connection, type, body, deadline, &call->request);
    while (!r && !call->done) {
        if (!client->up || client->connection != connection)
            r = client->failure ? client->failure : CLIENT_LOST;
        else if (scissor__now() >= deadline)
            r = SCISSOR_ETIMEDOUT;
        else
            sleep_and_read(client, false, deadline);
    }
    call_unlink(client, call);
    return call->done ? call->code : r;
}

int scissor__client_call(struct scissor_client *client, struct client_call *call, uint16_t type, const void *body,
                         uint64_t extra_ms) {
    uint64_t deadline = scissor__client_deadline(client) + extra_ms * 1000000u;
    int failure = call->session->failure;
    for (uint32_t i = 0; i < CLIENT_ASK_TRIES; i++) {
        int r = scissor__client_recover(client, deadline);
        if (r)
            return r;
        if (call->session->failure != failure)
            return call->session->failure;
        r = scissor__client_call_once(client, call, type, body, deadline);
        if (r != CLIENT_LOST)
            return r;
    }
    return SCISSOR_EGONE;
}

int scissor__client_wait_settled(struct scissor_session *session, uint64_t deadline) {
    struct scissor_client *client = session->client;
    while (session->settle_request && !session->failure) {
        int r = scissor__client_recover(client, deadline);
        if (r)
            return r;
        if (!session->settle_request || session->failure)
            break;
        if (scissor__now() >= deadline)
            return SCISSOR_ETIMEDOUT;
        sleep_and_read(client, false, deadline);
    }
    return session->failure;
}
