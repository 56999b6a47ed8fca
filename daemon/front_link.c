/* front_link.c - one front_run for each front process that lives or has just died.
 *
 * A run owns the daemon's ends: the ring, two eventfds, the link, three libuv handles. When the process has ended (its
 * exit is what counts, not the end of the link) the frames that it left in the ring are taken, the handles are closed
 * and the next front gets a run of its own with a new ring; a run is freed when its last handle has closed. */
#include "daemon/front_link.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "alloc.h"
#include "daemon/front.h"
#include "daemon/log.h"
#include "daemon/loop.h"
#include "score.h"

/* How much is taken from the ring before the loop looks at its other descriptors. */
#define FRONT_FRAMES_PER_TURN 32
#define FRONT_NS_PER_TURN 100000u

#define FRONT_REQUESTS_PER_TURN 16
#define FRONT_SHORT_LIFE_NS 1000000000u
#define FRONT_DELAY_MIN_MS 100
#define FRONT_DELAY_MAX_MS 2000

/* A front that is told to end and does not (it is stopped, say) is killed after that. */
#define FRONT_END_MS 1000

/* What is taken from a front that has ended: as much as an honest one can have left there. Who took it over may have
 * given the ring and the link to another process, which goes on writing. */
#define FRONT_LAST_FRAMES RING_RECORDS_MAX
#define FRONT_LAST_REQUESTS 256

struct front_answer {
    struct front_answer *next;
    uint64_t cookie;
    size_t size;
    char bytes[];
};

struct front_run {
    struct front_link *link;
    uv_process_t process;
    uv_poll_t frames_poll, socket_poll;
    int closing; /* handles that libuv still has to close */
    bool exited; /* the process has ended and its number means nothing any more */
    bool dead;   /* being taken down */
    int socket, frames_fd, room_fd;
    struct ring ring;
    uint64_t started;
    uint64_t asked;                     /* since when it owes a sign of life; 0: it does not */
    bool overdue;                       /* it is being ended for that */
    struct front_answer *first, **last; /* answers that wait for room in the link */
};

static void front_start(struct front_link *l);
static void front_on_socket(uv_poll_t *handle, int status, int events);

static void front_kill(struct front_run *run) {
    if (!run->exited)
        uv_process_kill(&run->process, SIGKILL);
}

/* ---------- frames ---------- */

static void front_signal(int eventfd) {
    uint64_t one = 1;
    ssize_t n = write(eventfd, &one, sizeof one);
    (void)n; /* only fails when it is signalled already */
}

static void front_fold_counts(struct front_run *run) {
    struct server *s = run->link->server;
    struct ring_counts counts = ring_take_counts(&run->ring);
    if (counts.malformed)
        broker_score_refused(s->broker, PROTO_FRAME_MALFORMED, counts.malformed);
    if (counts.overrun)
        broker_score_refused(s->broker, PROTO_FRAME_OVERRUN, counts.overrun);
}

/* Takes at most `most` frames, within about `most_ns`. 0: there may be more, RING_EMPTY, or -EBADMSG. */
static int front_take_frames(struct front_run *run, uint32_t most, uint64_t most_ns) {
    struct server *s = run->link->server;
    uint64_t begin = server_now(), now = begin;
    int r = 0;
    for (uint32_t i = 0; i < most && now - begin < most_ns; i++) {
        size_t size;
        bool wake = false;
        r = ring_pop(&run->ring, run->link->frame, &size, &wake);
        if (r != 0)
            break;
        if (wake)
            front_signal(run->room_fd);
        broker_score(s->broker, run->link->frame, size, now);
        server_pump(s);
        now = server_now();
    }
    front_fold_counts(run);
    return r;
}

/* The eventfd is cleared only when the ring is empty; as long as it is not, the next turn of the loop comes here. */
static void front_on_frames(uv_poll_t *handle, int status, int events) {
    struct front_run *run = handle->data;
    uint64_t count;
    (void)status;
    (void)events;
    int r = front_take_frames(run, FRONT_FRAMES_PER_TURN, FRONT_NS_PER_TURN);
    if (r == RING_EMPTY) {
        ssize_t n = read(run->frames_fd, &count, sizeof count);
        (void)n;
        front_fold_counts(run); /* what was counted since may have been told by the signal just cleared */
        if (!ring_is_empty(&run->ring))
            front_signal(run->frames_fd);
    } else if (r < 0 && !run->dead) {
        daemon_log(LOG_ERR, "the front wrote nonsense into the ring; it is ended");
        uv_poll_stop(&run->frames_poll);
        front_kill(run);
    }
}

/* ---------- the link ---------- */

static int front_tell(struct front_run *run, uint32_t type, uint64_t cookie, const void *bytes, size_t size) {
    struct front_message m = {.type = type, .size = (uint32_t)size, .cookie = cookie};
    struct iovec parts[2] = {{&m, sizeof m}, {(void *)bytes, size}};
    struct msghdr packet = {.msg_iov = parts, .msg_iovlen = 2};
    return sendmsg(run->socket, &packet, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

/* While answers wait, no more requests are taken: so few can wait. */
static void front_listen_to(struct front_run *run) {
    uv_poll_start(&run->socket_poll, run->first ? UV_WRITABLE : UV_READABLE, front_on_socket);
}

static void front_flush_answers(struct front_run *run) {
    for (struct front_answer *a; (a = run->first);) {
        if (front_tell(run, FRONT_ANSWER, a->cookie, a->bytes, a->size) == -EAGAIN)
            return;
        run->first = a->next;
        if (!run->first)
            run->last = &run->first;
        scissor_free(a);
    }
}

void front_link_answer(struct front_link *l, uint64_t cookie, const void *bytes, size_t size) {
    struct front_run *run = l->run;
    if (!run || size > FRONT_BYTES_MAX)
        return;
    if (!run->first && front_tell(run, FRONT_ANSWER, cookie, bytes, size) != -EAGAIN)
        return; /* sent, or the front is gone and whoever asked asks again */
    struct front_answer *a = scissor_malloc(sizeof *a + size);
    if (!a)
        return;
    *a = (struct front_answer){.cookie = cookie, .size = size};
    memcpy(a->bytes, bytes, size);
    *run->last = a;
    run->last = &a->next;
    front_listen_to(run);
}

void front_link_event(struct front_link *l, const void *bytes, size_t size) {
    if (l->run)
        front_tell(l->run, FRONT_EVENT, 0, bytes, size);
}

static void front_take_message(struct front_run *run, const struct front_message *m, const char *bytes, size_t size) {
    struct front_link *l = run->link;
    struct server *s = l->server;
    if (m->type == FRONT_READY && !l->ready_once) {
        l->ready_once = true;
        server_front_ready(s);
    } else if (m->type == FRONT_PONG) {
        run->asked = 0;
    } else if (m->type == FRONT_BROKEN) {
        daemon_log(LOG_ERR, "the front cannot start: %.*s", (int)size, bytes);
        l->broken = true; /* its end follows */
    } else if (m->type == FRONT_REQUEST) {
        broker_control(s->broker, bytes, size, m->cookie, server_now());
        server_pump(s);
    }
}

/* Takes one packet; false if there is none, or none may be taken now. */
static bool front_read(struct front_run *run) {
    /* Aligned behind the header, as the broker may look into a request in place. */
    static struct {
        struct front_message m;
        uint64_t bytes[FRONT_REQUEST_MAX / sizeof(uint64_t)];
    } packet;
    ssize_t n = recv(run->socket, &packet, sizeof packet, MSG_DONTWAIT);
    if (n < 0 && errno != ECONNRESET)
        return false;
    if (n < (ssize_t)sizeof packet.m || packet.m.size != (size_t)n - sizeof packet.m) {
        /* The end of the link is the end of the front, or will be: its exit is what counts. */
        uv_poll_stop(&run->socket_poll);
        front_kill(run);
        return false;
    }
    front_take_message(run, &packet.m, (const char *)packet.bytes, packet.m.size);
    return !run->dead && !run->first;
}

static void front_on_socket(uv_poll_t *handle, int status, int events) {
    struct front_run *run = handle->data;
    if (status == 0 && (events & UV_WRITABLE)) {
        front_flush_answers(run);
        front_listen_to(run);
        return;
    }
    for (int i = 0; i < FRONT_REQUESTS_PER_TURN && front_read(run); i++)
        ;
}

/* ---------- life and death ---------- */

static void front_on_closed(uv_handle_t *handle) {
    struct front_run *run = handle->data;
    if (--run->closing == 0)
        scissor_free(run);
}

/* Gives back all but the handles, which libuv closes later. */
static void front_run_deinit(struct front_run *run) {
    for (struct front_answer *a, *next = run->first; (a = next);) {
        next = a->next;
        scissor_free(a);
    }
    run->first = NULL;
    int fds[] = {run->socket, run->frames_fd, run->room_fd};
    for (size_t i = 0; i < 3; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    run->socket = run->frames_fd = run->room_fd = -1;
    ring_deinit(&run->ring);
}

static void front_run_close(struct front_run *run) {
    uv_handle_t *handles[] = {(uv_handle_t *)&run->process, (uv_handle_t *)&run->frames_poll,
                              (uv_handle_t *)&run->socket_poll};
    run->dead = true;
    for (size_t i = 0; i < 3; i++)
        if (handles[i]->data) { /* was initialised */
            run->closing++;
            uv_close(handles[i], front_on_closed);
        }
    front_run_deinit(run);
    if (run->closing == 0)
        scissor_free(run);
}

static void front_on_restart(uv_timer_t *timer) {
    front_start(timer->data);
}

/* A front that lived for a while is replaced at once, one that did not after a pause that grows. */
static void front_restart(struct front_link *l, uint64_t lived_ns) {
    if (lived_ns >= FRONT_SHORT_LIFE_NS)
        l->delay_ms = 0;
    uint64_t delay = l->delay_ms;
    l->delay_ms = delay == 0 ? FRONT_DELAY_MIN_MS : delay * 2 > FRONT_DELAY_MAX_MS ? FRONT_DELAY_MAX_MS : delay * 2;
    if (delay == 0)
        front_start(l);
    else
        uv_timer_start(&l->restart, front_on_restart, delay, 0);
}

static void front_on_exit(uv_process_t *process, int64_t status, int signal) {
    struct front_run *run = process->data;
    struct front_link *l = run->link;
    uint64_t lived = server_now() - run->started;
    run->exited = true;
    /* What it had said before it ended. */
    front_take_frames(run, FRONT_LAST_FRAMES, UINT64_MAX);
    for (int i = 0; i < FRONT_LAST_REQUESTS && front_read(run); i++)
        ;
    l->run = NULL;
    front_run_close(run);
    if (l->ending) {
        uv_close((uv_handle_t *)&l->restart, NULL);
        return;
    }
    if (!l->ready_once) {
        if (!l->broken)
            daemon_log(LOG_ERR, "the front ended before it was ready (status %" PRId64 ", signal %d)", status, signal);
        server_front_broken(l->server);
        return;
    }
    l->restarts++;
    if (signal)
        daemon_log(LOG_WARNING, "the front was ended by signal %d (%s) after %.1f s; restart %" PRIu64, signal,
                   strsignal(signal), (double)lived / 1e9, l->restarts);
    else
        daemon_log(LOG_WARNING, "the front ended with status %" PRId64 " after %.1f s; restart %" PRIu64, status,
                   (double)lived / 1e9, l->restarts);
    broker_front_restarted(l->server->broker, server_now());
    front_restart(l, lived);
    server_pump(l->server);
}

static int front_spawn(struct front_run *run, int far_socket, int ring_fd) {
    struct front_link *l = run->link;
    char *arguments[] = {"scissord", FRONT_ARGUMENT, (char *)l->dir, NULL};
    uv_stdio_container_t stdio[] = {
        {.flags = UV_IGNORE},
        {.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO},
        {.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO},
        [FRONT_FD_LINK] = {.flags = UV_INHERIT_FD, .data.fd = far_socket},
        [FRONT_FD_RING] = {.flags = UV_INHERIT_FD, .data.fd = ring_fd},
        [FRONT_FD_FRAMES] = {.flags = UV_INHERIT_FD, .data.fd = run->frames_fd},
        [FRONT_FD_ROOM] = {.flags = UV_INHERIT_FD, .data.fd = run->room_fd},
    };
    /* In a process group of its own: what the terminal sends to the daemon's must not end the front first. */
    uv_process_options_t options = {.file = "/proc/self/exe",
                                    .args = arguments,
                                    .stdio = stdio,
                                    .stdio_count = sizeof stdio / sizeof *stdio,
                                    .flags = UV_PROCESS_DETACHED,
                                    .exit_cb = front_on_exit};
    int r = uv_spawn(&l->server->loop, &run->process, &options);
    run->process.data = run; /* libuv has begun with the handle even on failure */
    return r;
}

/* Makes the daemon's ends and starts the process; *ret_far and *ret_ring are to be closed. */
static int front_open(struct front_run *run, int *ret_far, int *ret_ring) {
    struct front_link *l = run->link;
    int pair[2], r;
    run->frames_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    run->room_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (run->frames_fd < 0 || run->room_fd < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    run->socket = pair[0];
    *ret_far = pair[1];
    r = ring_new(&run->ring, ret_ring);
    if (r < 0)
        return r;
    r = uv_poll_init(&l->server->loop, &run->frames_poll, run->frames_fd);
    if (r < 0)
        return r;
    run->frames_poll.data = run;
    r = uv_poll_init(&l->server->loop, &run->socket_poll, run->socket);
    if (r < 0)
        return r;
    run->socket_poll.data = run;
    return front_spawn(run, *ret_far, *ret_ring);
}

static int front_try(struct front_link *l) {
    int far = -1, ring_fd = -1;
    struct front_run *run = scissor_calloc(1, sizeof *run);
    if (!run)
        return -ENOMEM;
    run->link = l;
    run->socket = run->frames_fd = run->room_fd = -1;
    run->last = &run->first;
    run->started = server_now();
    int r = front_open(run, &far, &ring_fd);
    if (far >= 0)
        close(far);
    if (ring_fd >= 0)
        close(ring_fd);
    if (r < 0) {
        front_run_close(run);
        return r;
    }
    uv_poll_start(&run->frames_poll, UV_READABLE, front_on_frames);
    front_listen_to(run);
    l->run = run;
    return 0;
}

/* A new front; if that fails, another try after a pause. */
static void front_start(struct front_link *l) {
    int r = front_try(l);
    if (r < 0) {
        daemon_log(LOG_ERR, "cannot start the front: %s", strerror(-r));
        front_restart(l, 0);
    }
}

int front_link_init(struct front_link *l, struct server *server, const char *dir) {
    *l = (struct front_link){.server = server, .dir = dir};
    uv_timer_init(&server->loop, &l->restart);
    l->restart.data = l;
    l->frame = scissor_malloc(PROTO_SCORE_MAX);
    return l->frame ? front_try(l) : -ENOMEM;
}

static void front_on_overdue(uv_timer_t *timer) {
    front_link_kill(timer->data);
}

/* It is asked again and again, as a link that is full takes no question. */
uint64_t front_link_check(struct front_link *l, uint64_t now, uint64_t patience_ns) {
    struct front_run *run = l->run;
    if (!run || l->ending)
        return 0;
    uint64_t silent = run->asked ? now - run->asked : 0;
    if (silent >= patience_ns && !run->overdue) {
        daemon_log(LOG_ERR, "the front has not answered for %.1f s; it is ended", (double)silent / 1e9);
        run->overdue = true;
        front_kill(run);
    } else if (!run->overdue) {
        front_tell(run, FRONT_PING, 0, NULL, 0);
        run->asked = run->asked ? run->asked : now;
    }
    return silent;
}

void front_link_deinit(struct front_link *l) {
    l->ending = true;
    if (!l->run) {
        uv_close((uv_handle_t *)&l->restart, NULL);
        return;
    }
    /* The front sees the end of its link and ends; front_on_exit() does the rest. */
    uv_poll_stop(&l->run->socket_poll);
    uv_poll_stop(&l->run->frames_poll);
    shutdown(l->run->socket, SHUT_RDWR);
    uv_timer_start(&l->restart, front_on_overdue, FRONT_END_MS, 0);
}

void front_link_free(struct front_link *l) {
    l->frame = scissor_free(l->frame);
}

void front_link_kill(struct front_link *l) {
    if (l->run)
        front_kill(l->run);
}
