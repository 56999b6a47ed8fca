/* harness_proto.c - the daemon's protocols by hand: the attach socket, control requests and the scores' address. */
#include "harness.h"
#include "layout.h"

#include <errno.h>
#include <nanomsg/nn.h>
#include <nanomsg/pipeline.h>
#include <nanomsg/reqrep.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "score.h"

/* ---------- packets ---------- */

int harness_attach(const struct harness_daemon *d) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", d->dir, PROTO_ATTACH_SOCKET);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

int harness_send(int socket, const void *packet, size_t size) {
    ssize_t n;
    do
        n = send(socket, packet, size, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

int harness_send_message(int socket, uint16_t type, uint32_t request, const void *body) {
    char packet[PROTO_ATTACH_MAX];
    return harness_send(socket, packet, proto_attach_write(packet, sizeof packet, type, request, body, NULL, 0));
}

static void harness_take_fds(struct msghdr *message, int *fds, uint32_t *ret_fds) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count && c->cmsg_type == SCM_RIGHTS; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (fds && *ret_fds < PROTO_SEGMENTS_PER_MESSAGE)
                fds[(*ret_fds)++] = fd;
            else
                close(fd);
        }
    }
}

ssize_t harness_receive(int socket, void *packet, size_t capacity, unsigned timeout_ms, int *fds, uint32_t *ret_fds) {
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * PROTO_SEGMENTS_PER_MESSAGE)];
    } control;
    uint64_t end = harness_now_ns() + timeout_ms * 1000000ull;
    uint32_t unused;
    ssize_t n;
    if (!ret_fds)
        ret_fds = &unused;
    *ret_fds = 0;
    for (;;) {
        struct pollfd ready = {socket, POLLIN, 0};
        uint64_t now = harness_now_ns();
        int r = poll(&ready, 1, now < end ? (int)((end - now + 999999) / 1000000) : 0);
        if (r == 0)
            return -ETIMEDOUT;
        struct iovec part = {packet, capacity};
        struct msghdr message = {
            .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        n = r < 0 ? -1 : recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n < 0)
            return -errno;
        harness_take_fds(&message, fds, ret_fds);
        return n;
    }
}

int harness_expect(int socket, uint16_t type, uint32_t request, void *ret_body, size_t body_bytes,
                   struct proto_failed *ret_failed) {
    char packet[PROTO_ATTACH_MAX];
    for (;;) {
        struct proto_header h;
        ssize_t n = harness_receive(socket, packet, sizeof packet, HARNESS_PATIENCE_MS, NULL, NULL);
        if (n <= 0)
            return n == 0 ? -ECONNRESET : (int)n;
        memcpy(&h, packet, sizeof h);
        if (h.type == PROTO_FAILED && (h.request == request || h.request == 0)) {
            if (ret_failed)
                memcpy(ret_failed, proto_attach_body(packet), sizeof *ret_failed);
            return -EREMOTEIO;
        }
        if (h.type == type && h.request == request) {
            if (ret_body)
                memcpy(ret_body, proto_attach_body(packet), body_bytes);
            return 0;
        }
    }
}

/* ---------- messages ---------- */

int harness_hello_scores(const struct harness_daemon *d, uint32_t *ret_score_socket) {
    struct proto_welcome welcome;
    struct proto_hello hello = {.major = PROTO_VERSION_MAJOR,
                                .minor = PROTO_VERSION_MINOR,
                                .capabilities = PROTO_CAP_HOST | PROTO_CAP_CUDA,
                                .name = "harness"};
    int fd = harness_attach(d);
    if (fd < 0)
        return fd;
    int r = harness_send_message(fd, PROTO_HELLO, 1, &hello);
    if (r == 0)
        r = harness_expect(fd, PROTO_WELCOME, 1, &welcome, sizeof welcome, NULL);
    if (r < 0)
        close(fd);
    else
        *ret_score_socket = welcome.score_socket;
    return r < 0 ? r : fd;
}

int harness_hello(const struct harness_daemon *d) {
    uint32_t score_socket;
    return harness_hello_scores(d, &score_socket);
}

void harness_open_default(struct proto_open *ret_open) {
    *ret_open = (struct proto_open){.name = "harness",
                                    .compute_dtype = 1,
                                    .storage_dtype = 1,
                                    .fresh_rows = 16,
                                    .priority = 100,
                                    .pool = PROTO_ANY_POOL,
                                    .group_count = 1,
                                    .groups = {{.layers = 2,
                                                .kv_heads = 2,
                                                .q_heads = 4,
                                                .head_dim = 64,
                                                .guaranteed_rows = 64,
                                                .max_rows = 64,
                                                .policy = "streaming"}}};
}

int harness_open(int socket, const struct proto_open *open, struct proto_opened *ret_opened,
                 struct proto_failed *ret_failed) {
    static uint32_t request = 1000;
    int r = harness_send_message(socket, PROTO_OPEN, ++request, open);
    return r < 0 ? r : harness_expect(socket, PROTO_OPENED, request, ret_opened, sizeof *ret_opened, ret_failed);
}

int harness_settle(int socket, uint64_t session, uint64_t sequence, uint32_t rows, struct proto_settled *ret_settled) {
    static uint32_t request = 1000000;
    struct proto_settle settle = {.session = session, .score_sequence = sequence, .rows = rows};
    int r = harness_send_message(socket, PROTO_SETTLE, ++request, &settle);
    return r < 0 ? r : harness_expect(socket, PROTO_SETTLED, request, ret_settled, sizeof *ret_settled, NULL);
}

/* ---------- nanomsg ---------- */

static int harness_connect(const struct harness_daemon *d, int protocol, const char *name) {
    char address[NN_SOCKADDR_MAX];
    int patience = HARNESS_PATIENCE_MS, soon = 20;
    snprintf(address, sizeof address, "ipc://%s/%s", d->dir, name);
    int socket = nn_socket(AF_SP, protocol);
    if (socket < 0)
        return -nn_errno();
    nn_setsockopt(socket, NN_SOL_SOCKET, NN_RCVTIMEO, &patience, sizeof patience);
    nn_setsockopt(socket, NN_SOL_SOCKET, NN_SNDTIMEO, &patience, sizeof patience);
    nn_setsockopt(socket, NN_SOL_SOCKET, NN_RECONNECT_IVL, &soon, sizeof soon);
    if (nn_connect(socket, address) < 0) {
        int error = nn_errno();
        nn_close(socket);
        return -error;
    }
    return socket;
}

ssize_t harness_control(const struct harness_daemon *d, struct proto_request *request, void *answer, size_t capacity) {
    int socket = harness_connect(d, NN_REQ, PROTO_CONTROL_SOCKET);
    if (socket < 0)
        return socket;
    int again = 500; /* a front that dies takes a request with it; changing ones carry an id */
    nn_setsockopt(socket, NN_REQ, NN_REQ_RESEND_IVL, &again, sizeof again);
    request->magic = PROTO_REQUEST_MAGIC;
    request->major = PROTO_VERSION_MAJOR;
    request->minor = PROTO_VERSION_MINOR;
    int n = nn_send(socket, request, sizeof *request, 0);
    if (n >= 0)
        n = nn_recv(socket, answer, capacity, 0);
    int error = nn_errno();
    nn_close(socket);
    if (n >= 0 && (size_t)n > capacity)
        return -EMSGSIZE;
    return n < 0 ? -error : n;
}

int harness_stat(const struct harness_daemon *d, struct proto_pool_stat *ret_stat) {
    static char answer[PROTO_ANSWER_MAX];
    struct proto_request request = {.op = PROTO_OP_STAT};
    const char *why = "";
    ssize_t n = harness_control(d, &request, answer, sizeof answer);
    if (n < 0 || proto_answer_check(answer, (size_t)n, PROTO_OP_STAT, &why) < 0 ||
        (size_t)n < sizeof(struct proto_answer) + sizeof *ret_stat) {
        fprintf(stderr, "harness: stat: %s\n", n < 0 ? strerror((int)-n) : why);
        return n < 0 ? (int)n : -EBADMSG;
    }
    memcpy(ret_stat, answer + sizeof(struct proto_answer), sizeof *ret_stat);
    if (harness_device()) {
        ret_stat->charged_bytes -= ret_stat->quarantined_bytes;
        ret_stat->segments -= ret_stat->quarantined_bytes / SCISSOR_SEGMENT_BYTES;
    }
    return 0;
}

int harness_wait_counter(const struct harness_daemon *d, size_t offset, uint64_t least, unsigned timeout_ms) {
    uint64_t end = harness_now_ns() + timeout_ms * 1000000ull, value = 0;
    for (;;) {
        struct proto_pool_stat stat;
        int r = harness_stat(d, &stat);
        if (r < 0)
            return r;
        memcpy(&value, (const char *)&stat + offset, sizeof value);
        if (value >= least)
            return 0;
        if (harness_now_ns() >= end)
            break;
        harness_sleep_ms(5);
    }
    fprintf(stderr, "harness: the counter at %zu stays at %llu, below %llu\n", offset, (unsigned long long)value,
            (unsigned long long)least);
    return -ETIMEDOUT;
}

int harness_wait_sessions(const struct harness_daemon *d, uint32_t count, unsigned timeout_ms) {
    uint64_t end = harness_now_ns() + timeout_ms * 1000000ull;
    struct proto_pool_stat stat;
    int r;
    while ((r = harness_stat(d, &stat)) == 0 && stat.sessions + (harness_device() ? 0 : stat.quarantined) != count) {
        if (harness_now_ns() >= end) {
            fprintf(stderr, "harness: %u sessions are open and %u in quarantine, not %u\n", stat.sessions,
                    stat.quarantined, count);
            return -ETIMEDOUT;
        }
        harness_sleep_ms(2);
    }
    return r;
}

int harness_pass(const struct harness_daemon *d, uint8_t ret_pass[PROTO_TOKEN_BYTES]) {
    struct proto_pass ask = {0};
    struct proto_pass_is is;
    int fd = harness_hello(d);
    if (fd < 0)
        return fd;
    int r = harness_send_message(fd, PROTO_PASS, 2, &ask);
    if (r == 0)
        r = harness_expect(fd, PROTO_PASS_IS, 2, &is, sizeof is, NULL);
    if (r < 0) {
        close(fd);
        return r;
    }
    memcpy(ret_pass, is.pass, sizeof is.pass);
    return fd;
}

int harness_push(const struct harness_daemon *d, uint32_t score_socket) {
    char name[32];
    snprintf(name, sizeof name, PROTO_SCORE_SOCKET_FORMAT, score_socket);
    return harness_connect(d, NN_PUSH, name);
}
