/* fake_device_work.c - what a piece of work on the late device of tests/fake_device.h does, and which memory it uses.
 */
#include "fake_device_work.h"

#include <stdlib.h>
#include <string.h>

void fake_work_free(struct fake_queued *w) {
    for (size_t i = 0; i < w->count; i++) {
        if (w->kind == ATTEND)
            free((void *)((struct kernel_attend *)w->items)[i].pages);
        if (w->kind == SETTLE) {
            free((void *)((struct kernel_settle *)w->items)[i].pages);
            free((void *)((struct kernel_settle *)w->items)[i].moves);
        }
    }
    free(w->items);
    free(w);
}

static void do_append(const struct fake_queued *w) {
    struct kernel_backend *host = kernel_host_backend(NULL);
    for (size_t i = 0; i < w->count; i++) {
        const struct kernel_append *a = (const struct kernel_append *)w->items + i;
        host->append(host, fake_device_host(a->fresh), a->fresh_rows, a->first_row, a->rows, a->head_dim,
                     a->compute_dtype, fake_device_host(a->k), fake_device_host(a->v), a->stride, a->input_dtype);
    }
}

static void do_attend(const struct fake_queued *w) {
    struct kernel_backend *host = kernel_host_backend(NULL);
    for (size_t i = 0; i < w->count; i++) {
        struct kernel_attend a = ((struct kernel_attend *)w->items)[i];
        const void **pages = (const void **)a.pages;
        for (uint32_t p = 0; p < layout_pages_of_rows(a.settled_rows); p++)
            pages[p] = fake_device_host(pages[p]);
        a.fresh = fake_device_host(a.fresh);
        a.q = fake_device_host(a.q);
        a.out = fake_device_host(a.out);
        a.mass = fake_device_host(a.mass);
        a.hits = fake_device_host(a.hits);
        a.last = fake_device_host(a.last);
        size_t rows = a.settled_rows + a.fresh_before + a.rows;
        void *scratch = NULL;
        if (posix_memalign(&scratch, 64, kernel_attend_workspace(a.q_heads, a.head_dim, rows) + 64) == 0)
            host->attend(host, &a, 1, scratch);
        free(scratch);
    }
}

static void do_settle(const struct fake_queued *w) {
    struct kernel_backend *host = kernel_host_backend(NULL);
    for (size_t i = 0; i < w->count; i++) {
        struct kernel_settle s = ((struct kernel_settle *)w->items)[i];
        void **pages = (void **)s.pages;
        for (uint32_t m = 0; m < s.move_count; m++) {
            uint32_t p = s.moves[m].to / SCISSOR_PAGE_ROWS;
            pages[p] = fake_device_host(pages[p]);
        }
        s.fresh = fake_device_host(s.fresh);
        host->settle(host, &s, 1);
    }
}

void fake_work_do(const struct fake_queued *w) {
    switch (w->kind) {
    case FILL:
        memset(fake_device_host(w->to), 0, w->bytes);
        break;
    case TRANSFER:
        memcpy(fake_device_host(w->to), fake_device_host(w->from), w->bytes);
        break;
    case APPEND:
        do_append(w);
        break;
    case ATTEND:
        do_attend(w);
        break;
    case SETTLE:
        do_settle(w);
        break;
    case RECORD:
        w->events->reached[w->event] = w->number;
        break;
    case FOLLOW:
        break;
    }
}

static bool in(const void *address, const char *memory, size_t bytes) {
    const char *at = fake_device_host(address);
    return address && at >= memory && at < memory + bytes;
}

static bool item_uses(const struct fake_queued *w, size_t i, const char *memory, size_t bytes) {
    const struct kernel_append *p = (const struct kernel_append *)w->items + i;
    const struct kernel_attend *a = (const struct kernel_attend *)w->items + i;
    const struct kernel_settle *s = (const struct kernel_settle *)w->items + i;
    if (w->kind == APPEND)
        return in(p->fresh, memory, bytes) || in(p->k, memory, bytes) || in(p->v, memory, bytes);
    if (w->kind == SETTLE)
        return in(s->fresh, memory, bytes) || in(s->pages[s->moves[0].to / SCISSOR_PAGE_ROWS], memory, bytes);
    bool used = in(a->fresh, memory, bytes) || in(a->q, memory, bytes) || in(a->out, memory, bytes) ||
                in(a->mass, memory, bytes) || in(a->hits, memory, bytes) || in(a->last, memory, bytes);
    for (uint32_t page = 0; page < layout_pages_of_rows(a->settled_rows); page++)
        used |= in(a->pages[page], memory, bytes);
    return used;
}

bool fake_work_uses(const struct fake_queued *w, const char *memory, size_t bytes) {
    bool used = in(w->to, memory, bytes) || in(w->from, memory, bytes);
    for (size_t i = 0; i < w->count && !used; i++)
        used = item_uses(w, i, memory, bytes);
    return used;
}
