/* record.c - `scissorctl record`: a session's score frames and settles, as they happen, in a file (proto/trace.h).
 *
 * They come over the attach socket, where the kernel says who asks. What has been read is acknowledged packet by
 * packet: the daemon has a bounded number of bytes on their way, and never waits. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "json.h"
#include "live.h"
#include "out.h"
#include "pass.h"
#include "read.h"
#include "scissor_error.h"
#include "trace.h"

struct recording {
    int socket;
    FILE *file;
    const char *path;
    struct trace_shape shape;
    uint64_t session, next; /* number of the next record if none is lost */
    uint64_t settles, frames, lost, bytes;
    struct proto_recorded record; /* of the parts so far */
    uint32_t have;                /* bytes of it */
    char *bytes_of;               /* [TRACE_RECORD_MAX] */
    bool ended;
    int end; /* enum scissor_error: what END said */
};

static int not_understood(const char *why) {
    return ctl_fail(CTL_REFUSED, "scissord's answer is not understood: %s", why);
}

static int write_failed(const struct recording *r) {
    return ctl_fail(CTL_REFUSED, "%s: %s", r->path, strerror(errno));
}

static int write_record(struct recording *r, uint32_t type, uint64_t number, const void *bytes, uint32_t size) {
    if (trace_write(r->file, type, number, bytes, size) || (type == TRACE_STATE && fflush(r->file) != 0))
        return write_failed(r);
    r->bytes += size;
    return CTL_DONE;
}

/* ---------- what the daemon sends ---------- */

static int tell(const struct recording *r, uint16_t type, uint32_t request, const void *body) {
    char packet[128];
    size_t size = proto_attach_write(packet, sizeof packet, type, request, body, NULL, 0);
    ssize_t n;
    do
        n = send(r->socket, packet, size, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

static int take_record(struct recording *r) {
    const struct proto_recorded *record = &r->record;
    struct trace_state state;
    struct trace_end end;
    const char *why;
    if ((record->type == TRACE_SHAPE) != (r->next == 0))
        return not_understood("the shape is not the first record");
    if (trace_check(record->type, r->bytes_of, record->bytes, &r->shape, &why))
        return not_understood(why);
    r->lost += record->number - r->next;
    r->next = record->number + 1;
    if (record->type == TRACE_SHAPE) {
        memcpy(&r->shape, r->bytes_of, sizeof r->shape);
    } else if (record->type == TRACE_STATE) {
        memcpy(&state, r->bytes_of, sizeof state);
        r->settles += state.rows > 0;
    } else if (record->type == TRACE_FRAME) {
        r->frames++;
    } else {
        memcpy(&end, r->bytes_of, sizeof end);
        r->ended = true;
        r->end = end.code;
    }
    return write_record(r, record->type, record->number, r->bytes_of, record->bytes);
}

/* A record that was broken off, as the daemon had no memory for its end, is lost. */
static int take_part(struct recording *r, const struct proto_recorded *part, const void *bytes, uint32_t count) {
    if (part->offset == 0) {
        r->record = *part;
        r->have = 0;
    }
    if (part->session != r->session || part->number != r->record.number || part->type != r->record.type ||
        part->bytes != r->record.bytes || part->number < r->next)
        return not_understood("a part of another record");
    if (part->bytes > TRACE_RECORD_MAX || part->offset != r->have || count > part->bytes - r->have)
        return not_understood("a record whose parts do not fit together");
    memcpy(r->bytes_of + r->have, bytes, count);
    r->have += count;
    struct proto_record_read read = {.session = r->session, .bytes = count};
    tell(r, PROTO_RECORD_READ, 0, &read); /* a daemon that is gone is noticed by reading */
    return r->have == part->bytes ? take_record(r) : CTL_DONE;
}

/* Takes one packet. */
static int take_packet(struct recording *r, const void *packet, size_t size) {
    struct proto_header header;
    struct proto_recorded part;
    const char *why;
    if (proto_attach_check(packet, size, 'D', &why) < 0)
        return not_understood(why);
    memcpy(&header, packet, sizeof header);
    if (header.type == PROTO_FAILED)
        return ctl_pass_failed(packet);
    if (header.type != PROTO_RECORDED)
        return not_understood("not a record");
    memcpy(&part, proto_attach_body(packet), sizeof part);
    return take_part(r, &part, proto_attach_entries(packet), header.count);
}

static int receive_all(struct ctl *ctl, struct recording *r) {
    static uint64_t packet[PROTO_ATTACH_MAX / sizeof(uint64_t)];
    int status = CTL_DONE;
    while (status == CTL_DONE && !r->ended && !ctl_live_over() && (!ctl->settles || r->settles < ctl->settles)) {
        ssize_t n = recv(r->socket, packet, sizeof packet, 0);
        if (n > 0) {
            status = take_packet(r, packet, (size_t)n);
        } else if (n == 0 || (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK)) {
            r->ended = true;
            r->end = SCISSOR_EGONE;
        }
    }
    return status;
}

/* ---------- beginning and end ---------- */

static int ask(struct recording *r) {
    const struct timeval patience = {.tv_sec = 1}; /* then it is looked whether a signal came */
    struct proto_record record = {.session = r->session};
    setsockopt(r->socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (tell(r, PROTO_RECORD, 3, &record) < 0)
        return ctl_fail(CTL_REFUSED, "scissord hung up");
    return trace_write_begin(r->file) ? write_failed(r) : CTL_DONE;
}

/* The end that the daemon did not tell. */
static int finish_file(struct recording *r, int status) {
    if (status == CTL_DONE && (!r->ended || r->end == SCISSOR_EGONE)) {
        struct trace_end end = {.code = r->end};
        status = write_record(r, TRACE_END, r->next, &end, sizeof end);
    }
    if (fclose(r->file) != 0 && status == CTL_DONE)
        status = write_failed(r);
    if (r->next == 0)
        remove(r->path); /* nothing came */
    return status;
}

static int show(const struct ctl *ctl, const struct recording *r) {
    if (ctl->json)
        return ctl_json_print(json_pack("{s:I, s:s, s:I, s:I, s:I, s:I, s:s}", "session", INT(r->session), "file",
                                        r->path, "settles", INT(r->settles), "frames", INT(r->frames), "lost_records",
                                        INT(r->lost), "record_bytes", INT(r->bytes), "end",
                                        r->end ? scissor_errname(r->end) : "OK"),
                              false);
    printf("%s: %llu settles and %llu score frames of session %llu, %llu records lost\n", r->path,
           (unsigned long long)r->settles, (unsigned long long)r->frames, (unsigned long long)r->session,
           (unsigned long long)r->lost);
    return CTL_DONE;
}

/* What there is has been written in each of these cases. */
static int judge_end(const struct recording *r) {
    if (r->end == SCISSOR_EGONE)
        return ctl_fail(CTL_REFUSED, "scissord went away; what was recorded until then is in %s", r->path);
    if (r->end == SCISSOR_ELIMIT)
        return ctl_fail(CTL_REFUSED,
                        "the session holds more rows than one record takes (%u bytes, 12 a row); begin when it is "
                        "young. What was recorded until then is in %s",
                        TRACE_RECORD_MAX, r->path);
    return CTL_DONE;
}

static int record(struct ctl *ctl, struct recording *r) {
    int status = ask(r);
    if (status == CTL_DONE)
        status = receive_all(ctl, r);
    status = finish_file(r, status);
    if (status == CTL_DONE)
        status = show(ctl, r);
    return status == CTL_DONE ? judge_end(r) : status;
}

static int find(struct ctl *ctl, uint64_t *ret_session) {
    struct ctl_link link;
    struct proto_session_stat session;
    int status = ctl_link_open(&link, ctl->directory);
    if (status)
        return status;
    status = ctl_session_ask(&link, ctl->argument, &session);
    ctl_link_close(&link);
    *ret_session = session.session;
    return status;
}

int ctl_record(struct ctl *ctl) {
    struct recording r = {.path = ctl->words[1]};
    struct ctl_pass pass;
    int status = find(ctl, &r.session);
    if (status)
        return status;
    status = ctl_pass_open(&pass, ctl->directory);
    if (status)
        return status;
    r.socket = pass.socket;
    r.bytes_of = malloc(TRACE_RECORD_MAX);
    r.file = r.bytes_of ? fopen(r.path, "wbx") : NULL;
    ctl_live_begin();
    status = !r.bytes_of ? ctl_fail(CTL_REFUSED, "out of memory") : r.file ? record(ctl, &r) : write_failed(&r);
    free(r.bytes_of);
    ctl_pass_close(&pass);
    return status;
}
