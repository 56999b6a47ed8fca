/* fake_daemon.c - see fake_daemon.h. One thread; the test's own thread takes the lock when it looks in. */
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

#include "scissor_error.h"

/* ---------- packets ---------- */

static void deliver(struct fake *f, struct fake_packet *p) {
    union {
        char bytes[CMSG_SPACE(PROTO_SEGMENTS_PER_MESSAGE * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec data = {p->bytes, p->size};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    if (p->fd_count > 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(p->fd_count * sizeof(int));
        memset(control.bytes, 0, sizeof control.bytes);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(p->fd_count * sizeof(int));
        memcpy(CMSG_DATA(c), p->fds, p->fd_count * sizeof(int));
    }
    if (f->connection >= 0)
        sendmsg(f->connection, &message, MSG_NOSIGNAL);
    for (uint32_t i = 0; i < p->fd_count; i++)
        close(p->fds[i]);
}

static void pass_on(struct fake *f, uint16_t type, struct fake_packet *p) {
    enum fake_verdict verdict = f->hook ? f->hook(f, type, p) : FAKE_SEND;
    if (verdict == FAKE_HOLD && !f->held) {
        f->held = p;
        return;
    }
    if (verdict != FAKE_SEND) {
        for (uint32_t i = 0; i < p->fd_count; i++)
            close(p->fds[i]);
    } else {
        deliver(f, p);
    }
    free(p);
}

static void send_with(struct fake *f, uint16_t type, uint32_t request, const void *body, const void *entries,
                      uint16_t count, const int *fds, uint32_t fd_count) {
    struct fake_packet *p = malloc(sizeof *p);
    p->size = proto_attach_write(p->bytes, sizeof p->bytes, type, request, body, entries, count);
    p->fd_count = fd_count;
    if (fd_count)
        memcpy(p->fds, fds, fd_count * sizeof *fds);
    pass_on(f, type, p);
}

static void send_failed(struct fake *f, uint32_t request, int code, const char *text) {
    struct proto_failed failed = {.code = code};
    proto_text_set(failed.text, sizeof failed.text, text);
    send_with(f, PROTO_FAILED, request, &failed, NULL, 0, NULL, 0);
}

/* ---------- sessions ---------- */

static struct fake_session *find(struct fake *f, uint64_t id) {
    for (int i = 0; i < FAKE_SESSIONS; i++)
        if (id && f->sessions[i].id == id)
            return &f->sessions[i];
    return NULL;
}

static void end_session(struct fake *f, struct fake_session *s) {
    for (uint32_t i = 0; i < FAKE_SEGMENTS; i++)
        f->backend->segment_free(f->backend, s->segments[i]);
    f->backend->segment_free(f->backend, s->control_segment);
    f->backend->segment_free(f->backend, s->lease_segment);
    free(s->own);
    memset(s, 0, sizeof *s);
}

static uint32_t pages_max(const struct fake_session *s, uint32_t group) {
    return layout_pages_of_rows(s->shape.groups[group].max_rows - s->shape.fresh_rows);
}

static uint32_t heads_of(const struct fake_session *s, uint32_t group) {
    return s->shape.groups[group].layers * s->shape.groups[group].kv_heads;
}

static uint32_t *words_in(const struct fake_session *s, uint32_t *words, uint32_t head) {
    for (uint32_t g = 0; g < s->shape.group_count; g++)
        for (uint32_t h = 0; h < heads_of(s, g); h++, words += proto_control_head_words(pages_max(s, g)))
            if (head-- == 0)
                return words;
    return NULL;
}

uint32_t *fake_head_words(struct fake_session *s, uint32_t head) {
    return words_in(s, (uint32_t *)(s->control + 1), head);
}

/* The fake's own copy, which a test that scribbles on the page does not touch. */
static uint32_t *own_words(struct fake_session *s, uint32_t head) {
    return words_in(s, s->own, head);
}

static void publish(struct fake_session *s) {
    memcpy(s->control + 1, s->own, s->own_bytes);
    __atomic_add_fetch(&s->control->generation, 1, __ATOMIC_RELEASE);
}

/* A segment under the lowest free id; sends it. */
static uint32_t add_segment(struct fake *f, struct fake_session *s, uint32_t request, uint32_t kind) {
    uint32_t id = 0;
    struct kernel_handle handle;
    while (s->segments[id])
        id++;
    f->backend->segment_new(f->backend, kind == PROTO_SEGMENT_FRESH ? KERNEL_ACCESS_FRESH : KERNEL_ACCESS_SETTLED,
                            SCISSOR_SEGMENT_BYTES, &s->segments[id]);
    f->backend->segment_export(f->backend, s->segments[id], &handle);
    struct proto_grow grow = {.session = s->id};
    struct proto_segment entry = {.id = id, .kind = kind, .bytes = SCISSOR_SEGMENT_BYTES};
    send_with(f, PROTO_GROW, request, &grow, &entry, 1, &handle.fd, 1);
    return id;
}

static void open_pages(struct fake *f, struct fake_session *s, int fds[2]) {
    struct kernel_handle handles[2];
    size_t bytes = sizeof *s->control;
    for (uint32_t g = 0; g < s->shape.group_count; g++)
        bytes += (size_t)heads_of(s, g) * proto_control_head_words(pages_max(s, g)) * 4;
    s->own_bytes = bytes - sizeof *s->control;
    s->own = calloc(1, s->own_bytes);
    bytes = (bytes + 4095) / 4096 * 4096;
    f->backend->segment_new(f->backend, KERNEL_ACCESS_SETTLED, bytes, &s->control_segment);
    f->backend->segment_new(f->backend, KERNEL_ACCESS_FRESH, PROTO_LEASE_BYTES, &s->lease_segment);
    f->backend->segment_export(f->backend, s->control_segment, &handles[0]);
    f->backend->segment_export(f->backend, s->lease_segment, &handles[1]);
    s->control = f->backend->segment_address(s->control_segment);
    s->lease = f->backend->segment_address(s->lease_segment);
    s->control->magic = PROTO_CONTROL_MAGIC;
    s->control->head_count = s->heads;
    s->control->generation = 1;
    fds[0] = handles[0].fd;
    fds[1] = handles[1].fd;
}

static void handle_open(struct fake *f, uint32_t request, const struct proto_open *open) {
    struct fake_session *s = NULL;
    for (int i = FAKE_SESSIONS - 1; i >= 0; i--)
        s = f->sessions[i].id ? s : &f->sessions[i];
    if (f->refuse_open || !s) {
        send_failed(f, request, f->refuse_open ? f->refuse_open : SCISSOR_ELIMIT, "not today");
        return;
    }
    struct layout_fresh walk = {0, 0};
    int fds[2];
    memset(s, 0, sizeof *s);
    s->id = f->next_id++;
    s->shape = *open;
    memset(s->token, (int)s->id, sizeof s->token);
    for (uint32_t g = 0; g < open->group_count; g++) {
        for (uint32_t h = 0; h < heads_of(s, g); h++)
            layout_fresh_next(&walk, (uint32_t)kernel_dtype_size(open->compute_dtype), open->fresh_rows,
                              open->groups[g].head_dim);
        s->heads += heads_of(s, g);
    }
    s->fresh_segments = walk.segments;
    for (uint32_t i = 0; i < walk.segments; i++)
        add_segment(f, s, request, PROTO_SEGMENT_FRESH);
    open_pages(f, s, fds);
    struct proto_opened opened = {.session = s->id,
                                  .fresh_rows = open->fresh_rows,
                                  .fresh_segments = s->fresh_segments,
                                  .control_bytes = 0,
                                  .lease_bytes = PROTO_LEASE_BYTES};
    opened.control_bytes = (uint32_t)lseek(fds[0], 0, SEEK_END);
    memcpy(opened.token, s->token, sizeof s->token);
    memcpy(opened.groups, f->scores, sizeof opened.groups);
    send_with(f, PROTO_OPENED, request, &opened, NULL, 0, fds, 2);
}

static void add_page(struct fake *f, struct fake_session *s, uint32_t request, uint32_t group, uint32_t head) {
    const struct proto_group *g = &s->shape.groups[group];
    uint32_t per_segment = layout_pages_per_segment((uint32_t)kernel_dtype_size(s->shape.storage_dtype), g->head_dim);
    if (!s->last_segment[group] || s->next_page[group] == per_segment) {
        s->last_segment[group] = add_segment(f, s, request, PROTO_SEGMENT_SETTLED);
        s->next_page[group] = 0;
    }
    uint32_t *words = own_words(s, head);
    words[2 + words[1]++] = PROTO_PAGE(s->last_segment[group], s->next_page[group]++);
}

static void *page_address(struct fake *f, struct fake_session *s, uint32_t group, uint32_t page) {
    size_t bytes =
        layout_page_bytes((uint32_t)kernel_dtype_size(s->shape.storage_dtype), s->shape.groups[group].head_dim);
    char *base = f->backend->segment_address(s->segments[PROTO_PAGE_SEGMENT(page)]);
    return base + PROTO_PAGE_INDEX(page) * bytes;
}

static void settle_head(struct fake *f, struct fake_session *s, uint32_t group, uint32_t head, struct layout_place at,
                        uint32_t rows) {
    const struct proto_group *g = &s->shape.groups[group];
    void *pages[1024];
    struct kernel_move moves[PROTO_MAX_FRESH];
    uint32_t *words = own_words(s, head), slots = g->max_rows - s->shape.fresh_rows;
    for (uint32_t i = 0; i < words[1]; i++)
        pages[i] = page_address(f, s, group, words[2 + i]);
    for (uint32_t r = 0; r < rows; r++)
        moves[r] = (struct kernel_move){r, (uint32_t)((s->tokens + r) % slots)};
    char *fresh = f->backend->segment_address(s->segments[at.segment]);
    struct kernel_settle item = {.fresh = fresh + at.offset,
                                 .pages = pages,
                                 .moves = moves,
                                 .move_count = rows,
                                 .fresh_rows = s->shape.fresh_rows,
                                 .head_dim = g->head_dim,
                                 .compute_dtype = (uint8_t)s->shape.compute_dtype,
                                 .storage_dtype = (uint8_t)s->shape.storage_dtype};
    f->backend->settle(f->backend, &item, 1);
}

static void handle_settle(struct fake *f, uint32_t request, const struct proto_settle *settle) {
    struct fake_session *s = find(f, settle->session);
    struct layout_fresh walk = {0, 0};
    uint64_t evicted = 0;
    if (!s || settle->rows == 0 || settle->rows > s->shape.fresh_rows) {
        send_failed(f, request, s ? SCISSOR_EINVAL : SCISSOR_ENOSESSION, "no");
        return;
    }
    for (uint32_t g = 0, head = 0; g < s->shape.group_count; g++) {
        uint32_t slots = s->shape.groups[g].max_rows - s->shape.fresh_rows;
        uint64_t after = s->tokens + settle->rows;
        s->settled[g] = after < slots ? (uint32_t)after : slots;
        for (uint32_t h = 0; h < heads_of(s, g); h++, head++) {
            struct layout_place at = layout_fresh_next(&walk, (uint32_t)kernel_dtype_size(s->shape.compute_dtype),
                                                       s->shape.fresh_rows, s->shape.groups[g].head_dim);
            while (own_words(s, head)[1] * SCISSOR_PAGE_ROWS < s->settled[g])
                add_page(f, s, request, g, head);
            settle_head(f, s, g, head, at, settle->rows);
            own_words(s, head)[0] = s->settled[g];
            evicted += after > slots ? (after - slots < settle->rows ? after - slots : settle->rows) : 0;
        }
    }
    s->tokens += settle->rows;
    s->settles++;
    s->score_sequence = settle->score_sequence;
    publish(s);
    struct proto_settled settled = {
        .session = s->id, .generation = s->control->generation, .evicted_rows = evicted, .scores_lost = f->lose_scores};
    send_with(f, PROTO_SETTLED, request, &settled, NULL, 0, NULL, 0);
}

static void handle_positions(struct fake *f, uint32_t request, const struct proto_positions *ask) {
    static struct proto_position entries[PROTO_POSITIONS_PER_MESSAGE];
    struct fake_session *s = find(f, ask->session);
    if (!s || ask->first_slot > s->settled[0]) {
        send_failed(f, request, SCISSOR_EINVAL, "no such slot");
        return;
    }
    uint32_t slots = s->shape.groups[0].max_rows - s->shape.fresh_rows, count = 0;
    for (uint32_t slot = ask->first_slot; slot < s->settled[0] && count < 50; slot++)
        entries[count++].position = (uint32_t)(s->tokens - 1 - (s->tokens - 1 - slot) % slots);
    struct proto_positions_are are = {s->id, s->settled[0], ask->first_slot};
    send_with(f, PROTO_POSITIONS_ARE, request, &are, entries, (uint16_t)count, NULL, 0);
}

static void handle(struct fake *f, const char *packet, size_t size) {
    const char *why;
    struct proto_header h;
    if (proto_attach_check(packet, size, 'C', &why) < 0) {
        send_failed(f, 0, SCISSOR_EPROTO, why);
        return;
    }
    memcpy(&h, packet, sizeof h);
    const void *body = proto_attach_body(packet);
    f->received[h.type]++;
    struct proto_welcome welcome = {.major = PROTO_VERSION_MAJOR,
                                    .capabilities = PROTO_CAP_HOST,
                                    .epoch = 1,
                                    .pool_count = 1,
                                    .score_frame_max = f->score_frame_max,
                                    .score_socket = f->score_socket,
                                    .version = "fake"};
    switch (h.type) {
    case PROTO_HELLO:
        send_with(f, PROTO_WELCOME, h.request, &welcome, NULL, 0, NULL, 0);
        break;
    case PROTO_OPEN:
        handle_open(f, h.request, body);
        break;
    case PROTO_SETTLE:
        handle_settle(f, h.request, body);
        break;
    case PROTO_POSITIONS:
        handle_positions(f, h.request, body);
        break;
    case PROTO_CLOSE: {
        const struct proto_close *close_body = body;
        struct fake_session *s = find(f, close_body->session);
        if (s)
            end_session(f, s);
        struct proto_closed closed = {.session = close_body->session};
        send_with(f, PROTO_CLOSED, h.request, &closed, NULL, 0, NULL, 0);
        break;
    }
    default: /* RELEASED has no answer */
        break;
    }
}

/* ---------- the thread ---------- */

static void close_connection(struct fake *f) {
    if (f->connection >= 0) {
        shutdown(f->connection, SHUT_RDWR); /* close() alone waits for the thread's poll() */
        close(f->connection);
    }
    f->connection = -1;
}

static void dig_up(struct fake *f) {
    while (f->buried_count > 0)
        end_session(f, &f->buried[--f->buried_count]);
}

/* The client has gone. */
static void drop_connection(struct fake *f) {
    close_connection(f);
    for (int i = 0; i < FAKE_SESSIONS; i++)
        if (f->sessions[i].id)
            end_session(f, &f->sessions[i]);
}

/* As if this daemon had died: memory that a client has mapped is not taken from it. */
static void die(struct fake *f) {
    close_connection(f);
    for (int i = 0; i < FAKE_SESSIONS; i++)
        if (f->sessions[i].id && f->buried_count < FAKE_SESSIONS) {
            f->buried[f->buried_count++] = f->sessions[i];
            memset(&f->sessions[i], 0, sizeof f->sessions[i]);
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
    if (f->hang_up_after == 0) {
        die(f);
        return;
    }
    if (f->hang_up_after > 0)
        f->hang_up_after--;
    handle(f, packet, (size_t)size);
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
        fds[2].fd = f->connection;
        pthread_mutex_unlock(&f->lock);
        poll(fds, 3, 20); /* the test may hang up meanwhile */
        if (fds[0].revents)
            return NULL;
        pthread_mutex_lock(&f->lock);
        if (fds[1].revents && f->connection < 0) {
            dig_up(f);
            f->connection = accept(f->listener, NULL, NULL);
            f->connections++;
        }
        if (fds[2].revents && f->connection == fds[2].fd)
            serve_connection(f);
        if (f->drain)
            drain_frames(f);
        pthread_mutex_unlock(&f->lock);
    }
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
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char url[128];
    snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", f->dir, PROTO_ATTACH_SOCKET);
    snprintf(url, sizeof url, "ipc://%s/" PROTO_SCORE_SOCKET_FORMAT, f->dir, 0);
    f->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    f->pull = nn_socket(AF_SP, NN_PULL);
    if (f->listener < 0 || f->pull < 0 || bind(f->listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(f->listener, 4) < 0 || nn_bind(f->pull, url) < 0 || pipe(f->wake) < 0)
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
        deliver(f, f->held);
        free(f->held);
    }
    close(f->listener);
    close(f->wake[0]);
    close(f->wake[1]);
    nn_close(f->pull);
    snprintf(path, sizeof path, "%s/%s", f->dir, PROTO_ATTACH_SOCKET);
    unlink(path);
    snprintf(path, sizeof path, "%s/" PROTO_SCORE_SOCKET_FORMAT, f->dir, 0);
    unlink(path);
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
    send_with(f, type, request, body, entries, count, NULL, 0);
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
        deliver(f, f->held);
    free(f->held);
    f->held = NULL;
    pthread_mutex_unlock(&f->lock);
}

void fake_hang_up(struct fake *f) {
    pthread_mutex_lock(&f->lock);
    die(f);
    pthread_mutex_unlock(&f->lock);
}

int fake_frame(struct fake *f, void *frame, size_t capacity, int timeout_ms) {
    nn_setsockopt(f->pull, NN_SOL_SOCKET, NN_RCVTIMEO, &timeout_ms, sizeof timeout_ms);
    int limit = (int)PROTO_SCORE_MAX;
    nn_setsockopt(f->pull, NN_SOL_SOCKET, NN_RCVMAXSIZE, &limit, sizeof limit);
    return nn_recv(f->pull, frame, capacity, 0);
}

void fake_cut(struct fake *f, struct fake_session *s, uint32_t rows) {
    pthread_mutex_lock(&f->lock);
    for (uint32_t h = 0; h < s->heads; h++) {
        uint32_t *words = own_words(s, h);
        if (words[0] > rows)
            words[0] = rows;
    }
    publish(s);
    pthread_mutex_unlock(&f->lock);
}
