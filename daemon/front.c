/* front.c - the process that speaks nanomsg; the only file of the daemon that includes its headers.
 *
 * nanomsg aborts its process when a peer sends a frame with a wrong type byte, so it is kept away from the memory of
 * the sessions: this process holds none of it, nothing of it is inherited, and the daemon starts a new one when it
 * dies. One thread (besides nanomsg's own) polls four descriptors:
 *
 *     scores.sock  PULL          -> checked -> ring
 *     control.sock REP, raw      -> link    -> answer with the header that came with the request
 *     events.sock  PUB           <- link
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

#define FRONT_FRAMES_PER_TURN 16
#define FRONT_REQUESTS_PER_TURN 8
#define FRONT_ASKED_MAX 256     /* requests that wait for the daemon's answer */
#define FRONT_HEADER_MAX 128    /* bytes of a request's nanomsg header */
#define FRONT_ROOM_WAIT_MS 1000 /* after that a frame is dropped */

/* What a frame costs, divided among the processors of the machine (two: 20,000 frames a second), and how much may be
 * taken at once. Large frames are slow enough by themselves. */
#define FRONT_FRAME_NS 100000u
#define FRONT_BURST_NS 20000000u

/* A request that was handed to the daemon: where its answer must go. */
struct front_asked {
    uint64_t cookie; /* 0: free */
    size_t size;
    uint8_t header[FRONT_HEADER_MAX];
};

struct front {
    struct ring ring;
    int scores, control, events; /* nanomsg sockets */
    int scores_fd, control_fd;   /* readable when there is something to receive */
    void *pending;               /* a frame that found the ring full */
    size_t pending_size;
    uint64_t pending_since; /* ns */
    uint64_t paid_until;    /* ns: the frames taken so far are paid for then */
    uint64_t cores;
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

/* How long scores must not be read, in ns. A frame costs time of sender, front and daemon, however small; without a
 * limit a flood of them would leave no processor to the others. Who sends more than is taken waits in nn_send(), and
 * PULL takes from all senders in turn. */
static uint64_t front_unpaid(const struct front *f, uint64_t now) {
    return f->paid_until > now ? f->paid_until - now : 0;
}

static void front_pay(struct front *f) {
    uint64_t now = front_now();
    if (f->paid_until + FRONT_BURST_NS < now)
        f->paid_until = now - FRONT_BURST_NS;
    f->paid_until += FRONT_FRAME_NS / f->cores;
}

/* False: nothing more to do now. */
static bool front_take_frame(struct front *f) {
    void *frame = NULL;
    const char *why;
    if (front_unpaid(f, front_now()))
        return false;
    int size = nn_recv(f->scores, &frame, NN_MSG, NN_DONTWAIT);
    if (size < 0)
        return false;
    front_pay(f);
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
    return true;
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

/* Hands a request on; the header that nanomsg put before it leads back to who asked. */
static void front_ask(struct front *f, const void *header, size_t header_size, const void *request, size_t size) {
    struct front_asked *a = front_asked_find(f, 0);
    if (!a || header_size > sizeof a->header || size > FRONT_REQUEST_MAX)
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
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int r = ring_attach(&f->ring, FRONT_FD_RING);
    f->cores = cores < 1 ? 1 : (uint64_t)cores;
    if (r < 0)
        return front_broken("the ring: %s", strerror(-r));
    /* Cookies of a front that died must not fit. */
    if (getrandom(&f->next_cookie, sizeof f->next_cookie, 0) < 0)
        return front_broken("getrandom: %s", strerror(errno));
    f->next_cookie |= 1ull << 62;
    umask(0117); /* sockets: 0660 */
    f->scores = front_bind(dir, PROTO_SCORE_SOCKET, AF_SP, NN_PULL, (int)PROTO_SCORE_MAX);
    f->control = f->scores < 0 ? -1 : front_bind(dir, PROTO_CONTROL_SOCKET, AF_SP_RAW, NN_REP, 4096);
    f->events = f->control < 0 ? -1 : front_bind(dir, PROTO_EVENT_SOCKET, AF_SP, NN_PUB, 0);
    if (f->events < 0)
        return -1;
    f->scores_fd = front_receive_fd(f->scores);
    f->control_fd = front_receive_fd(f->control);
    return f->scores_fd < 0 || f->control_fd < 0 ? front_broken("nanomsg gives no descriptor to poll") : 0;
}

/* Sleeps until there is something to do, and does it; false when the daemon is gone. A full ring stops the reading of
 * scores, not that of the others. */
static bool front_turn(struct front *f) {
    bool full = false;
    while (!full && !front_retry_pending(f))
        full = ring_wait_for_room(&f->ring);
    uint64_t unpaid = front_unpaid(f, front_now()), sleep = full ? FRONT_ROOM_WAIT_MS * 250000ull : unpaid;
    struct timespec timeout = {0, (long)sleep}; /* below a second */
    int frames_fd = full ? FRONT_FD_ROOM : unpaid ? -1 : f->scores_fd;
    struct pollfd fds[] = {{FRONT_FD_LINK, POLLIN, 0}, {f->control_fd, POLLIN, 0}, {frames_fd, POLLIN, 0}};
    int n = ppoll(fds, 3, sleep ? &timeout : NULL, NULL);
    if (n <= 0)
        return n == 0 || errno == EINTR;
    if (fds[0].revents && !front_take_order(f))
        return false;
    for (int i = 0; fds[1].revents && i < FRONT_REQUESTS_PER_TURN && front_take_request(f); i++)
        ;
    if (full && fds[2].revents) {
        uint64_t count;
        ssize_t ignored = read(FRONT_FD_ROOM, &count, sizeof count);
        (void)ignored;
    }
    for (int i = 0; !full && fds[2].revents && i < FRONT_FRAMES_PER_TURN && front_take_frame(f); i++)
        ;
    return true;
}

/* What this process need not have or must not do. */
static void front_confine(void) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NAME, "scissord-front");
    prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
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
    static struct front front = {.scores = -1, .control = -1, .events = -1};
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
