/* hello.c - a new connection to the daemon: the socket, HELLO and what must be right in its answer. Used by
 * scissor_connect() for the first one and by recover.c for those after it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "internal.h"

#define SCORE_FRAME_MIN 4096u

/* What the reason of a connect() that failed says about the daemon. */
static int connect_code(int error) {
    switch (error) {
    case ENOENT:
    case ENOTDIR:
    case ECONNREFUSED:
    case EPROTOTYPE: /* another kind of socket has that name */
        return SCISSOR_ENODAEMON;
    case EACCES:
    case EPERM:
        return SCISSOR_EPERM;
    case EAGAIN: /* a full backlog is the only thing that a local connect waits for */
    case EINTR:
        return SCISSOR_ETIMEDOUT;
    default:
        return SCISSOR_ESYSTEM;
    }
}

int scissor__socket_open(struct scissor_client *client, int *ret_fd) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int length = snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", client->directory, PROTO_ATTACH_SOCKET);
    if (length < 0 || (size_t)length >= sizeof address.sun_path) {
        snprintf(client->text, sizeof client->text, "the directory's name is too long for a socket address");
        return SCISSOR_EINVAL;
    }
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return SCISSOR_ESYSTEM;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        int error = errno;
        snprintf(client->text, sizeof client->text, "%.120s: %s", address.sun_path, strerror(error));
        close(fd);
        errno = error;
        return connect_code(error);
    }
    *ret_fd = fd;
    return 0;
}

void scissor__client_adopt(struct scissor_client *client, int fd) {
    if (client->fd >= 0)
        close(client->fd);
    client->fd = fd;
    client->connection++;
    client->up = true;
}

int scissor__client_hello(struct scissor_client *client, uint64_t deadline) {
    struct proto_hello hello = {
        .major = PROTO_VERSION_MAJOR, .minor = PROTO_VERSION_MINOR, .capabilities = PROTO_CAP_HOST | PROTO_CAP_KEEP};
    hello.capabilities |= kernel_backend_has_cuda() ? PROTO_CAP_CUDA : 0;
    struct client_call call = {.answer = PROTO_WELCOME};
    proto_text_set(hello.name, sizeof hello.name, program_invocation_short_name);
    int r = scissor__client_call_once(client, &call, PROTO_HELLO, &hello, deadline);
    if (r)
        return r;
    const struct proto_welcome *w = &call.body.welcome;
    if (w->major != PROTO_VERSION_MAJOR) {
        snprintf(client->text, sizeof client->text, "the daemon speaks protocol %u.%u, this library %u.%u", w->major,
                 w->minor, PROTO_VERSION_MAJOR, PROTO_VERSION_MINOR);
        return SCISSOR_EVERSION;
    }
    if (!(w->capabilities & PROTO_CAP_HOST) || w->score_frame_max < SCORE_FRAME_MIN ||
        w->score_frame_max > PROTO_SCORE_MAX || w->score_socket >= PROTO_SCORE_SOCKETS ||
        !proto_text_valid(w->version, sizeof w->version))
        return SCISSOR_EPROTO;
    /* Sessions that are open have buffers for frames of the old size. */
    if (!client->frame_max || w->score_frame_max < client->frame_max)
        client->frame_max = w->score_frame_max;
    client->score_socket = w->score_socket;
    client->epoch = w->epoch;
    client->kept = w->capabilities & PROTO_CAP_KEEP;
    return 0;
}
