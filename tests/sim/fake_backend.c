/* fake_backend.c - see fake_backend.h. Heap memory is the C library's, so that a test that fails the daemon's
 * allocations fails segments only when it says so. */
#include "fake_backend.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake_segment.h"

static struct fake_backend *fake_of(struct kernel_backend *b) {
    return (struct fake_backend *)b;
}

static int file_of(char *memory) {
    int fd = memfd_create("fake", MFD_CLOEXEC);
    if (fd < 0 || write(fd, &memory, sizeof memory) != sizeof memory)
        abort();
    return fd;
}

static int segment_descriptor(struct kernel_segment *s) {
    return s->fd;
}

static struct kernel_segment *segment_free(struct kernel_backend *b, struct kernel_segment *s) {
    if (!s)
        return NULL;
    fake_of(b)->bytes -= s->bytes;
    fake_of(b)->segments--;
    if (s->fd >= 0)
        close(s->fd);
    free(s->memory);
    free(s);
    return NULL;
}

static struct kernel_segment *segment_leave(struct kernel_backend *b, struct kernel_segment *s) {
    if (!s)
        return NULL;
    if (!fake_of(b)->kept) /* nobody adopts it: it is gone when its client unmaps it */
        return segment_free(b, s);
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    s->next = fake_of(b)->left;
    fake_of(b)->left = s;
    return NULL;
}

static int segment_adopt(struct kernel_backend *b, enum kernel_access access, int fd, size_t bytes,
                         struct kernel_segment **ret) {
    char *memory;
    if (pread(fd, &memory, sizeof memory, 0) != sizeof memory)
        return -EINVAL;
    for (struct kernel_segment **at = &fake_of(b)->left; *at; at = &(*at)->next) {
        struct kernel_segment *s = *at;
        if (s->memory != memory)
            continue;
        if (s->access != access || s->bytes != bytes)
            return -EINVAL;
        *at = s->next;
        s->fd = fd;
        *ret = s;
        return 0;
    }
    return -EINVAL;
}

static int segment_new(struct kernel_backend *b, enum kernel_access access, size_t bytes, struct kernel_segment **ret) {
    struct fake_backend *f = fake_of(b);
    if (f->allocate_fails_after == 0)
        return -ENOMEM;
    if (f->allocate_fails_after != UINT64_MAX)
        f->allocate_fails_after--;
    struct kernel_segment *s = malloc(sizeof *s);
    char *memory = calloc(1, bytes); /* large ones are mapped zeros: only what is touched costs anything */
    if (!s || !memory)
        abort();
    *s = (struct kernel_segment){
        .bytes = bytes, .access = access, .memory = memory, .fd = f->kept ? file_of(memory) : -1};
    f->bytes += bytes;
    f->segments++;
    *ret = s;
    return 0;
}

static int segment_export(struct kernel_backend *b, struct kernel_segment *s, struct kernel_handle *ret) {
    struct fake_backend *f = fake_of(b);
    int fd = -1;
    if (f->export_fails)
        return -EMFILE;
    if (f->descriptors &&
        ((fd = memfd_create("fake", MFD_CLOEXEC)) < 0 || write(fd, &s->memory, sizeof s->memory) != sizeof s->memory))
        abort();
    *ret = (struct kernel_handle){.fd = fd};
    memcpy(ret->opaque, &s->memory, sizeof s->memory);
    return 0;
}

static int segment_import(struct kernel_backend *b, enum kernel_access access, const struct kernel_handle *handle,
                          size_t bytes, struct kernel_segment **ret) {
    (void)b, (void)access, (void)handle, (void)bytes, (void)ret;
    return -ENOTSUP; /* tests read through fake_handle_address() */
}

static void *segment_address(struct kernel_segment *s) {
    return s->memory;
}

static void move_element(uint32_t to_dtype, void *to, size_t to_index, uint32_t from_dtype, const void *from,
                         size_t from_index) {
    if (to_dtype == KERNEL_F32 && from_dtype == KERNEL_F32) /* quick, for the sake of the simulator */
        ((float *)to)[to_index] = ((const float *)from)[from_index];
    else
        kernel_store(to_dtype, to, to_index, kernel_load(from_dtype, from, from_index));
}

static void move_row(void *to, uint32_t to_rows, uint32_t to_row, uint32_t to_dtype, const void *from,
                     uint32_t from_rows, uint32_t from_row, uint32_t from_dtype, uint32_t head_dim) {
    size_t to_v = (size_t)to_rows * head_dim, from_v = (size_t)from_rows * head_dim;
    for (uint32_t c = 0; c < head_dim; c++) {
        move_element(to_dtype, to, layout_k_index(to_row, c, head_dim), from_dtype, from,
                     layout_k_index(from_row, c, head_dim));
        move_element(to_dtype, to, to_v + layout_v_index(to_row, c, head_dim), from_dtype, from,
                     from_v + layout_v_index(from_row, c, head_dim));
    }
}

/* ---------- dtypes with details ---------- */

static uint32_t *slot_at(const void *page, uint32_t slot) {
    return (uint32_t *)page + slot;
}
static uint32_t *detail_at(const void *page, uint32_t detail, uint32_t head_dim, uint32_t dtype) {
    return (uint32_t *)((char *)page + layout_detail_k_offset(dtype, head_dim)) + detail;
}
static uint32_t *owner_at(const void *page, uint32_t detail, uint32_t head_dim, uint32_t dtype) {
    return (uint32_t *)((char *)page + layout_detail_owner_offset(dtype, head_dim)) + detail;
}

/* What stands for a row, from a few of its channels; never 0. */
static uint32_t row_number(const void *area, uint32_t area_rows, uint32_t row, uint32_t head_dim, uint32_t dtype) {
    uint32_t sum = 1;
    for (uint32_t c = 0; c < head_dim; c += 16) {
        size_t v = (size_t)area_rows * head_dim + layout_v_index(row, c, head_dim);
        sum = sum * 31 + (uint32_t)kernel_load(dtype, area, layout_k_index(row, c, head_dim));
        sum = sum * 31 + (uint32_t)kernel_load(dtype, area, v);
    }
    return sum | 1;
}

static void settle_detailed(const struct kernel_settle *head, uint32_t i) {
    struct kernel_move m = head->moves[i];
    uint32_t d = head->head_dim, dtype = head->storage_dtype, detail = head->details[i];
    uint32_t number = row_number(head->fresh, head->fresh_rows, m.from, d, head->compute_dtype);
    *slot_at(head->pages[m.to / SCISSOR_PAGE_ROWS], m.to % SCISSOR_PAGE_ROWS) = number;
    if (detail == KERNEL_NONE)
        return;
    const void *page = head->pages[detail / LAYOUT_PAGE_DETAILS];
    *detail_at(page, detail % LAYOUT_PAGE_DETAILS, d, dtype) = number;
    *owner_at(page, detail % LAYOUT_PAGE_DETAILS, d, dtype) = m.to + 1;
}

static void shrink_detailed(const struct kernel_shrink *head) {
    uint32_t d = head->head_dim, dtype = head->storage_dtype;
    for (uint32_t i = 0; i < head->detail_move_count; i++) {
        uint32_t from = head->detail_moves[i].from, to = head->detail_moves[i].to;
        const void *from_page = head->pages[from / LAYOUT_PAGE_DETAILS],
                   *to_page = head->pages[to / LAYOUT_PAGE_DETAILS];
        from %= LAYOUT_PAGE_DETAILS;
        to %= LAYOUT_PAGE_DETAILS;
        *detail_at(to_page, to, d, dtype) = *detail_at(from_page, from, d, dtype);
        *owner_at(to_page, to, d, dtype) = *owner_at(from_page, from, d, dtype);
    }
    for (uint32_t i = 0; i < head->owner_count; i++) {
        uint32_t detail = head->owners[i].from, slot = head->owners[i].to;
        *owner_at(head->pages[detail / LAYOUT_PAGE_DETAILS], detail % LAYOUT_PAGE_DETAILS, d, dtype) =
            slot == KERNEL_NONE ? 0 : slot + 1;
    }
}

/* True if one more row may move. */
static bool row_moves(struct fake_backend *f) {
    if (f->rows_left == 0)
        return false;
    f->rows_left -= f->rows_left != UINT64_MAX;
    return true;
}

static int settle(struct kernel_backend *b, const struct kernel_settle *heads, size_t head_count) {
    if (fake_of(b)->move_fails)
        return -EIO;
    for (size_t h = 0; h < head_count; h++)
        for (uint32_t i = 0; i < heads[h].move_count; i++) {
            struct kernel_move m = heads[h].moves[i];
            if (m.from >= heads[h].fresh_rows)
                return -EINVAL;
            if (!row_moves(fake_of(b)))
                return -EIO;
            if (layout_has_details(heads[h].storage_dtype))
                settle_detailed(&heads[h], i);
            else
                move_row(heads[h].pages[m.to / SCISSOR_PAGE_ROWS], SCISSOR_PAGE_ROWS, m.to % SCISSOR_PAGE_ROWS,
                         heads[h].storage_dtype, heads[h].fresh, heads[h].fresh_rows, m.from, heads[h].compute_dtype,
                         heads[h].head_dim);
            fake_of(b)->settled_rows++;
        }
    return 0;
}

static int shrink(struct kernel_backend *b, const struct kernel_shrink *heads, size_t head_count) {
    if (fake_of(b)->move_fails)
        return -EIO;
    for (size_t h = 0; h < head_count; h++) {
        bool detailed = layout_has_details(heads[h].storage_dtype);
        for (uint32_t i = 0; i < heads[h].move_count; i++) {
            struct kernel_move m = heads[h].moves[i];
            if (!row_moves(fake_of(b)))
                return -EIO;
            fake_of(b)->moved_rows++;
            if (detailed) {
                *slot_at(heads[h].pages[m.to / SCISSOR_PAGE_ROWS], m.to % SCISSOR_PAGE_ROWS) =
                    *slot_at(heads[h].pages[m.from / SCISSOR_PAGE_ROWS], m.from % SCISSOR_PAGE_ROWS);
                continue;
            }
            move_row(heads[h].pages[m.to / SCISSOR_PAGE_ROWS], SCISSOR_PAGE_ROWS, m.to % SCISSOR_PAGE_ROWS,
                     heads[h].storage_dtype, heads[h].pages[m.from / SCISSOR_PAGE_ROWS], SCISSOR_PAGE_ROWS,
                     m.from % SCISSOR_PAGE_ROWS, heads[h].storage_dtype, heads[h].head_dim);
        }
        if (detailed)
            shrink_detailed(&heads[h]);
    }
    return 0;
}

static int v_norms(struct kernel_backend *b, const struct kernel_norms *heads, size_t head_count) {
    if (fake_of(b)->move_fails)
        return -EIO;
    for (size_t h = 0; h < head_count; h++) {
        const struct kernel_norms *n = &heads[h];
        if (n->first + n->count > n->fresh_rows)
            return -EINVAL;
        for (uint32_t i = 0; i < n->count; i++) {
            size_t at = (size_t)n->fresh_rows * n->head_dim + layout_v_index(n->first + i, 0, n->head_dim);
            double sum = 0;
            for (uint32_t c = 0; c < n->head_dim; c++)
                sum += fabsf(kernel_load(n->compute_dtype, n->fresh, at + c));
            n->norms[i] = (float)sum;
        }
    }
    return 0;
}

static int move_pages(struct kernel_backend *b, const struct kernel_page_move *moves, size_t count) {
    if (fake_of(b)->move_fails)
        return -EIO;
    for (size_t i = 0; i < count; i++) {
        if (!row_moves(fake_of(b)))
            return -EIO;
        memcpy(moves[i].to, moves[i].from, moves[i].bytes);
        fake_of(b)->copied_bytes += moves[i].bytes;
    }
    return 0;
}

static int synchronise(struct kernel_backend *b) {
    (void)b;
    return 0;
}

void fake_backend_init(struct fake_backend *f, bool revocable) {
    *f = (struct fake_backend){
        .base = {.name = "fake",
                 .path = "scalar",
                 .device = "host",
                 .storage_dtypes = ((1u << KERNEL_ELEMENT_DTYPES) - 1) | 1u << KERNEL_FADE, /* move_row() */
                 .revocable = revocable,
                 .segment_new = segment_new,
                 .segment_free = segment_free,
                 .segment_export = segment_export,
                 .segment_import = segment_import,
                 .segment_address = segment_address,
                 .segment_descriptor = segment_descriptor,
                 .segment_adopt = segment_adopt,
                 .segment_leave = segment_leave,
                 .settle = settle,
                 .shrink = shrink,
                 .v_norms = v_norms,
                 .move_pages = move_pages,
                 .synchronise = synchronise},
        .allocate_fails_after = UINT64_MAX,
        .rows_left = UINT64_MAX,
    };
}

void fake_backend_forget_left(struct fake_backend *f) {
    while (f->left) {
        struct kernel_segment *s = f->left;
        f->left = s->next;
        segment_free(&f->base, s);
    }
}

void *fake_handle_address(const uint8_t opaque[64]) {
    void *address;
    memcpy(&address, opaque, sizeof address);
    return address;
}

void *fake_descriptor_address(int fd) {
    void *address;
    if (pread(fd, &address, sizeof address, 0) != sizeof address)
        abort();
    return address;
}

/* Small integers, which f16 and bf16 hold exactly. */
static float row_value(uint32_t position, uint32_t head, uint32_t channel, uint32_t value) {
    uint32_t z = position * 2654435761u ^ head * 40503u ^ (channel * 2 + value) * 97u;
    z = (z ^ z >> 15) * 0x2c1b3c6du;
    return (float)((z ^ z >> 13) % 251);
}

void fake_row_write(void *area, uint32_t area_rows, uint32_t row, uint32_t head_dim, uint32_t dtype, uint32_t position,
                    uint32_t head) {
    size_t v = (size_t)area_rows * head_dim;
    for (uint32_t c = 0; c < head_dim; c++) {
        kernel_store(dtype, area, layout_k_index(row, c, head_dim), row_value(position, head, c, 0));
        kernel_store(dtype, area, v + layout_v_index(row, c, head_dim), row_value(position, head, c, 1));
    }
}

float fake_row_norm(uint32_t position, uint32_t head, uint32_t head_dim) {
    float sum = 0;
    for (uint32_t c = 0; c < head_dim; c++)
        sum += row_value(position, head, c, 1);
    return sum;
}

static uint32_t number_of(uint32_t head_dim, uint32_t position, uint32_t head) {
    uint32_t sum = 1;
    for (uint32_t c = 0; c < head_dim; c += 16)
        for (uint32_t value = 0; value < 2; value++)
            sum = sum * 31 + (uint32_t)row_value(position, head, c, value);
    return sum | 1;
}

uint32_t fake_detail_owner(const void *page, uint32_t detail, uint32_t head_dim, uint32_t dtype) {
    uint32_t owner = *owner_at(page, detail, head_dim, dtype);
    return owner ? owner - 1 : KERNEL_NONE;
}

bool fake_detail_is(const void *page, uint32_t detail, uint32_t head_dim, uint32_t dtype, uint32_t slot,
                    uint32_t position, uint32_t head) {
    uint32_t owner = fake_detail_owner(page, detail, head_dim, dtype);
    return owner == slot &&
           (slot == KERNEL_NONE || *detail_at(page, detail, head_dim, dtype) == number_of(head_dim, position, head));
}

bool fake_row_is(const void *area, uint32_t area_rows, uint32_t row, uint32_t head_dim, uint32_t dtype,
                 uint32_t position, uint32_t head) {
    size_t v = (size_t)area_rows * head_dim;
    if (layout_has_details(dtype))
        return *slot_at(area, row) == number_of(head_dim, position, head);
    for (uint32_t c = 0; c < head_dim; c++)
        if (kernel_load(dtype, area, layout_k_index(row, c, head_dim)) != row_value(position, head, c, 0) ||
            kernel_load(dtype, area, v + layout_v_index(row, c, head_dim)) != row_value(position, head, c, 1))
            return false;
    return true;
}
