/* client.c - the client object: where the daemon is, the beginning and the end.
 *
 * A client object is complete or it is not there: scissor_connect() takes everything it needs (socket, buffers, the
 * nanomsg socket) before it gives one out. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "device.h"
#include "internal.h"

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

/* The first connection; there is no other thread yet, but what waits for an answer gives the lock up. */
static int connect_first(struct scissor_client *client) {
    struct timespec pause = {0, 1000000};
    uint64_t deadline = scissor__client_deadline(client);
    int fd, r;
    while ((r = scissor__socket_open(client, &fd)) == SCISSOR_ETIMEDOUT && scissor__now() < deadline)
        nanosleep(&pause, NULL);
    if (r)
        return r;
    pthread_mutex_lock(&client->lock);
    scissor__client_adopt(client, fd);
    r = scissor__client_hello(client, deadline);
    client->attached = r == 0 && client->up; /* its answer may be its last words */
    pthread_mutex_unlock(&client->lock);
    return r == CLIENT_LOST ? SCISSOR_EGONE : r;
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
    connect_text[0] = 0;
    struct scissor_client *client = scissor_calloc(1, sizeof *client);
    if (!client)
        return SCISSOR_ENOMEM;
    int r = find_directory(directory, client->directory, sizeof client->directory);
    if (r) {
        scissor_free(client);
        return r;
    }
    client->fd = -1;
    client->timeout_ms = CLIENT_TIMEOUT_MS;
    client->backend = kernel_host_backend(NULL);
    client->packet = scissor_malloc(PROTO_ATTACH_MAX);
    r = !client->packet ? SCISSOR_ENOMEM : !client->backend ? SCISSOR_ESYSTEM : init_lock(client);
    if (r)
        goto fail_lock;
    r = connect_first(client);
    if (!r)
        r = scissor__push_open(client->directory, client->score_socket, &client->push);
    if (r) {
        int error = errno;
        memcpy(connect_text, client->text, sizeof connect_text);
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

/* What a device is still at work on is left as it is: the process's end closes it, and until then it is nobody else's.
 */
static void end_session(struct scissor_session *s) {
    struct scissor_client *client = s->client;
    pthread_mutex_lock(&client->lock);
    bool idle = !s->device || scissor__device_drain(s, scissor__client_deadline(client)) == 0;
    pthread_mutex_unlock(&client->lock);
    scissor__lease_give(s);
    if (idle)
        scissor__session_free(s);
    client->devices_kept |= !idle;
}

void scissor_disconnect(struct scissor_client *client) {
    if (!client)
        return;
    scissor__watch_stop(client);
    /* Unmapped first: when the daemon sees the connection go, it takes the memory away. */
    while (client->sessions) {
        struct scissor_session *s = client->sessions;
        client->sessions = s->next;
        end_session(s);
    }
    client->devices_kept |= !scissor__watch_free(client);
    for (uint32_t i = 0; i < client->device_count && !client->devices_kept; i++)
        kernel_backend_close(client->devices[i]);
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

uint64_t scissor_epoch(struct scissor_client *client) {
    pthread_mutex_lock(&client->lock);
    uint64_t epoch = client->epoch;
    pthread_mutex_unlock(&client->lock);
    return epoch;
}

const char *scissor_last_text(const struct scissor_client *client) {
    return client ? client->text : connect_text;
}
