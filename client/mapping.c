/* mapping.c - a session's memory as this process sees it: segments, the control page, addresses of pages.
 *
 * All tables are taken when the session is opened, for the largest budget that it asked for, so that nothing needs
 * memory when segments come and go; pages that were never touched cost nothing. A segment that cannot be mapped keeps
 * its descriptor, and the next step tries again: this process may be short of memory, or the daemon has taken the
 * segment back already and the SHRINK that says so is still on its way. A segment that is taken back while a step is
 * open is unmapped when the step ends: the daemon has moved its rows away before the step began.
 *
 * Memory of a device comes without descriptors, and before OPENED has said which device: it is mapped then, later
 * segments when they come. The two pages are the host's always.
 *
 * A daemon that takes the session up names all of its segments anew. What is the same file stays mapped as it is; what
 * else the table had goes, after the step if one is open.
 *
 * The control page is read while the lease is held; each word is read once, checked, and only the copy is used. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device.h"
#include "internal.h"

static uint32_t load(const uint32_t *word) {
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

/* Segments that the session can have at once, doubled, as ids may have gaps while pages are on the move. */
static uint32_t count_segment_ids(const struct scissor_session *s) {
    uint64_t ids = s->fresh_segments;
    for (uint32_t i = 0; i < s->group_count; i++) {
        const struct client_group *g = &s->groups[i];
        uint64_t pages = (uint64_t)g->layers * g->kv_heads * g->pages_max;
        ids += pages / g->pages_per_segment + 1;
    }
    ids = 2 * ids + 64;
    return ids < CLIENT_SEGMENT_IDS ? (uint32_t)ids : CLIENT_SEGMENT_IDS;
}

static void lay_out_groups(struct scissor_session *s, const struct proto_open *open) {
    struct layout_fresh walk = {0, 0};
    uint32_t compute = (uint32_t)kernel_dtype_size(s->compute_dtype);
    s->control_bytes = sizeof(struct proto_control);
    for (uint32_t i = 0; i < open->group_count; i++) {
        const struct proto_group *from = &open->groups[i];
        struct client_group *g = &s->groups[i];
        *g = (struct client_group){.layers = from->layers,
                                   .kv_heads = from->kv_heads,
                                   .q_heads = from->q_heads,
                                   .head_dim = from->head_dim,
                                   .first_layer = s->layer_count,
                                   .first_head = s->head_count,
                                   .settled_max = from->max_rows - s->fresh_rows,
                                   .pages_max = layout_pages_of_rows(from->max_rows - s->fresh_rows),
                                   .pages_per_segment = layout_pages_per_segment(s->storage_dtype, from->head_dim),
                                   .page_bytes = layout_page_bytes(s->storage_dtype, from->head_dim)};
        uint32_t heads = g->layers * g->kv_heads;
        for (uint32_t h = 0; h < heads; h++)
            layout_fresh_next(&walk, compute, s->fresh_rows, g->head_dim);
        s->control_bytes += (size_t)heads * proto_control_head_words(g->pages_max) * sizeof(uint32_t);
        s->layer_count += g->layers;
        s->head_count += heads;
    }
    s->fresh_segments = walk.segments;
    s->control_bytes = (s->control_bytes + 4095) / 4096 * 4096;
}

static void number_layers(struct scissor_session *s) {
    const void **pages = s->page_block;
    for (uint32_t i = 0; i < s->group_count; i++) {
        const struct client_group *g = &s->groups[i];
        for (uint32_t l = 0; l < g->layers; l++)
            s->layers[g->first_layer + l] =
                (struct client_layer){.group = i, .first_head = g->first_head + l * g->kv_heads};
        for (uint32_t h = 0; h < g->layers * g->kv_heads; h++, pages += g->pages_max)
            s->heads[g->first_head + h].pages = pages;
    }
}

struct scissor_session *scissor__session_new(struct scissor_client *client, const struct proto_open *open) {
    struct scissor_session *s = scissor_calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->client = client;
    s->backend = client->backend;
    s->generation = UINT64_MAX;
    s->compute_dtype = open->compute_dtype;
    s->storage_dtype = open->storage_dtype;
    s->fresh_rows = open->fresh_rows;
    s->group_count = open->group_count;
    lay_out_groups(s, open);
    s->segment_capacity = count_segment_ids(s);
    size_t pages = 0;
    for (uint32_t i = 0; i < s->group_count; i++)
        pages += (size_t)s->groups[i].layers * s->groups[i].kv_heads * s->groups[i].pages_max;
    s->layers = scissor_calloc(s->layer_count, sizeof *s->layers);
    s->heads = scissor_calloc(s->head_count, sizeof *s->heads);
    s->page_block = scissor_calloc(pages, sizeof *s->page_block);
    s->segments = scissor_calloc(s->segment_capacity, sizeof *s->segments);
    s->frame = scissor_malloc(client->frame_max);
    if (!s->layers || !s->heads || !s->page_block || !s->segments || !s->frame) {
        scissor__session_free(s);
        return NULL;
    }
    number_layers(s);
    return s;
}

static void segment_drop(struct scissor_session *s, struct client_segment *segment) {
    struct kernel_backend *backend = s->backend;
    segment->retired = backend->segment_free(backend, segment->retired);
    if (segment->memory)
        segment->memory = backend->segment_free(backend, segment->memory);
    else if (segment->handle.fd >= 0)
        close(segment->handle.fd);
    *segment = (struct client_segment){.handle.fd = -1};
    s->segment_count--;
}

void scissor__session_unmap(struct scissor_session *s) {
    struct kernel_backend *backend = s->client->backend;
    if (s->device && !scissor__device_idle(s))
        return;
    for (uint32_t id = 0; id < s->segment_capacity && s->segment_count > 0; id++)
        if (s->segments[id].used)
            segment_drop(s, &s->segments[id]);
    if (s->device)
        scissor__device_close(s);
    s->control_memory = backend->segment_free(backend, s->control_memory);
    s->lease_memory = backend->segment_free(backend, s->lease_memory);
    s->control = NULL;
    s->lease = NULL;
}

void scissor__session_free(struct scissor_session *s) {
    if (!s)
        return;
    if (s->segments)
        scissor__session_unmap(s);
    for (uint32_t i = 0; i < s->group_count; i++)
        scissor__planes_free(s, s->groups[i].plane_block);
    scissor__device_free(s);
    scissor_free(s->items);
    scissor_free(s->workspace);
    scissor_free(s->frame);
    scissor_free(s->segments);
    scissor_free(s->page_block);
    scissor_free(s->heads);
    scissor_free(s->layers);
    memset(s->token, 0, sizeof s->token);
    scissor_free(s);
}

/* 0, ENOMEM or EPROTO, or what scissor__device_fail() makes of it; then it stays pending. */
static int segment_map(struct scissor_session *s, struct client_segment *segment) {
    struct kernel_backend *backend = s->backend;
    enum kernel_access access = segment->kind == PROTO_SEGMENT_FRESH ? KERNEL_ACCESS_FRESH : KERNEL_ACCESS_SETTLED;
    int r = backend->segment_import(backend, access, &segment->handle, SCISSOR_SEGMENT_BYTES, &segment->memory);
    if (r == 0) {
        segment->handle.fd = -1;
        return 0;
    }
    if (s->device)
        return scissor__device_import_fail(s, r);
    return r == -ENOMEM || r == -EMFILE || r == -ENFILE ? SCISSOR_ENOMEM : SCISSOR_EPROTO;
}

static bool entry_valid(const struct scissor_session *s, const struct proto_segment *entry) {
    bool fresh = entry->id < s->fresh_segments;
    return entry->id < s->segment_capacity && entry->bytes == SCISSOR_SEGMENT_BYTES &&
           entry->kind == (fresh ? PROTO_SEGMENT_FRESH : PROTO_SEGMENT_SETTLED);
}

static void segment_add(struct scissor_session *s, const struct proto_segment *entry, const struct stat *file,
                        int *fd) {
    struct client_segment *segment = &s->segments[entry->id];
    *segment = (struct client_segment){.kind = (uint8_t)entry->kind,
                                       .used = true,
                                       .retired = segment->retired,
                                       .handle.fd = fd ? *fd : -1,
                                       .described = fd != NULL,
                                       .device = file->st_dev,
                                       .inode = file->st_ino};
    memcpy(segment->handle.opaque, entry->handle, sizeof entry->handle);
    if (fd)
        *fd = -1;
    s->segment_count++;
    /* Which device it is on has been said. */
    bool known = fd || s->device;
    if (!known || segment_map(s, segment))
        s->segments_pending = true;
}

bool scissor__session_grow(struct scissor_session *s, const struct proto_segment *entry, int *fd) {
    struct stat file = {0};
    if (!entry_valid(s, entry) || s->segments[entry->id].used || (fd && fstat(*fd, &file) < 0))
        return false;
    segment_add(s, entry, &file, fd);
    return true;
}

/* ---------- segments of a session that is taken up ---------- */

void scissor__session_unname(struct scissor_session *s) {
    for (uint32_t id = 0; id < s->segment_capacity; id++)
        s->segments[id].named = false;
}

/* Makes room for another file under the same id. A step that is open may be reading what was mapped when it began. */
static void segment_retire(struct scissor_session *s, struct client_segment *segment) {
    struct kernel_segment *kept = segment->retired;
    if (s->in_step && !kept) {
        kept = segment->memory;
        segment->memory = NULL;
    }
    segment->retired = NULL;
    segment_drop(s, segment);
    segment->retired = kept;
    s->segments_condemned |= kept != NULL;
    s->pages_stale = true;
}

bool scissor__session_regrow(struct scissor_session *s, const struct proto_segment *entry, int *fd) {
    struct stat file;
    if (!entry_valid(s, entry) || s->segments[entry->id].named || fstat(*fd, &file) < 0)
        return false;
    struct client_segment *segment = &s->segments[entry->id];
    if (segment->memory && segment->device == file.st_dev && segment->inode == file.st_ino &&
        file.st_size == SCISSOR_SEGMENT_BYTES) {
        segment->condemned = false;
    } else {
        /* Rows in the fresh buffer, and addresses in it, are those of the file that was there before. */
        if (entry->id < s->fresh_segments && segment->memory)
            return false;
        if (segment->used)
            segment_retire(s, segment);
        segment_add(s, entry, &file, fd);
    }
    segment->named = true;
    return true;
}

bool scissor__session_keep_named(struct scissor_session *s) {
    for (uint32_t id = 0; id < s->segment_capacity; id++) {
        struct client_segment *segment = &s->segments[id];
        if (segment->named || !segment->used)
            continue;
        if (id < s->fresh_segments)
            return false;
        segment->condemned = true;
        s->segments_condemned = s->pages_stale = true;
    }
    scissor__session_release(s);
    return true;
}

bool scissor__session_shrink(struct scissor_session *s, uint32_t id) {
    if (id >= s->segment_capacity || id < s->fresh_segments || !s->segments[id].used || s->segments[id].condemned)
        return false;
    s->segments[id].condemned = true;
    s->segments_condemned = true;
    return true;
}

void scissor__session_release(struct scissor_session *s) {
    struct kernel_backend *backend = s->backend;
    struct proto_shrink released = {.session = s->id};
    struct proto_segment_id ids[128];
    uint16_t count = 0;
    if (s->in_step || !s->segments_condemned)
        return;
    if (s->device && (s->busy || scissor__device_lost(s) || !scissor__device_idle(s)))
        return;
    for (uint32_t id = s->fresh_segments; id < s->segment_capacity; id++) {
        struct client_segment *segment = &s->segments[id];
        segment->retired = backend->segment_free(backend, segment->retired);
        if (segment->condemned)
            segment->memory = backend->segment_free(backend, segment->memory);
    }
    if (s->device && !scissor__device_closed(s))
        return;
    s->segments_condemned = false;
    for (uint32_t id = s->fresh_segments; id < s->segment_capacity; id++) {
        if (!s->segments[id].condemned)
            continue;
        segment_drop(s, &s->segments[id]);
        ids[count++].id = id;
        if (count == sizeof ids / sizeof *ids) {
            scissor__client_post(s->client, PROTO_RELEASED, &released, ids, count);
            count = 0;
        }
    }
    if (count > 0)
        scissor__client_post(s->client, PROTO_RELEASED, &released, ids, count);
}

/* Maps what could not be mapped when it came. Whether something that cannot be mapped at all is needed, whoever needs
 * it finds out. */
static int map_pending(struct scissor_session *s) {
    if (!s->segments_pending)
        return 0;
    bool pending = false;
    for (uint32_t id = 0; id < s->segment_capacity; id++) {
        struct client_segment *segment = &s->segments[id];
        int r = segment->used && !segment->memory && !segment->condemned ? segment_map(s, segment) : 0;
        if (r != 0 && r != SCISSOR_EPROTO)
            return r;
        pending |= r != 0;
    }
    s->segments_pending = pending;
    return 0;
}

static int import_page(struct scissor_session *s, int *fd, enum kernel_access access, size_t bytes,
                       struct kernel_segment **ret) {
    struct kernel_backend *backend = s->client->backend;
    struct kernel_handle handle = {.fd = *fd};
    int r = backend->segment_import(backend, access, &handle, bytes, ret);
    if (r == 0)
        *fd = -1;
    return r == 0 ? 0 : r == -ENOMEM ? SCISSOR_ENOMEM : SCISSOR_EPROTO;
}

static void place_fresh(struct scissor_session *s) {
    struct kernel_backend *backend = s->backend;
    struct layout_fresh walk = {0, 0};
    uint32_t size = (uint32_t)kernel_dtype_size(s->compute_dtype);
    for (uint32_t i = 0; i < s->group_count; i++) {
        const struct client_group *g = &s->groups[i];
        for (uint32_t h = 0; h < g->layers * g->kv_heads; h++) {
            struct layout_place place = layout_fresh_next(&walk, size, s->fresh_rows, g->head_dim);
            char *base = backend->segment_address(s->segments[place.segment].memory);
            s->heads[g->first_head + h].fresh = base + place.offset;
        }
    }
}

/* Where the segments are. What came before must be of that kind. */
static int open_place(struct scissor_session *s, const struct proto_opened *opened) {
    bool host = memcmp(opened->device, "host", sizeof "host") == 0;
    if (!proto_text_valid(opened->device, sizeof opened->device) || (!host && strncmp(opened->device, "cuda:", 5) != 0))
        return SCISSOR_EPROTO;
    for (uint32_t id = 0; id < s->segment_capacity; id++)
        if (s->segments[id].used && s->segments[id].described != host)
            return SCISSOR_EPROTO;
    return host ? 0 : scissor__device_open(s, opened);
}

int scissor__session_opened(struct scissor_session *s, struct client_call *call) {
    const struct proto_opened *opened = &call->body.opened;
    if (opened->fresh_rows != s->fresh_rows || opened->fresh_segments != s->fresh_segments ||
        opened->control_bytes != s->control_bytes || opened->lease_bytes != PROTO_LEASE_BYTES)
        return SCISSOR_EPROTO;
    for (uint32_t i = 0; i < s->group_count; i++) {
        if (opened->groups[i].planes >= 1u << PROTO_PLANE_COUNT || opened->groups[i].threshold > KERNEL_THRESHOLD_SEEN)
            return SCISSOR_EPROTO;
        s->groups[i].planes = opened->groups[i].planes;
        s->groups[i].threshold = opened->groups[i].threshold;
    }
    int r = open_place(s, opened);
    if (!r)
        r = map_pending(s);
    for (uint32_t id = 0; id < s->fresh_segments && !r; id++)
        if (!s->segments[id].memory)
            r = SCISSOR_EPROTO;
    if (!r)
        r = import_page(s, &call->fds[0], KERNEL_ACCESS_SETTLED, s->control_bytes, &s->control_memory);
    if (!r)
        r = import_page(s, &call->fds[1], KERNEL_ACCESS_FRESH, PROTO_LEASE_BYTES, &s->lease_memory);
    if (r)
        return r;
    s->control = s->client->backend->segment_address(s->control_memory);
    s->lease = s->client->backend->segment_address(s->lease_memory);
    if (load(&s->control->magic) != PROTO_CONTROL_MAGIC || load(&s->control->head_count) != s->head_count)
        return SCISSOR_EPROTO;
    place_fresh(s);
    return 0;
}

/* Reads one head's entry: next_settled and the addresses of its pages. */
static bool read_head(struct scissor_session *s, const struct client_group *g, struct client_head *head,
                      const uint32_t *words) {
    uint32_t settled = load(&words[0]), pages = load(&words[1]);
    if (pages > g->pages_max || settled > g->settled_max || settled > (uint64_t)pages * SCISSOR_PAGE_ROWS)
        return false;
    bool details = layout_has_details(s->storage_dtype);
    for (uint32_t p = 0; p < (details ? pages : layout_pages_of_rows(settled)); p++) {
        uint32_t page = load(&words[2 + p]), id = PROTO_PAGE_SEGMENT(page), index = PROTO_PAGE_INDEX(page);
        if (id < s->fresh_segments || id >= s->segment_capacity || !s->segments[id].memory ||
            index >= g->pages_per_segment)
            return false;
        const char *base = s->backend->segment_address(s->segments[id].memory);
        head->pages[p] = base + index * g->page_bytes;
    }
    head->next_settled = settled;
    head->detail_pages = details ? pages : 0;
    return true;
}

static bool counts_same(const struct scissor_session *s) {
    for (uint32_t h = 0; h < s->head_count; h++)
        if (s->heads[h].next_settled != s->heads[h].settled)
            return false;
    return true;
}

int scissor__session_refresh(struct scissor_session *s) {
    int r = map_pending(s);
    if (r)
        return r;
    uint64_t generation = __atomic_load_n(&s->control->generation, __ATOMIC_ACQUIRE);
    bool same = generation == s->generation;
    if (same && !s->pages_stale)
        return 0;
    const uint32_t *words = (const uint32_t *)(s->control + 1);
    for (uint32_t i = 0; i < s->group_count; i++) {
        const struct client_group *g = &s->groups[i];
        for (uint32_t h = 0; h < g->layers * g->kv_heads; h++, words += proto_control_head_words(g->pages_max))
            if (!read_head(s, g, &s->heads[g->first_head + h], words))
                return SCISSOR_EPROTO;
    }
    s->pages_stale = false;
    if (same) /* other segments, but the slots of before */
        return counts_same(s) ? 0 : SCISSOR_EPROTO;
    r = s->device ? scissor__device_planes_fetch(s) : 0;
    if (!r)
        r = scissor__planes_reserve(s);
    if (r)
        return r;
    scissor__planes_move(s);
    for (uint32_t h = 0; h < s->head_count; h++)
        s->heads[h].settled = s->heads[h].next_settled;
    s->generation = generation;
    return 0;
}
