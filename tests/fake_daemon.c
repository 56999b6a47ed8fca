/* fake_daemon.c - the fake's life: its thread, its sockets, its deaths, and what a test does to it; see fake_daemon.h.
 * The test's own thread takes the lock when it looks in. */
#include "fake_daemon.h"

#include <errno.h>
#include <nanomsg/nn.h>
#include <nanomsg/pipeline.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fake_messages.h"

/* ---------- the thread ---------- */

static int start_listening(struct fake *f) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", f->dir, PROTO_ATTACH_SOCKET);
    f->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    return f->listener < 0 || bind(f->listener, (struct sockaddr *)&address, sizeof address) < 0 ||
                   listen(f->listener, 4) < 0
               ? -1
               : 0;
}

static void stop_listening(struct fake *f) {
    char path[128];
    close(f->listener);
    snprintf(path, sizeof path, "%s/%s", f->dir, PROTO_ATTACH_SOCKET);
    unlink(path);
}

static void close_connection(struct fake *f) {
    if (f->connection >= 0) {
        shutdown(f->connection, SHUT_RDWR); /* close() alone waits for the thread's poll() */
        close(f->connection);
    }
    f->connection = -1;
}

static void dig_up(struct fake *f) {
    while (f->buried_count > 0)
        fake_end_session(f, &f->buried[--f->buried_count]);
}

static void bury(struct fake *f, struct fake_session *s) {
    if (f->buried_count == FAKE_SESSIONS) {
        fake_end_session(f, &f->buried[0]);
        memmove(f->buried, f->buried + 1, --f->buried_count * sizeof *s);
    }
    f->buried[f->buried_count++] = *s;
    memset(s, 0, sizeof *s);
}

/* The client has gone, or has hung up: what it has open on a device must stay until it is gone, too. */
static void drop_connection(struct fake *f) {
    close_connection(f);
    for (int i = 0; i < FAKE_SESSIONS; i++)
        if (f->sessions[i].fence)
            bury(f, &f->sessions[i]);
        else if (f->sessions[i].id)
            fake_end_session(f, &f->sessions[i]);
}

/* As if this daemon had died: memory that a client has mapped is not taken from it. */
static void die(struct fake *f) {
    close_connection(f);
    for (int i = 0; i < FAKE_SESSIONS; i++)
        if (f->sessions[i].id)
            bury(f, &f->sessions[i]);
    f->dying = false;
    if (f->stay_away && !f->away) {
        stop_listening(f);
        f->away = true;
    }
}

static void serve_connection(struct fake *f) {
    static char packet[PROTO_ATTACH_MAX];
    ssize_t size = recv(f->connection, packet, sizeof packet, MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size <= 0) {
        drop_connection(f);
        return;
    }
    struct proto_header header = {0};
    memcpy(&header, packet, (size_t)size < sizeof header ? (size_t)size : sizeof header);
    bool before = f->die_before && header.type == f->die_before;
    if (f->hang_up_after == 0 || before) {
        f->die_before = before ? 0 : f->die_before;
        f->hang_up_after = before ? f->hang_up_after : -1;
        die(f);
        return;
    }
    if (f->hang_up_after > 0)
        f->hang_up_after--;
    fake_handle(f, packet, (size_t)size);
    if (f->dying)
        die(f);
}

static void drain_frames(struct fake *f) {
    void *frame;
    while (nn_recv(f->pull, &frame, NN_MSG, NN_DONTWAIT) >= 0)
        nn_freemsg(frame);
}

static void *run(void *data) {
    struct fake *f = data;
    for (;;) {
        struct pollfd fds[3] = {{f->wake[0], POLLIN, 0}, {f->listener, POLLIN, 0}, {-1, POLLIN, 0}};
        pthread_mutex_lock(&f->lock);
        fds[1].fd = f->away ? -1 : f->listener;
        fds[2].fd = f->deaf ? -1 : f->connection;
        pthread_mutex_unlock(&f->lock);
        poll(fds, 3, 20); /* the test may hang up meanwhile */
        if (fds[0].revents)
            return NULL;
        pthread_mutex_lock(&f->lock);
        if (fds[1].revents && f->connection < 0 && !f->away) {
            f->connection = accept(f->listener, NULL, NULL);
            f->connections++;
        }
        if (fds[2].revents && f->connection == fds[2].fd && !f->deaf)
            serve_connection(f);
        if (f->drain)
            drain_frames(f);
        if (f->fold)
            fake_read_frames(f, NULL, 0);
        pthread_mutex_unlock(&f->lock);
    }
}

/* Score sockets that the fake reads from: two, so that a client can be sent to the other one. */
static int bind_scores(struct fake *f) {
    char url[128];
    for (int number = 0; number <= 2; number += 2) {
        snprintf(url, sizeof url, "ipc://%s/" PROTO_SCORE_SOCKET_FORMAT, f->dir, number);
        if (nn_bind(f->pull, url) < 0)
            return -1;
    }
    int limit = (int)PROTO_SCORE_MAX;
    return nn_setsockopt(f->pull, NN_SOL_SOCKET, NN_RCVMAXSIZE, &limit, sizeof limit);
}

int fake_start(struct fake *f) {
    memset(f, 0, sizeof *f);
    const char *base = getenv("TMPDIR");
    snprintf(f->dir, sizeof f->dir, "%.40s/fakeXXXXXX", base && strlen(base) <= 40 ? base : "/tmp");
    if (!mkdtemp(f->dir))
        return -1;
    f->backend = kernel_host_backend(NULL);
    f->connection = -1;
    f->hang_up_after = -1;
    f->next_id = 11;
    f->score_frame_max = PROTO_SCORE_MAX;
    pthread_mutex_init(&f->lock, NULL);
    f->pull = nn_socket(AF_SP, NN_PULL);
    if (f->pull < 0 || start_listening(f) < 0 || bind_scores(f) < 0 || pipe(f->wake) < 0)
        return -1;
    return pthread_create(&f->thread, NULL, run, f) ? -1 : 0;
}

void fake_stop(struct fake *f) {
    char path[128];
    (void)!write(f->wake[1], "", 1);
    pthread_join(f->thread, NULL);
    drop_connection(f);
    dig_up(f);
    if (f->held) {
        f->connection = -1;
        fake_deliver(f, f->held);
        free(f->held);
    }
    if (!f->away)
        stop_listening(f);
    close(f->wake[0]);
    close(f->wake[1]);
    nn_close(f->pull);
    for (int number = 0; number <= 2; number += 2) {
        snprintf(path, sizeof path, "%s/" PROTO_SCORE_SOCKET_FORMAT, f->dir, number);
        unlink(path);
    }
    rmdir(f->dir);
    pthread_mutex_destroy(&f->lock);
}

/* ---------- for the test's thread ---------- */

void fake_set_hook(struct fake *f, enum fake_verdict (*hook)(struct fake *, uint16_t, struct fake_packet *)) {
    pthread_mutex_lock(&f->lock);
    f->hook = hook;
    pthread_mutex_unlock(&f->lock);
}

uint32_t fake_open_sessions(struct fake *f) {
    uint32_t count = 0;
    pthread_mutex_lock(&f->lock);
    for (int i = 0; i < FAKE_SESSIONS; i++)
        count += f->sessions[i].id != 0;
    pthread_mutex_unlock(&f->lock);
    return count;
}

struct fake_session *fake_session_at(struct fake *f, uint32_t index) {
    struct fake_session *s = &f->sessions[index];
    return s->id ? s : NULL;
}

void fake_send(struct fake *f, uint16_t type, uint32_t request, const void *body, const void *entries, uint16_t count) {
    pthread_mutex_lock(&f->lock);
    fake_send_with(f, type, request, body, entries, count, NULL, 0);
    pthread_mutex_unlock(&f->lock);
}

void fake_send_raw(struct fake *f, const void *bytes, size_t size) {
    pthread_mutex_lock(&f->lock);
    send(f->connection, bytes, size, MSG_NOSIGNAL);
    pthread_mutex_unlock(&f->lock);
}

void fake_send_held(struct fake *f) {
    pthread_mutex_lock(&f->lock);
    if (f->held)
        fake_deliver(f, f->held);
    free(f->held);
    f->held = NULL;
    pthread_mutex_unlock(&f->lock);
}

void fake_hang_up(struct fake *f) {
    pthread_mutex_lock(&f->lock);
    die(f);
    pthread_mutex_unlock(&f->lock);
}

void fake_set_away(struct fake *f, bool away) {
    pthread_mutex_lock(&f->lock);
    if (away && !f->away)
        stop_listening(f);
    if (!away && f->away)
        start_listening(f);
    f->away = away;
    pthread_mutex_unlock(&f->lock);
}

int fake_frame(struct fake *f, void *frame, size_t capacity, int timeout_ms) {
    nn_setsockopt(f->pull, NN_SOL_SOCKET, NN_RCVTIMEO, &timeout_ms, sizeof timeout_ms);
    return nn_recv(f->pull, frame, capacity, 0);
}

void fake_cut(struct fake *f, struct fake_session *s, uint32_t rows) {
    pthread_mutex_lock(&f->lock);
    for (uint32_t h = 0; h < s->heads; h++) {
        uint32_t *words = fake_own_words(s, h);
        if (words[0] > rows)
            words[0] = rows;
    }
    fake_publish(s);
    pthread_mutex_unlock(&f->lock);
}
