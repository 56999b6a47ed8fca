/* link.c - nanomsg REQ for requests, SUB for events. Opens nothing that the process does not close itself. */
#include "link.h"

#include <errno.h>
#include <nanomsg/nn.h>
#include <nanomsg/pubsub.h>
#include <nanomsg/reqrep.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "alloc.h"
#include "place.h"
#include "scissor_error.h"

static int set_int(int socket, int option, int value) {
    return nn_setsockopt(socket, NN_SOL_SOCKET, option, &value, sizeof value);
}

static int link_open(struct ctl_link *link, const char *directory, int protocol, const char *name) {
    *link = (struct ctl_link){.socket = -1, .directory = directory};
    int status = ctl_place_check(directory, name, true);
    if (status)
        return status;
    char url[512];
    snprintf(url, sizeof url, "ipc://%s/%s", directory, name);
    int socket = nn_socket(AF_SP, protocol);
    if (socket < 0)
        return ctl_fail(CTL_REFUSED, "cannot open a socket: %s", nn_strerror(nn_errno()));
    int wait = protocol == NN_SUB ? 1000 : CTL_TIMEOUT_MS;
    if (set_int(socket, NN_RCVTIMEO, wait) < 0 || set_int(socket, NN_RCVMAXSIZE, PROTO_ANSWER_MAX) < 0 ||
        (protocol == NN_REQ && set_int(socket, NN_SNDTIMEO, CTL_TIMEOUT_MS) < 0) ||
        (protocol == NN_SUB && nn_setsockopt(socket, NN_SUB, NN_SUB_SUBSCRIBE, "", 0) < 0) ||
        nn_connect(socket, url) < 0) {
        status = ctl_fail(CTL_REFUSED, "cannot connect to %s: %s", url, nn_strerror(nn_errno()));
        nn_close(socket);
        return status;
    }
    link->socket = socket;
    return CTL_DONE;
}

int ctl_link_open(struct ctl_link *link, const char *directory) {
    return link_open(link, directory, NN_REQ, PROTO_CONTROL_SOCKET);
}

int ctl_link_open_events(struct ctl_link *link, const char *directory) {
    return link_open(link, directory, NN_SUB, PROTO_EVENT_SOCKET);
}

void ctl_link_close(struct ctl_link *link) {
    if (link->socket >= 0)
        nn_close(link->socket);
    link->socket = -1;
}

int ctl_link_while_waiting(struct ctl_link *link, bool (*waiting)(void *data), void *data) {
    if (set_int(link->socket, NN_RCVTIMEO, CTL_SLICE_MS) < 0 || set_int(link->socket, NN_SNDTIMEO, CTL_SLICE_MS) < 0)
        return ctl_fail(CTL_REFUSED, "cannot set a time-out: %s", nn_strerror(nn_errno()));
    link->waiting = waiting;
    link->data = data;
    return CTL_DONE;
}

/* After a send or receive that did not work: whether to do it again. A signal does not end a wait, nor does the end of
 * a slice before the time is over. */
static bool link_again(struct ctl_link *link, int *slices) {
    if (nn_errno() == EINTR)
        return true;
    if (nn_errno() != ETIMEDOUT || !link->waiting || ++*slices >= CTL_TIMEOUT_MS / CTL_SLICE_MS)
        return false;
    bool on = link->waiting(link->data);
    errno = ETIMEDOUT;
    return on;
}

/* One request, one answer. ret_size > 0 afterwards. */
static int link_trip(struct ctl_link *link, const struct proto_request *request, void *answer, size_t *ret_size) {
    int sent, got, slices = 0;
    do
        sent = nn_send(link->socket, request, sizeof *request, 0);
    while (sent < 0 && link_again(link, &slices));
    if (sent < 0)
        return ctl_fail(CTL_REFUSED, "scissord takes no request at %s/%s: %s", link->directory, PROTO_CONTROL_SOCKET,
                        nn_strerror(nn_errno()));
    do
        got = nn_recv(link->socket, answer, PROTO_ANSWER_MAX, 0);
    while (got < 0 && link_again(link, &slices));
    if (got < 0 && nn_errno() == ETIMEDOUT)
        return ctl_fail(CTL_REFUSED, "scissord gave no answer within %d ms (%s/%s)", CTL_TIMEOUT_MS, link->directory,
                        PROTO_CONTROL_SOCKET);
    if (got < 0)
        return ctl_fail(CTL_REFUSED, "no answer from scissord: %s", nn_strerror(nn_errno()));
    *ret_size = (size_t)got;
    return CTL_DONE;
}

#define RETRY_MS 20

static bool may_be_asked_again(uint32_t op) {
    return op == PROTO_OP_POSITIONS || op == PROTO_OP_SET_BUDGET || op == PROTO_OP_SET_PRIORITY;
}

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* As link_trip(); of a session that settles it is asked again until the time is over. */
static int link_trip_settled(struct ctl_link *link, const struct proto_request *request, void *answer,
                             size_t *ret_size) {
    struct proto_answer head;
    uint64_t end = now_ms() + CTL_TIMEOUT_MS;
    for (;;) {
        int status = link_trip(link, request, answer, ret_size);
        if (status || !may_be_asked_again(request->op) || *ret_size < sizeof head)
            return status;
        memcpy(&head, answer, sizeof head);
        if (head.code != SCISSOR_ESTATE || now_ms() >= end)
            return status;
        nanosleep(&(struct timespec){0, RETRY_MS * 1000000}, NULL);
    }
}

/* Sends a request and adds the entries of its answer to *all. */
static int link_page(struct ctl_link *link, struct proto_request *request, void *buffer, struct ctl_answer *all) {
    const char *why;
    size_t size = 0;
    int status = link_trip_settled(link, request, buffer, &size);
    if (status)
        return status;
    /* What nn_recv() could not fit is cut, and says so by its size. */
    if (size > PROTO_ANSWER_MAX || proto_answer_check(buffer, size, request->op, &why) < 0)
        return ctl_fail(CTL_REFUSED,
                        "scissord's answer is not understood (another version of it? try `scissorctl version`)");
    memcpy(&all->head, buffer, sizeof all->head);
    if (all->head.code != SCISSOR_OK)
        return ctl_fail(CTL_REFUSED, "%s", all->head.text[0] ? all->head.text : scissor_strerror(all->head.code));
    size_t entry = proto_control_entry_bytes(request->op), more = all->head.count;
    if (!more)
        return CTL_DONE;
    void *entries = scissor_realloc(all->entries, (all->count + more) * entry);
    if (!entries)
        return ctl_fail(CTL_REFUSED, "out of memory");
    memcpy((char *)entries + all->count * entry, (const char *)buffer + sizeof all->head, more * entry);
    all->entries = entries;
    all->count += more;
    return CTL_DONE;
}

static int link_run(struct ctl_link *link, struct proto_request *request, struct ctl_answer *ret) {
    struct ctl_answer all = {.entries = NULL};
    void *buffer = scissor_malloc(PROTO_ANSWER_MAX);
    int status = buffer ? CTL_DONE : ctl_fail(CTL_REFUSED, "out of memory");
    while (status == CTL_DONE) {
        request->first = (uint32_t)all.count;
        status = link_page(link, request, buffer, &all);
        /* A list that grew shorter in between, or an empty page, ends it. */
        if (status || !all.head.count || all.count >= all.head.total)
            break;
    }
    scissor_free(buffer);
    if (status)
        ctl_answer_deinit(&all);
    else
        *ret = all;
    return status;
}

static struct proto_request link_request(uint32_t op, uint64_t session, const uint64_t value[3]) {
    struct proto_request request = {
        .magic = PROTO_REQUEST_MAGIC,
        .major = PROTO_VERSION_MAJOR,
        .minor = PROTO_VERSION_MINOR,
        .op = op,
        .session = session,
    };
    memcpy(request.value, value, sizeof request.value);
    return request;
}

static const uint64_t no_value[3];

int ctl_link_ask_about(struct ctl_link *link, uint32_t op, uint64_t session, const uint64_t value[3],
                       struct ctl_answer *ret) {
    struct proto_request request = link_request(op, session, value);
    return link_run(link, &request, ret);
}

int ctl_link_ask(struct ctl_link *link, uint32_t op, uint64_t session, struct ctl_answer *ret) {
    return ctl_link_ask_about(link, op, session, no_value, ret);
}

int ctl_link_change_to(struct ctl_link *link, uint32_t op, uint64_t session, const uint64_t value[3],
                       const uint8_t key[PROTO_TOKEN_BYTES], struct ctl_answer *ret) {
    struct proto_request request = link_request(op, session, value);
    memcpy(request.token, key, sizeof request.token);
    if (getrandom(&request.id, sizeof request.id, 0) != sizeof request.id)
        return ctl_fail(CTL_REFUSED, "no random numbers: %s", strerror(errno));
    return link_run(link, &request, ret);
}

int ctl_link_change(struct ctl_link *link, uint32_t op, uint64_t session, const uint8_t key[PROTO_TOKEN_BYTES],
                    struct ctl_answer *ret) {
    return ctl_link_change_to(link, op, session, no_value, key, ret);
}

void ctl_answer_deinit(struct ctl_answer *answer) {
    answer->entries = scissor_free(answer->entries);
    answer->count = 0;
}

int ctl_ask(const struct ctl *ctl, uint32_t op, uint64_t session, struct ctl_answer *ret) {
    struct ctl_link link;
    int status = ctl_link_open(&link, ctl->directory);
    if (status)
        return status;
    status = ctl_link_ask(&link, op, session, ret);
    ctl_link_close(&link);
    return status;
}

int ctl_link_event(struct ctl_link *link, struct proto_event *ret) {
    struct proto_event event;
    int got = nn_recv(link->socket, &event, sizeof event, 0);
    if (got < 0)
        return nn_errno() == ETIMEDOUT || nn_errno() == EINTR ? 0 : -1;
    if (proto_event_check(&event, (size_t)got) < 0)
        return -1;
    *ret = event;
    return 1;
}
