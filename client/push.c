/* push.c - the way of score frames: a nanomsg PUSH socket, and the only file of the library that knows nanomsg.
 *
 * One socket a client; nanomsg allows several threads on it and brings worker threads of its own. It connects in the
 * background and connects again when the daemon's front was restarted; until then it takes nothing. A frame that it
 * took may still be lost with the connection; the daemon notices by the sequence number in SETTLE. */
#include <errno.h>
#include <nanomsg/nn.h>
#include <nanomsg/pipeline.h>
#include <stdio.h>

#include "internal.h"

#define PUSH_RECONNECT_MS 5
#define PUSH_RECONNECT_MAX_MS 100

int scissor__push_open(const char *directory, int *ret_socket) {
    char url[NN_SOCKADDR_MAX];
    int length = snprintf(url, sizeof url, "ipc://%s/%s", directory, PROTO_SCORE_SOCKET);
    if (length < 0 || (size_t)length >= sizeof url)
        return SCISSOR_EINVAL;
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

void scissor__push_close(int socket) {
    if (socket >= 0)
        nn_close(socket);
}

bool scissor__push_send(int socket, const void *frame, size_t size, uint64_t deadline) {
    for (;;) {
        if (nn_send(socket, frame, size, NN_DONTWAIT) >= 0)
            return true;
        if (errno != EAGAIN && errno != EINTR)
            return false;
        uint64_t now = scissor__now();
        if (now >= deadline)
            return false;
        struct nn_pollfd poll = {.fd = socket, .events = NN_POLLOUT};
        nn_poll(&poll, 1, (int)((deadline - now + 999999) / 1000000));
    }
}
