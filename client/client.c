/* client.c - the connection: where the daemon is, HELLO, and the end.
 *
 * A client object is complete or it is not there: scissor_connect() takes everything it needs (socket, buffers, the
 * nanomsg socket) before it gives one out. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define SCORE_FRAME_MIN 4096u

static _Thread_local char connect_text[PROTO_TEXT_BYTES];

const char *scissor_version(void) {
    return SCISSOR_VERSION;
}

static int find_directory(const char *given, char *ret, size_t bytes) {
    const char *own = getenv("SCISSORD_DIR"), *runtime = getenv("XDG_RUNTIME_DIR");
    struct stat status;
    int length = 0;
    if (given || (own && *own)) {
        length = snprintf(ret, bytes, "%s", given ? given : own);
    } else {
        if (runtime && *runtime)
            length = snprintf(ret, bytes, "%s/scissord", runtime);
        if (length <= 0 || (size_t)length >= bytes || stat(ret, &status) < 0)
            length = snprintf(ret, bytes, "/run/scissord");
    }
    return length > 0 && (size_t)length < bytes ? 0 : SCISSOR_EINVAL;
}

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
    default:
        return SCISSOR_ESYSTEM;
    }
}

/* A full backlog is the only thing that a local connect waits for. */
static int connect_socket(struct scissor_client *client, const char *directory) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timespec pause = {0, 1000000};
    uint64_t deadline = scissor__now() + client->timeout_ms * (uint64_t)1000000u;
    int length = snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", directory, PROTO_ATTACH_SOCKET);
    if (length < 0 || (size_t)length >= sizeof address.sun_path) {
        snprintf(connect_text, sizeof connect_text, "the directory's name is too long for a socket address");
        return SCISSOR_EINVAL;
    }
    client->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (client->fd < 0)
        return SCISSOR_ESYSTEM;
    while (connect(client->fd, (struct sockaddr *)&address, sizeof address) < 0) {
        if (errno != EAGAIN && errno != EINTR) {
            snprintf(connect_text, sizeof connect_text, "%.120s: %s", address.sun_path, strerror(errno));
            return connect_code(errno);
        }
        if (scissor__now() >= deadline)
            return SCISSOR_ETIMEDOUT;
        nanosleep(&pause, NULL);
    }
    return 0;
}

static int say_hello(struct scissor_client *client) {
    struct proto_hello hello = {
        .major = PROTO_VERSION_MAJOR, .minor = PROTO_VERSION_MINOR, .capabilities = PROTO_CAP_HOST};
    struct client_call call = {.answer = PROTO_WELCOME};
    proto_text_set(hello.name, sizeof hello.name, program_invocation_short_name);
    pthread_mutex_lock(&client->lock);
    int r = scissor__client_call(client, &call, PROTO_HELLO, &hello, 0);
    pthread_mutex_unlock(&client->lock);
    const struct proto_welcome *w = &call.body.welcome;
    if (r) {
        memcpy(connect_text, client->text, sizeof connect_text);
        return r;
    }
    if (w->major != PROTO_VERSION_MAJOR) {
        snprintf(connect_text, sizeof connect_text, "the daemon speaks protocol %u.%u, this library %u.%u", w->major,
                 w->minor, PROTO_VERSION_MAJOR, PROTO_VERSION_MINOR);
        return SCISSOR_EVERSION;
    }
    if (!(w->capabilities & PROTO_CAP_HOST) || w->score_frame_max < SCORE_FRAME_MIN ||
        w->score_frame_max > PROTO_SCORE_MAX || w->score_socket >= PROTO_SCORE_SOCKETS ||
        !proto_text_valid(w->version, sizeof w->version))
        return SCISSOR_EPROTO;
    client->frame_max = w->score_frame_max;
    client->score_socket = w->score_socket;
    return 0;
}

static int init_lock(struct scissor_client *client) {
    pthread_condattr_t attributes;
    if (pthread_mutex_init(&client->lock, NULL))
        return SCISSOR_ENOMEM;
    if (pthread_condattr_init(&attributes))
        goto fail_attributes;
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    int r = pthread_cond_init(&client->news, &attributes);
    pthread_condattr_destroy(&attributes);
    if (r == 0)
        return 0;
fail_attributes:
    pthread_mutex_destroy(&client->lock);
    return SCISSOR_ENOMEM;
}

int scissor_connect(const char *directory, struct scissor_client **ret_client) {
    char path[128];
    connect_text[0] = 0;
    int r = find_directory(directory, path, sizeof path);
    if (r)
        return r;
    struct scissor_client *client = scissor_calloc(1, sizeof *client);
    if (!client)
        return SCISSOR_ENOMEM;
    client->fd = -1;
    client->timeout_ms = CLIENT_TIMEOUT_MS;
    client->backend = kernel_host_backend(NULL);
    client->packet = scissor_malloc(PROTO_ATTACH_MAX);
    r = !client->packet ? SCISSOR_ENOMEM : !client->backend ? SCISSOR_ESYSTEM : init_lock(client);
    if (r)
        goto fail_lock;
    r = connect_socket(client, path);
    if (!r)
        r = say_hello(client);
    if (!r)
        r = scissor__push_open(path, client->score_socket, &client->push);
    if (r) {
        int error = errno;
        scissor_disconnect(client);
        errno = error;
        return r;
    }
    *ret_client = client;
    return 0;

fail_lock:
    scissor_free(client->packet);
    scissor_free(client);
    return r;
}

void scissor_disconnect(struct scissor_client *client) {
    if (!client)
        return;
    /* Unmapped first: when the daemon sees the connection go, it takes the memory away. */
    while (client->sessions) {
        struct scissor_session *s = client->sessions;
        client->sessions = s->next;
        scissor__lease_give(s);
        scissor__session_free(s);
    }
    scissor__push_close(&client->push);
    if (client->fd >= 0)
        close(client->fd);
    pthread_cond_destroy(&client->news);
    pthread_mutex_destroy(&client->lock);
    scissor_free(client->packet);
    scissor_free(client);
}

void scissor_set_timeout(struct scissor_client *client, uint32_t timeout_ms) {
    pthread_mutex_lock(&client->lock);
    client->timeout_ms = timeout_ms;
    pthread_mutex_unlock(&client->lock);
}

const char *scissor_last_text(const struct scissor_client *client) {
    return client ? client->text : connect_text;
}
