/* push.c - the way of score frames: a nanomsg PUSH socket, and the only file of the library that knows nanomsg.
 *
 * One socket a client; nanomsg allows several threads on it and brings worker threads of its own. It connects in the
 * background and connects again when the daemon's front was restarted; until then it takes nothing. A frame that it
 * took may still be lost with the connection; the daemon notices by the sequence number in SETTLE.
 *
 * If the front ends in the middle of nanomsg's greeting, the socket may never connect again (seen with nanomsg 1.1.5).
 * So a socket that has not taken a frame for a second is replaced by a new one; what the old one may still hold is lost
 * with it, and was as good as lost. After a restart of the daemon the socket is replaced at once, and the first frame
 * is given the time that nanomsg may need to connect and greet. Whoever sends holds `use` for reading, whoever replaces
 * the socket for writing, so that no thread has the number of a closed socket in its hands. */
#include <errno.h>
#include <nanomsg/nn.h>
#include <nanomsg/pipeline.h>
#include <stdio.h>

#include "internal.h"

#define PUSH_RECONNECT_MS 5
#define PUSH_RECONNECT_MAX_MS 100
/* Long enough for a front to be started again, and for nanomsg to see that the other side does not greet. */
#define PUSH_STUCK_NS 1000000000u
#define PUSH_GREETING_NS 1000000000u

static int push_connect(const char *url, int *ret_socket) {
    int socket = nn_socket(AF_SP, NN_PUSH);
    if (socket < 0)
        return errno == ENOMEM ? SCISSOR_ENOMEM : SCISSOR_ESYSTEM;
    int first = PUSH_RECONNECT_MS, most = PUSH_RECONNECT_MAX_MS;
    if (nn_setsockopt(socket, NN_SOL_SOCKET, NN_RECONNECT_IVL, &first, sizeof first) < 0 ||
        nn_setsockopt(socket, NN_SOL_SOCKET, NN_RECONNECT_IVL_MAX, &most, sizeof most) < 0 ||
        nn_connect(socket, url) < 0) {
        int error = errno;
        nn_close(socket);
        errno = error;
        return error == ENOMEM ? SCISSOR_ENOMEM : SCISSOR_ESYSTEM;
    }
    *ret_socket = socket;
    return 0;
}

static bool push_url(const char *directory, uint32_t number, struct client_push *push) {
    int length = snprintf(push->url, sizeof push->url, "ipc://%s/" PROTO_SCORE_SOCKET_FORMAT, directory, number);
    return length > 0 && (size_t)length < sizeof push->url;
}

int scissor__push_open(const char *directory, uint32_t number, struct client_push *push) {
    if (!push_url(directory, number, push))
        return SCISSOR_EINVAL;
    if (pthread_rwlock_init(&push->use, NULL))
        return SCISSOR_ENOMEM;
    int r = push_connect(push->url, &push->socket);
    if (r) {
        int error = errno;
        pthread_rwlock_destroy(&push->use);
        errno = error;
        return r;
    }
    push->open = true;
    return 0;
}

void scissor__push_move(const char *directory, uint32_t number, struct client_push *push) {
    pthread_rwlock_wrlock(&push->use);
    if (push->socket >= 0)
        nn_close(push->socket);
    push->socket = -1;
    if (push_url(directory, number, push))
        push_connect(push->url, &push->socket);
    uint64_t now = scissor__now();
    atomic_store(&push->stuck_since, push->socket >= 0 ? 0 : now);
    if (atomic_load(&push->greeted_by) < now + PUSH_GREETING_NS)
        atomic_store(&push->greeted_by, now + PUSH_GREETING_NS);
    pthread_rwlock_unlock(&push->use);
}

void scissor__push_close(struct client_push *push) {
    if (!push->open)
        return;
    if (push->socket >= 0)
        nn_close(push->socket);
    pthread_rwlock_destroy(&push->use);
    push->open = false;
}

static bool push_try(struct client_push *push, const void *frame, size_t size, uint64_t deadline) {
    for (;;) {
        if (nn_send(push->socket, frame, size, NN_DONTWAIT) >= 0)
            return true;
        if (errno != EAGAIN && errno != EINTR)
            return false;
        uint64_t now = scissor__now();
        if (now >= deadline)
            return false;
        struct nn_pollfd poll = {.fd = push->socket, .events = NN_POLLOUT};
        nn_poll(&poll, 1, (int)((deadline - now + 999999) / 1000000));
    }
}

/* True if there is a new socket; the other threads have let go of the old one then. */
static bool push_replace(struct client_push *push) {
    bool replaced = false;
    pthread_rwlock_wrlock(&push->use);
    uint64_t now = scissor__now(), since = atomic_load(&push->stuck_since);
    if (since && now - since >= PUSH_STUCK_NS) { /* else another thread was faster */
        if (push->socket >= 0)
            nn_close(push->socket);
        push->socket = -1;
        replaced = push_connect(push->url, &push->socket) == 0;
        atomic_store(&push->stuck_since, replaced ? now : since); /* a new one has its own second */
    }
    pthread_rwlock_unlock(&push->use);
    return replaced;
}

static bool push_send(struct client_push *push, const void *frame, size_t size, uint64_t deadline) {
    pthread_rwlock_rdlock(&push->use);
    bool sent = push_try(push, frame, size, deadline);
    uint64_t none = 0;
    if (sent)
        atomic_store(&push->stuck_since, 0);
    else
        atomic_compare_exchange_strong(&push->stuck_since, &none, scissor__now());
    pthread_rwlock_unlock(&push->use);
    return sent;
}

bool scissor__push_send(struct client_push *push, const void *frame, size_t size, uint64_t deadline) {
    if (push_send(push, frame, size, deadline))
        return true;
    uint64_t greeted_by = atomic_load(&push->greeted_by);
    if (greeted_by > deadline && push_send(push, frame, size, greeted_by))
        return true;
    uint64_t since = atomic_load(&push->stuck_since), now = scissor__now();
    if (!since || now - since < PUSH_STUCK_NS || !push_replace(push))
        return false;
    return push_send(push, frame, size, now + CLIENT_PUSH_NS); /* connecting takes less, if somebody is there */
}
