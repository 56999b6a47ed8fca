/* watch.c - a thread for a client with sessions on a device, which closes memory that the daemon takes back.
 *
 * On the host the daemon takes memory away itself. A device's memory is free only when its importer has closed it, and
 * a session that rests makes no call by which it could: so this thread hears what the daemon says while nobody else
 * reads the socket, and closes what is condemned as soon as the session's work on the device is done; all of it, if the
 * operator has closed the session. Where a daemon has died, a device may be waiting for its work, and nobody knows for
 * how long: what the engine has closed by then is freed here, too. It blocks all signals, sleeps in poll() else, and is
 * there from the client's first device session until scissor_disconnect(). */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "device.h"
#include "internal.h"

#define BUSY_MS 5      /* between two looks at whether a step has ended and a device has done its work */
#define DETACHED_MS 50 /* between two looks at whether there is a connection again, or whether the reader has read */

bool scissor__watch_free(struct scissor_client *client) {
    for (struct scissor_session **at = &client->watch.leaving; *at;) {
        struct scissor_session *s = *at;
        if (!scissor__device_idle(s)) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        scissor__session_free(s);
    }
    return !client->watch.leaving;
}

/* A session that the operator has closed is the daemon's again when nothing of it is open and it hears so. The engine
 * finds out by its next call. True if that is still to come. */
static bool give_up(struct scissor_session *s) {
    struct proto_close close = {.session = s->id};
    if (s->absent)
        return false;
    if (s->busy || s->in_step || s->settle_request)
        return true;
    scissor__session_unmap(s);
    if (s->device->fence || !scissor__device_closed(s)) /* there is work yet, or the driver refuses */
        return true;
    s->absent = scissor__client_post(s->client, PROTO_CLOSE, &close, NULL, 0);
    return !s->absent;
}

static bool release(struct scissor_session *s) {
    if (s->failure == SCISSOR_ECLOSED)
        return give_up(s);
    if (s->failure)
        return false;
    scissor__session_release(s);
    return s->segments_condemned;
}

/* True if something stays to be closed. */
static bool release_all(struct scissor_client *client) {
    bool left = false;
    for (struct scissor_session *s = client->sessions; s; s = s->next)
        if (s->device && client->attached && !s->opening && !s->closing && !scissor__device_lost(s))
            left |= release(s);
    return left;
}

/* Sleeps until the daemon says something, or for `timeout_ms` (-1: for ever). The lock is given up. */
static void sleep_on_socket(struct scissor_client *client, int timeout_ms) {
    struct pollfd fds[2] = {{.fd = client->fd, .events = POLLIN}, {.fd = client->watch.wake, .events = POLLIN}};
    client->polling++;
    pthread_mutex_unlock(&client->lock);
    poll(fds, 2, timeout_ms);
    if (eventfd_read(client->watch.wake, &(eventfd_t){0}) < 0)
        (void)errno; /* nobody has woken it */
    pthread_mutex_lock(&client->lock);
    client->polling--;
    bool up = client->up;
    scissor__client_drain(client);
    if (!up || !client->up)
        pthread_cond_broadcast(&client->news);
}

static void *watch(void *data) {
    struct scissor_client *client = data;
    pthread_mutex_lock(&client->lock);
    while (!client->watch.end) {
        bool left = release_all(client), freed = scissor__watch_free(client);
        /* What is there to be read is the reader's, who says when it has read. */
        if (!client->up || client->reading)
            scissor__client_sleep(client, scissor__now() + DETACHED_MS * 1000000u);
        else
            sleep_on_socket(client, left ? BUSY_MS : freed ? -1 : DETACHED_MS);
    }
    pthread_mutex_unlock(&client->lock);
    return NULL;
}

int scissor__watch_start(struct scissor_client *client) {
    sigset_t all, before;
    if (client->watch.on)
        return 0;
    client->watch.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (client->watch.wake < 0)
        return SCISSOR_ESYSTEM;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&client->watch.thread, NULL, watch, client);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        close(client->watch.wake);
        errno = error;
        return error == EAGAIN ? SCISSOR_ENOMEM : SCISSOR_ESYSTEM;
    }
    client->watch.on = true;
    return 0;
}

static void wake(struct scissor_client *client) {
    if (eventfd_write(client->watch.wake, 1) < 0)
        (void)errno; /* full: then it wakes all the same */
    pthread_cond_broadcast(&client->news);
}

void scissor__watch_leave(struct scissor_session *s) {
    struct scissor_client *client = s->client;
    s->next = client->watch.leaving;
    client->watch.leaving = s;
    wake(client);
}

void scissor__watch_stop(struct scissor_client *client) {
    if (!client->watch.on)
        return;
    pthread_mutex_lock(&client->lock);
    client->watch.end = true;
    wake(client);
    pthread_mutex_unlock(&client->lock);
    pthread_join(client->watch.thread, NULL);
    close(client->watch.wake);
    client->watch.on = false;
}
