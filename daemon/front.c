/* front.c - the process that speaks nanomsg; the only file of the daemon that includes its headers.
 *
 * nanomsg aborts its process when a peer sends a frame with a wrong type byte, so it is kept away from the memory of
 * the sessions: this process holds none of it, nothing of it is inherited, and the daemon starts a new one when it
 * dies. One thread (besides nanomsg's own) polls them all:
 *
 *     scores.N.sock PULL         -> checked -> ring
 *     control.sock  REP, raw     -> link    -> answer with the header that came with the request
 *     events.sock   PUB          <- link
 *
 * Each score socket has an allowance and is not read beyond it: nanomsg then takes one more frame of each connection,
 * and the rest stays in the sender, who blocks. So a flood costs what the allowance of its socket costs, the frames on
 * the other sockets do not wait behind it, and this process holds a frame (1 MiB) for each connection at most.
 *
 * The REP socket is raw since a cooked one forgets a request when the next one comes. Nothing is forked here. */
#include "daemon/front.h"

#include <errno.h>
#include <malloc.h>
#include <nanomsg/nn.h>
#include <nanomsg/pipeline.h>
#include <nanomsg/pubsub.h>
#include <nanomsg/reqrep.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "daemon/ring.h"
#include "scissor_error.h"
#include "score.h"

#define FRONT_ROUNDS_PER_TURN 4 /* frames of one socket before the other descriptors are looked at */
#define FRONT_REQUESTS_PER_TURN 8
#define FRONT_ASKED_MAX 256     /* requests that wait for the daemon's answer */
#define FRONT_HEADER_MAX 128    /* bytes of a request's nanomsg header */
#define FRONT_FILES_MAX 4608    /* descriptors */
#define FRONT_ROOM_WAIT_MS 1000 /* after that a frame is dropped */

/* The allowance of a score socket: 4,000 frames and 128 MiB a second, and 250 ms of that (1,000 frames, 32 MiB) at
 * once. A client with thirty sessions that sends a frame at each of a hundred steps a second needs 3,000 frames, and
 * one that settles 64 rows of 90 heads with 832 slots sends 0.5 MiB; a flood that takes all of it costs a tenth of a
 * processor. A socket whose allowance is spent is looked at again when it has FRONT_PAUSE_NS of it, to wake up less
 * often. */
#define FRONT_FRAME_NS 250000u
#define FRONT_BYTES_PER_S (128ull << 20)
#define FRONT_BURST_NS 250000000u
#define FRONT_PAUSE_NS 4000000u

/* A request that was handed to the daemon: where its answer must go. */
struct front_asked {
    uint64_t cookie; /* 0: free */
    size_t size;
    uint8_t header[FRONT_HEADER_MAX];
};

struct front_source {
    int socket, fd;      /* nanomsg's; readable when there is a frame */
    uint64_t paid_until; /* ns: the frames taken so far are paid for then */
    uint64_t resume;     /* ns: it is not read before */
    bool ready;          /* in this turn */
};

struct front {
    struct ring ring;
    struct front_source scores[PROTO_SCORE_SOCKETS];
    uint32_t first;      /* source whose turn it is to be the first */
    int control, events; /* nanomsg sockets */
    int control_fd;      /* readable when there is a request */
    void *pending;       /* a frame that found the ring full */
    size_t pending_size;
    uint64_t pending_since; /* ns */
    uint64_t next_cookie;
    struct front_asked asked[FRONT_ASKED_MAX];
};

static uint64_t front_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* 0 or -1; the daemon always reads before it waits, so that a full link is passing and whoever asked asks again. */
static int front_tell(uint32_t type, uint64_t cookie, const void *bytes, size_t size) {
    struct front_message m = {.type = type, .size = (uint32_t)size, .cookie = cookie};
    struct iovec parts[2] = {{&m, sizeof m}, {(void *)bytes, size}};
    struct msghdr packet = {.msg_iov = parts, .msg_iovlen = size ? 2 : 1};
    return sendmsg(FRONT_FD_LINK, &packet, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -1 : 0;
}

/* ---------- scores ---------- */

static void front_signal(int eventfd) {
    uint64_t one = 1;
    ssize_t n = write(eventfd, &one, sizeof one); /* can only fail if it is signalled over and over already */
    (void)n;
}

/* False if the ring is full. */
static bool front_push(struct front *f, const void *frame, size_t size) {
    bool wake = false;
    if (ring_push(&f->ring, frame, size, &wake) == RING_FULL)
        return false;
    if (wake)
        front_signal(FRONT_FD_FRAMES);
    return true;
}

/* A frame costs time of sender, front and daemon, however small, and bytes cost more. */
static void front_pay(struct front_source *source, size_t size) {
    uint64_t now = front_now(), cost = size * 1000000000ull / FRONT_BYTES_PER_S;
    if (source->paid_until + FRONT_BURST_NS < now)
        source->paid_until = now - FRONT_BURST_NS;
    source->paid_until += cost > FRONT_FRAME_NS ? cost : FRONT_FRAME_NS;
    if (source->paid_until > now)
        source->resume = source->paid_until + FRONT_PAUSE_NS;
}

/* False: nothing more to do with this source now. */
static bool front_take_frame(struct front *f, struct front_source *source) {
    void *frame = NULL;
    const char *why;
    int size = nn_recv(source->socket, &frame, NN_MSG, NN_DONTWAIT);
    if (size < 0)
        return false;
    front_pay(source, (size_t)size);
    if (proto_score_check(frame, (size_t)size, &why) < 0) {
        ring_count_malformed(&f->ring);
        front_signal(FRONT_FD_FRAMES); /* the daemon takes the counts when it looks for frames */
    } else if (!front_push(f, frame, (size_t)size)) {
        f->pending = frame;
        f->pending_size = (size_t)size;
        f->pending_since = front_now();
        return false;
    }
    nn_freemsg(frame);
    return front_now() >= source->resume;
}

/* One frame of each source that has one, in turn, a few times over. */
static void front_take_frames(struct front *f) {
    f->first++;
    for (uint32_t i = 0; i < FRONT_ROUNDS_PER_TURN * PROTO_SCORE_SOCKETS && !f->pending; i++) {
        struct front_source *source = &f->scores[(f->first + i) % PROTO_SCORE_SOCKETS];
        source->ready = source->ready && front_take_frame(f, source);
    }
}

/* Tries to get rid of the frame that waits for room: true if there is none any more. */
static bool front_retry_pending(struct front *f) {
    if (!f->pending)
        return true;
    if (!front_push(f, f->pending, f->pending_size)) {
        if (front_now() - f->pending_since < FRONT_ROOM_WAIT_MS * 1000000ull)
            return false;
        ring_count_overrun(&f->ring);
        front_signal(FRONT_FD_FRAMES);
    }
    nn_freemsg(f->pending);
    f->pending = NULL;
    return true;
}

/* ---------- control ---------- */

static struct front_asked *front_asked_find(struct front *f, uint64_t cookie) {
    for (size_t i = 0; i < FRONT_ASKED_MAX; i++)
        if (f->asked[i].cookie == cookie)
            return &f->asked[i];
    return NULL;
}

static struct front_asked *front_asked_oldest(struct front *f) {
    struct front_asked *oldest = &f->asked[0];
    for (size_t i = 1; i < FRONT_ASKED_MAX; i++)
        if (f->asked[i].cookie < oldest->cookie)
            oldest = &f->asked[i];
    return oldest;
}

/* Hands a request on; the header that nanomsg put before it leads back to who asked. */
static void front_ask(struct front *f, const void *header, size_t header_size, const void *request, size_t size) {
    struct front_asked *a = front_asked_find(f, 0);
    if (!a) /* answers that never came: the oldest request is given up, or they would block this for ever */
        a = front_asked_oldest(f);
    if (header_size > sizeof a->header || size > FRONT_REQUEST_MAX)
        return;
    if (front_tell(FRONT_REQUEST, f->next_cookie, request, size) < 0)
        return;
    a->cookie = f->next_cookie++;
    a->size = header_size;
    memcpy(a->header, header, header_size);
}

static bool front_take_request(struct front *f) {
    void *request = NULL, *control = NULL;
    struct nn_iovec part = {&request, NN_MSG};
    struct nn_msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = NN_MSG};
    int size = nn_recvmsg(f->control, &message, NN_DONTWAIT);
    if (size < 0)
        return false;
    for (struct nn_cmsghdr *c = NN_CMSG_FIRSTHDR(&message); c; c = NN_CMSG_NXTHDR(&message, c))
        if (c->cmsg_level == PROTO_SP && c->cmsg_type == SP_HDR) {
            size_t header_size; /* the property is its size, then the header itself */
            memcpy(&header_size, NN_CMSG_DATA(c), sizeof header_size);
            front_ask(f, NN_CMSG_DATA(c) + sizeof header_size, header_size, request, (size_t)size);
            break;
        }
    nn_freemsg(request);
    if (control)
        nn_freemsg(control);
    return true;
}

static void front_answer(struct front *f, uint64_t cookie, const void *answer, size_t size) {
    struct front_asked *a = cookie ? front_asked_find(f, cookie) : NULL;
    if (!a)
        return;
    size_t space = NN_CMSG_SPACE(sizeof(size_t) + a->size);
    uint8_t control[NN_CMSG_SPACE(sizeof(size_t) + FRONT_HEADER_MAX)] __attribute__((aligned(8))) = {0};
    struct nn_iovec part = {(void *)answer, size};
    struct nn_msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = space};
    struct nn_cmsghdr *c = (struct nn_cmsghdr *)control;
    c->cmsg_len = space;
    c->cmsg_level = PROTO_SP;
    c->cmsg_type = SP_HDR;
    memcpy(NN_CMSG_DATA(c), &a->size, sizeof a->size);
    memcpy(NN_CMSG_DATA(c) + sizeof a->size, a->header, a->size);
    nn_sendmsg(f->control, &message, NN_DONTWAIT); /* who asked may be gone */
    a->cookie = 0;
}

/* One packet of the daemon; false when it is gone. */
static bool front_take_order(struct front *f) {
    static uint8_t packet[sizeof(struct front_message) + FRONT_BYTES_MAX];
    struct front_message m;
    ssize_t n = recv(FRONT_FD_LINK, packet, sizeof packet, MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    if ((size_t)n < sizeof m)
        return false;
    memcpy(&m, packet, sizeof m);
    if (m.type == FRONT_ANSWER)
        front_answer(f, m.cookie, packet + sizeof m, (size_t)n - sizeof m);
    else if (m.type == FRONT_PING)
        front_tell(FRONT_PONG, 0, NULL, 0);
    else if (m.type == FRONT_EVENT)
        nn_send(f->events, packet + sizeof m, (size_t)n - sizeof m, NN_DONTWAIT);
    return true;
}

/* ---------- the process ---------- */

static int front_broken(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int front_broken(const char *format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    front_tell(FRONT_BROKEN, 0, text, n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
    return -1;
}

/* A bound nanomsg socket, or -1 when the daemon has been told why not. */
static int front_bind(const char *dir, const char *name, int domain, int protocol, int receive_max) {
    char address[NN_SOCKADDR_MAX];
    int n = snprintf(address, sizeof address, "ipc://%s/%s", dir, name);
    if (n < 0 || (size_t)n >= sizeof address)
        return front_broken("%s/%s is too long for a socket's name", dir, name);
    /* Of a front that died. nanomsg would try it as well, but abort if it cannot. */
    const char *path = address + strlen("ipc://");
    if (unlink(path) < 0 && errno != ENOENT)
        return front_broken("%s is in the way: %s", path, strerror(errno));
    int socket = nn_socket(domain, protocol);
    if (socket < 0)
        return front_broken("nn_socket: %s", nn_strerror(nn_errno()));
    if (receive_max && nn_setsockopt(socket, NN_SOL_SOCKET, NN_RCVMAXSIZE, &receive_max, sizeof receive_max) < 0)
        return front_broken("NN_RCVMAXSIZE: %s", nn_strerror(nn_errno()));
    if (nn_bind(socket, address) < 0)
        return front_broken("%s: %s", address, nn_strerror(nn_errno()));
    return socket;
}

static int front_receive_fd(int socket) {
    int fd = -1;
    size_t size = sizeof fd;
    return nn_getsockopt(socket, NN_SOL_SOCKET, NN_RCVFD, &fd, &size) < 0 ? -1 : fd;
}

static int front_init(struct front *f, const char *dir) {
    int r = ring_attach(&f->ring, FRONT_FD_RING);
    if (r < 0)
        return front_broken("the ring: %s", strerror(-r));
    /* Cookies of a front that died must not fit. */
    if (getrandom(&f->next_cookie, sizeof f->next_cookie, 0) < 0)
        return front_broken("getrandom: %s", strerror(errno));
    f->next_cookie |= 1ull << 62;
    umask(0117); /* sockets: 0660 */
    for (uint32_t i = 0; i < PROTO_SCORE_SOCKETS; i++) {
        char name[sizeof PROTO_SCORE_SOCKET_FORMAT];
        snprintf(name, sizeof name, PROTO_SCORE_SOCKET_FORMAT, i % PROTO_SCORE_SOCKETS);
        f->scores[i].socket = front_bind(dir, name, AF_SP, NN_PULL, (int)PROTO_SCORE_MAX);
        if (f->scores[i].socket < 0)
            return -1;
        f->scores[i].fd = front_receive_fd(f->scores[i].socket);
        if (f->scores[i].fd < 0)
            return front_broken("nanomsg gives no descriptor to poll");
    }
    f->control = front_bind(dir, PROTO_CONTROL_SOCKET, AF_SP_RAW, NN_REP, 4096);
    f->events = f->control < 0 ? -1 : front_bind(dir, PROTO_EVENT_SOCKET, AF_SP, NN_PUB, 0);
    if (f->events < 0)
        return -1;
    f->control_fd = front_receive_fd(f->control);
    return f->control_fd < 0 ? front_broken("nanomsg gives no descriptor to poll") : 0;
}

#define FRONT_POLL_OTHERS 3 /* link, control, room in the ring; the score sockets follow */

/* What is to be polled for scores; gives the time until a socket that is not polled has an allowance again, or 0. */
static uint64_t front_poll_scores(const struct front *f, bool full, struct pollfd *fds) {
    uint64_t now = front_now(), sleep = full ? FRONT_ROOM_WAIT_MS * 250000ull : 0;
    for (uint32_t i = 0; i < PROTO_SCORE_SOCKETS; i++) {
        const struct front_source *source = &f->scores[i];
        bool spent = source->resume > now;
        fds[i] = (struct pollfd){full || spent ? -1 : source->fd, POLLIN, 0};
        if (!full && spent && (sleep == 0 || source->resume - now < sleep))
            sleep = source->resume - now;
    }
    return sleep;
}

/* Sleeps until there is something to do, and does it; false when the daemon is gone. A full ring stops the reading of
 * scores, not that of the others. */
static bool front_turn(struct front *f) {
    bool full = false;
    while (!full && !front_retry_pending(f))
        full = ring_wait_for_room(&f->ring);
    struct pollfd fds[FRONT_POLL_OTHERS + PROTO_SCORE_SOCKETS] = {
        {FRONT_FD_LINK, POLLIN, 0}, {f->control_fd, POLLIN, 0}, {full ? FRONT_FD_ROOM : -1, POLLIN, 0}};
    struct pollfd *scores = fds + FRONT_POLL_OTHERS;
    uint64_t sleep = front_poll_scores(f, full, scores);
    struct timespec timeout = {0, (long)sleep}; /* below a second */
    int n = ppoll(fds, sizeof fds / sizeof *fds, sleep ? &timeout : NULL, NULL);
    if (n <= 0)
        return n == 0 || errno == EINTR;
    if (fds[0].revents && !front_take_order(f))
        return false;
    for (int i = 0; fds[1].revents && i < FRONT_REQUESTS_PER_TURN && front_take_request(f); i++)
        ;
    if (fds[2].revents) {
        uint64_t count;
        ssize_t ignored = read(FRONT_FD_ROOM, &count, sizeof count);
        (void)ignored;
    }
    for (uint32_t i = 0; i < PROTO_SCORE_SOCKETS; i++)
        f->scores[i].ready = scores[i].revents != 0;
    front_take_frames(f);
    return true;
}

/* A connection may make this process hold a frame, so their number bounds its memory: as many as the daemon has peers,
 * and some for tools. */
static void front_limit_files(void) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0 || files.rlim_cur <= FRONT_FILES_MAX)
        return;
    files.rlim_cur = files.rlim_max = FRONT_FILES_MAX;
    setrlimit(RLIMIT_NOFILE, &files);
}

/* What this process need not have or must not do. */
static void front_confine(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NAME, "scissord-front");
    prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    front_limit_files();
    close_range(FRONT_FD_ROOM + 1, ~0u, 0); /* whatever the daemon had inherited without wanting it */
    /* It ends when the daemon wants it to: on the end of the link. */
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    /* Frames come and go in blocks of up to 1 MiB: without this each would be mapped, faulted in and unmapped. */
    mallopt(M_MMAP_THRESHOLD, 64 << 20);
    mallopt(M_TRIM_THRESHOLD, 128 << 20);
}

int front_main(const char *dir) {
    static struct front front;
    front_confine();
    int r = front_init(&front, dir);
    if (r == 0) {
        front_tell(FRONT_READY, 0, NULL, 0);
        while (front_turn(&front))
            ;
    }
    /* Without nn_close(): it would remove the sockets' files, which may by now be those of the next daemon. */
    return r < 0;
}
