/* fake_messages.c - the sessions of the fake daemon and its answers to each message; see fake_daemon.h. All of it runs
 * with the fake's lock held. */
#include "fake_messages.h"

#include <nanomsg/nn.h>
#include <nanomsg/pipeline.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "scissor_error.h"

/* ---------- packets ---------- */

void fake_deliver(struct fake *f, struct fake_packet *p) {
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
    enum fake_verdict verdict = f->dying ? FAKE_DROP : f->hook ? f->hook(f, type, p) : FAKE_SEND;
    f->dying |= verdict == FAKE_DIE;
    if (verdict == FAKE_HOLD && !f->held) {
        f->held = p;
        return;
    }
    if (verdict != FAKE_SEND) {
        for (uint32_t i = 0; i < p->fd_count; i++)
            close(p->fds[i]);
    } else {
        fake_deliver(f, p);
    }
    free(p);
}

void fake_send_with(struct fake *f, uint16_t type, uint32_t request, const void *body, const void *entries,
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
    fake_send_with(f, PROTO_FAILED, request, &failed, NULL, 0, NULL, 0);
}

/* ---------- sessions ---------- */

static struct fake_session *find(struct fake *f, uint64_t id) {
    for (int i = 0; i < FAKE_SESSIONS; i++)
        if (id && f->sessions[i].id == id)
            return &f->sessions[i];
    return NULL;
}

static struct kernel_backend *segments_of(struct fake *f, const struct fake_session *s) {
    return s->fence ? f->device : f->backend;
}

void fake_end_session(struct fake *f, struct fake_session *s) {
    struct kernel_backend *b = segments_of(f, s);
    if (s->fence)
        b->streams->wait(b, b->streams->own(b));
    for (uint32_t i = 0; i < FAKE_SEGMENTS; i++)
        b->segment_free(b, s->segments[i]);
    if (s->fence)
        b->streams->fence_free(b, s->fence);
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

uint32_t *fake_own_words(struct fake_session *s, uint32_t head) {
    return words_in(s, s->own, head);
}

void fake_publish(struct fake_session *s) {
    memcpy(s->control + 1, s->own, s->own_bytes);
    __atomic_add_fetch(&s->control->generation, 1, __ATOMIC_RELEASE);
}

/* A segment under the lowest free id; sends it. */
static uint32_t add_segment(struct fake *f, struct fake_session *s, uint32_t request, uint32_t kind) {
    uint32_t id = 0;
    struct kernel_backend *b = segments_of(f, s);
    struct kernel_handle handle = {.fd = -1};
    while (s->segments[id])
        id++;
    b->segment_new(b, kind == PROTO_SEGMENT_FRESH ? KERNEL_ACCESS_FRESH : KERNEL_ACCESS_SETTLED, SCISSOR_SEGMENT_BYTES,
                   &s->segments[id]);
    b->segment_export(b, s->segments[id], &handle);
    struct proto_grow grow = {.session = s->id};
    struct proto_segment entry = {.id = id, .kind = kind, .bytes = SCISSOR_SEGMENT_BYTES};
    if (s->fence)
        memcpy(entry.handle, handle.opaque, sizeof entry.handle);
    fake_send_with(f, PROTO_GROW, request, &grow, &entry, 1, &handle.fd, s->fence ? 0 : 1);
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
    if (f->device)
        f->device->streams->fence_new(f->device, &s->fence);
    for (uint32_t i = 0; i < walk.segments; i++)
        add_segment(f, s, request, PROTO_SEGMENT_FRESH);
    open_pages(f, s, fds);
    struct proto_opened opened = {.session = s->id,
                                  .fresh_rows = open->fresh_rows,
                                  .fresh_segments = s->fresh_segments,
                                  .control_bytes = 0,
                                  .lease_bytes = PROTO_LEASE_BYTES,
                                  .device = "host"};
    opened.control_bytes = (uint32_t)lseek(fds[0], 0, SEEK_END);
    memcpy(opened.token, s->token, sizeof s->token);
    memcpy(opened.groups, f->scores, sizeof opened.groups);
    if (s->fence) {
        struct kernel_handle events[2];
        f->device->streams->fence_export(f->device, s->fence, events);
        proto_text_set(opened.device, sizeof opened.device, f->device->device);
        for (int i = 0; i < 2; i++)
            memcpy(opened.events[i], events[i].opaque, sizeof opened.events[i]);
    }
    fake_send_with(f, PROTO_OPENED, request, &opened, NULL, 0, fds, 2);
}

static void add_page(struct fake *f, struct fake_session *s, uint32_t request, uint32_t group, uint32_t head) {
    const struct proto_group *g = &s->shape.groups[group];
    uint32_t per_segment = layout_pages_per_segment(s->shape.storage_dtype, g->head_dim);
    if (!s->last_segment[group] || s->next_page[group] == per_segment) {
        s->last_segment[group] = add_segment(f, s, request, PROTO_SEGMENT_SETTLED);
        s->next_page[group] = 0;
    }
    uint32_t *words = fake_own_words(s, head);
    words[2 + words[1]++] = PROTO_PAGE(s->last_segment[group], s->next_page[group]++);
}

static void *page_address(struct fake *f, struct fake_session *s, uint32_t group, uint32_t page) {
    size_t bytes = layout_page_bytes(s->shape.storage_dtype, s->shape.groups[group].head_dim);
    char *base = segments_of(f, s)->segment_address(s->segments[PROTO_PAGE_SEGMENT(page)]);
    return base + PROTO_PAGE_INDEX(page) * bytes;
}

static void settle_head(struct fake *f, struct fake_session *s, uint32_t group, uint32_t head, struct layout_place at,
                        uint32_t rows) {
    const struct proto_group *g = &s->shape.groups[group];
    void *pages[1024];
    struct kernel_move moves[PROTO_MAX_FRESH];
    uint32_t *words = fake_own_words(s, head), slots = g->max_rows - s->shape.fresh_rows;
    for (uint32_t i = 0; i < words[1]; i++)
        pages[i] = page_address(f, s, group, words[2 + i]);
    for (uint32_t r = 0; r < rows; r++)
        moves[r] = (struct kernel_move){r, (uint32_t)((s->tokens + r) % slots)};
    struct kernel_backend *b = segments_of(f, s);
    char *fresh = b->segment_address(s->segments[at.segment]);
    struct kernel_settle item = {.fresh = fresh + at.offset,
                                 .pages = pages,
                                 .moves = moves,
                                 .move_count = rows,
                                 .fresh_rows = s->shape.fresh_rows,
                                 .head_dim = g->head_dim,
                                 .compute_dtype = (uint8_t)s->shape.compute_dtype,
                                 .storage_dtype = (uint8_t)s->shape.storage_dtype};
    b->settle(b, &item, 1);
}

/* ---------- scores ---------- */

/* Each head's probabilities are 1 together, for each row. */
static bool mass_is_right(const struct fake_session *s, const struct proto_score *score, const char *payload) {
    static float values[1 << 16];
    uint32_t slots = s->settled[0] + score->fresh;
    uint64_t bad = 0;
    for (uint32_t h = 0; h < score->layer_count * s->shape.groups[0].kv_heads; h++) {
        double sum = 0;
        for (uint32_t p = 0; p < PROTO_PLANE_COUNT; p++) {
            if (!(score->planes >> p & 1))
                continue;
            proto_score_decode(score->format[p], payload, slots, values, &bad);
            payload += proto_score_vector_bytes(score->format[p], slots);
            for (uint32_t i = 0; i < slots && p == 0; i++)
                sum += values[i];
        }
        if ((score->planes & PROTO_PLANE_MASS) && (sum < score->rows - 1e-3 || sum > score->rows + 1e-3))
            return false;
    }
    return bad == 0;
}

static void fold_frame(struct fake *f, const char *frame, size_t size) {
    struct proto_score score;
    const char *why;
    if (proto_score_check(frame, size, &why) < 0) {
        f->score_faults++;
        return;
    }
    memcpy(&score, frame, sizeof score);
    struct fake_session *s = find(f, score.session);
    if (!s || score.sequence <= s->frame_sequence) /* sent to the daemon that died */
        return;
    s->frame_sequence = score.sequence;
    f->score_faults += score.generation != s->control->generation || memcmp(score.token, s->token, 16) != 0 ||
                       !mass_is_right(s, &score, frame + sizeof score);
    for (uint32_t l = score.first_layer; l < score.first_layer + score.layer_count && l < FAKE_LAYERS; l++)
        s->period_rows[l] += score.rows;
}

/* Reads what has come, or waits for the settle's frames. */
void fake_read_frames(struct fake *f, const struct fake_session *s, uint64_t sequence) {
    static char frame[PROTO_SCORE_MAX];
    int patience = 3000, none = 0;
    for (;;) {
        bool wait = s && s->frame_sequence < sequence;
        nn_setsockopt(f->pull, NN_SOL_SOCKET, NN_RCVTIMEO, wait ? &patience : &none, sizeof patience);
        int size = nn_recv(f->pull, frame, sizeof frame, wait ? 0 : NN_DONTWAIT);
        if (size < 0) {
            f->score_faults += wait;
            return;
        }
        fold_frame(f, frame, (size_t)size);
    }
}

static void check_period(struct fake *f, struct fake_session *s, const struct proto_settle *settle) {
    fake_read_frames(f, s, settle->score_sequence);
    for (uint32_t l = 0; l < s->shape.groups[0].layers && l < FAKE_LAYERS; l++)
        f->score_faults += s->period_rows[l] != settle->rows;
    memset(s->period_rows, 0, sizeof s->period_rows);
}

static void handle_settle(struct fake *f, uint32_t request, const struct proto_settle *settle) {
    struct fake_session *s = find(f, settle->session);
    struct layout_fresh walk = {0, 0};
    uint64_t evicted = 0;
    if (!s || settle->rows == 0 || settle->rows > s->shape.fresh_rows) {
        send_failed(f, request, s ? SCISSOR_EINVAL : SCISSOR_ENOSESSION, "no");
        return;
    }
    if (f->refuse_settle) {
        send_failed(f, request, f->refuse_settle, "not today");
        return;
    }
    if (s->fence && f->device->streams->fence_wait(f->device, s->fence, false, 0) != 0) {
        send_failed(f, request, SCISSOR_ESTATE, "the step's work has not ended on the device");
        return;
    }
    if (f->fold)
        check_period(f, s, settle);
    for (uint32_t g = 0, head = 0; g < s->shape.group_count; g++) {
        uint32_t slots = s->shape.groups[g].max_rows - s->shape.fresh_rows;
        uint64_t after = s->tokens + settle->rows;
        s->settled[g] = after < slots ? (uint32_t)after : slots;
        for (uint32_t h = 0; h < heads_of(s, g); h++, head++) {
            struct layout_place at = layout_fresh_next(&walk, (uint32_t)kernel_dtype_size(s->shape.compute_dtype),
                                                       s->shape.fresh_rows, s->shape.groups[g].head_dim);
            while (fake_own_words(s, head)[1] * SCISSOR_PAGE_ROWS < s->settled[g])
                add_page(f, s, request, g, head);
            settle_head(f, s, g, head, at, settle->rows);
            fake_own_words(s, head)[0] = s->settled[g];
            evicted += after > slots ? (after - slots < settle->rows ? after - slots : settle->rows) : 0;
        }
    }
    if (s->fence)
        f->device->streams->fence_signal(f->device, s->fence, f->device->streams->own(f->device));
    s->tokens += settle->rows;
    s->settles++;
    s->score_sequence = settle->score_sequence;
    s->last_evicted = evicted;
    fake_publish(s);
    struct proto_settled settled = {
        .session = s->id, .generation = s->control->generation, .evicted_rows = evicted, .scores_lost = f->lose_scores};
    fake_send_with(f, PROTO_SETTLED, request, &settled, NULL, 0, NULL, 0);
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
    fake_send_with(f, PROTO_POSITIONS_ARE, request, &are, entries, (uint16_t)count, NULL, 0);
}

/* A daemon that was started anew takes the session out of what the one before had. */
static struct fake_session *take_over(struct fake *f, const struct proto_reattach *ask) {
    struct fake_session *free_one = NULL;
    for (int i = FAKE_SESSIONS - 1; i >= 0; i--)
        free_one = f->sessions[i].id ? free_one : &f->sessions[i];
    for (uint32_t i = 0; i < f->buried_count && free_one && f->keep; i++) {
        struct fake_session *s = &f->buried[i];
        if (s->id != ask->session || memcmp(s->token, ask->token, sizeof s->token) != 0)
            continue;
        *free_one = *s;
        memmove(s, s + 1, (--f->buried_count - i) * sizeof *s);
        memset(free_one->period_rows, 0, sizeof free_one->period_rows);
        free_one->frame_sequence = ask->score_sequence;
        uint32_t its = PROTO_LEASE_DAEMON;
        __atomic_compare_exchange_n(&free_one->lease->word, &its, PROTO_LEASE_FREE, false, __ATOMIC_RELEASE,
                                    __ATOMIC_RELAXED);
        return free_one;
    }
    return NULL;
}

static void handle_reattach(struct fake *f, uint32_t request, const struct proto_reattach *ask) {
    struct fake_session *s = take_over(f, ask);
    if (!s) {
        send_failed(f, request, SCISSOR_ERESTARTED, "");
        return;
    }
    struct proto_reattached reattached = {.session = s->id,
                                          .generation = s->control->generation,
                                          .tokens_seen = s->tokens,
                                          .evicted_rows = s->last_evicted,
                                          .scores_lost = f->lose_scores};
    struct proto_grow grow = {.session = s->id};
    for (uint32_t id = 0; id < FAKE_SEGMENTS;) {
        struct proto_segment entries[4] = {0};
        int fds[4];
        uint16_t count = 0;
        for (; id < FAKE_SEGMENTS && count < 4; id++) {
            struct kernel_handle handle;
            if (!s->segments[id])
                continue;
            f->backend->segment_export(f->backend, s->segments[id], &handle);
            fds[count] = handle.fd;
            entries[count++] =
                (struct proto_segment){.id = id,
                                       .kind = id < s->fresh_segments ? PROTO_SEGMENT_FRESH : PROTO_SEGMENT_SETTLED,
                                       .bytes = SCISSOR_SEGMENT_BYTES};
        }
        reattached.segments += count;
        if (count > 0)
            fake_send_with(f, PROTO_GROW, request, &grow, entries, count, fds, count);
    }
    fake_send_with(f, PROTO_REATTACHED, request, &reattached, NULL, 0, NULL, 0);
}

void fake_handle(struct fake *f, const char *packet, size_t size) {
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
                                    .capabilities = PROTO_CAP_HOST | (f->keep ? PROTO_CAP_KEEP : 0),
                                    .epoch = 1,
                                    .pool_count = 1,
                                    .score_frame_max = f->score_frame_max,
                                    .score_socket = f->score_socket,
                                    .version = "fake"};
    switch (h.type) {
    case PROTO_HELLO:
        f->capabilities = ((const struct proto_hello *)body)->capabilities;
        fake_send_with(f, PROTO_WELCOME, h.request, &welcome, NULL, 0, NULL, 0);
        break;
    case PROTO_OPEN:
        handle_open(f, h.request, body);
        break;
    case PROTO_SETTLE:
        handle_settle(f, h.request, body);
        break;
    case PROTO_REATTACH:
        handle_reattach(f, h.request, body);
        break;
    case PROTO_POSITIONS:
        handle_positions(f, h.request, body);
        break;
    case PROTO_CLOSE: {
        const struct proto_close *close_body = body;
        struct fake_session *s = find(f, close_body->session);
        if (!s) {
            send_failed(f, h.request, SCISSOR_ENOSESSION, "no such session");
            break;
        }
        fake_end_session(f, s);
        struct proto_closed closed = {.session = close_body->session};
        fake_send_with(f, PROTO_CLOSED, h.request, &closed, NULL, 0, NULL, 0);
        break;
    }
    default: /* RELEASED has no answer */
        break;
    }
}
