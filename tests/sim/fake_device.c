/* fake_device.c - see fake_device.h. The rows move by fake_backend.c's own functions, when their time has come. */
#include "fake_device.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "fake_segment.h"

#define RULE(condition, name)                           \
    do {                                                \
        if (!(condition)) {                             \
            fprintf(stderr, "fake device: %s\n", name); \
            abort();                                    \
        }                                               \
    } while (0)

struct kernel_fence {
    struct kernel_fence *next; /* of all that ever were: a client may have one open that its owner has freed */
    uint64_t client_signalled, client_reached; /* the client's event: records, and how many of them are done */
    uint64_t seen;                             /* how many of those the broker has seen done */
    uint64_t signalled, reached;               /* the broker's event */
};

enum work_kind { WORK_SETTLE, WORK_SHRINK, WORK_PAGE, WORK_SIGNAL };

/* One head's moves, one page's, or one record of an event; lists are its own. */
struct fake_work {
    struct fake_work *prev, *next;
    enum work_kind kind;
    union {
        struct kernel_settle settle;
        struct kernel_shrink shrink;
        struct kernel_page_move page;
        struct kernel_fence *fence;
    };
    uint64_t record; /* of the fence */
};

static struct fake_backend *fake_of(struct kernel_backend *b) {
    return (struct fake_backend *)b;
}

static void *copy_of(const void *list, size_t bytes) {
    void *copy = malloc(bytes ? bytes : 1);
    if (!copy)
        abort();
    if (bytes)
        memcpy(copy, list, bytes);
    return copy;
}

static struct kernel_segment *find(const struct fake_backend *f, const void *address) {
    struct kernel_segment *s;
    DL_FOREACH2(f->alive, s, after)
    if ((const char *)address >= s->memory && (const char *)address < s->memory + s->bytes)
        return s;
    return NULL;
}

/* ---------- the queue ---------- */

static void work_free(struct fake_work *w) {
    if (w->kind == WORK_SETTLE) {
        free((void *)w->settle.pages);
        free((void *)w->settle.moves);
    } else if (w->kind == WORK_SHRINK) {
        free((void *)w->shrink.pages);
        free((void *)w->shrink.moves);
    }
    free(w);
}

static void work_do(struct fake_backend *f, struct fake_work *w) {
    int r = 0;
    if (w->kind == WORK_SETTLE)
        r = f->now.settle(&f->base, &w->settle, 1);
    else if (w->kind == WORK_SHRINK)
        r = f->now.shrink(&f->base, &w->shrink, 1);
    else if (w->kind == WORK_PAGE)
        r = f->now.move_pages(&f->base, &w->page, 1);
    else
        w->fence->reached = w->record;
    if (r < 0)
        f->lost = true;
}

void fake_device_run(struct fake_backend *f, uint64_t most) {
    while (f->work && most-- && !f->lost) {
        struct fake_work *w = f->work;
        DL_DELETE(f->work, w);
        work_do(f, w);
        work_free(w);
    }
}

static void queue(struct fake_backend *f, struct fake_work work) {
    struct fake_work *w = copy_of(&work, sizeof work);
    DL_APPEND(f->work, w);
}

/* A fence orders all work on the client's memory; segments that no client was told of yet have none. */
static void touch(struct fake_backend *f, const void *address) {
    const struct kernel_segment *s = find(f, address);
    RULE(s, "work on memory that is not there");
    const struct kernel_fence *fence = s->fence;
    RULE(!fence || fence->seen == fence->client_signalled, "work-before-client");
}

static size_t pages_of(const struct kernel_move *moves, uint32_t count) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < count; i++)
        most = moves[i].to > most ? moves[i].to : most;
    return most / SCISSOR_PAGE_ROWS + 1;
}

static int settle(struct kernel_backend *b, const struct kernel_settle *heads, size_t head_count) {
    struct fake_backend *f = fake_of(b);
    if (f->lost)
        return -ENOTRECOVERABLE;
    if (f->move_fails)
        return -EIO;
    for (size_t i = 0; i < head_count; i++) {
        struct fake_work w = {.kind = WORK_SETTLE, .settle = heads[i]};
        size_t pages = pages_of(heads[i].moves, heads[i].move_count);
        touch(f, heads[i].fresh);
        for (uint32_t m = 0; m < heads[i].move_count; m++)
            touch(f, heads[i].pages[heads[i].moves[m].to / SCISSOR_PAGE_ROWS]);
        w.settle.pages = copy_of(heads[i].pages, heads[i].move_count ? pages * sizeof(void *) : 0);
        w.settle.moves = copy_of(heads[i].moves, heads[i].move_count * sizeof *heads[i].moves);
        queue(f, w);
    }
    return 0;
}

static int shrink(struct kernel_backend *b, const struct kernel_shrink *heads, size_t head_count) {
    struct fake_backend *f = fake_of(b);
    if (f->lost)
        return -ENOTRECOVERABLE;
    if (f->move_fails)
        return -EIO;
    for (size_t i = 0; i < head_count; i++) {
        struct fake_work w = {.kind = WORK_SHRINK, .shrink = heads[i]};
        size_t pages = 1;
        for (uint32_t m = 0; m < heads[i].move_count; m++) {
            uint32_t from = heads[i].moves[m].from / SCISSOR_PAGE_ROWS, to = heads[i].moves[m].to / SCISSOR_PAGE_ROWS;
            touch(f, heads[i].pages[from]);
            touch(f, heads[i].pages[to]);
            pages = from + 1 > pages ? from + 1 : pages;
            pages = to + 1 > pages ? to + 1 : pages;
        }
        w.shrink.pages = copy_of(heads[i].pages, heads[i].move_count ? pages * sizeof(void *) : 0);
        w.shrink.moves = copy_of(heads[i].moves, heads[i].move_count * sizeof *heads[i].moves);
        queue(f, w);
    }
    return 0;
}

/* The blocks of a launch run in any order. */
static bool apart(const struct kernel_page_move *a, const struct kernel_page_move *b) {
    const char *to = a->to, *from = b->from, *other = b->to;
    return (to >= from + b->bytes || from >= to + a->bytes) &&
           (a == b || to >= other + b->bytes || other >= to + a->bytes);
}

static int move_pages(struct kernel_backend *b, const struct kernel_page_move *moves, size_t count) {
    struct fake_backend *f = fake_of(b);
    if (f->lost)
        return -ENOTRECOVERABLE;
    if (f->move_fails)
        return -EIO;
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < count; j++)
            RULE(apart(&moves[i], &moves[j]), "a page is moved over another one");
    for (size_t i = 0; i < count; i++) {
        touch(f, moves[i].to);
        touch(f, moves[i].from);
        queue(f, (struct fake_work){.kind = WORK_PAGE, .page = moves[i]});
    }
    return 0;
}

static int v_norms(struct kernel_backend *b, const struct kernel_norms *heads, size_t head_count) {
    struct fake_backend *f = fake_of(b);
    for (size_t i = 0; i < head_count && !f->lost; i++)
        touch(f, heads[i].fresh);
    fake_device_run(f, UINT64_MAX);
    return f->lost ? -ENOTRECOVERABLE : f->now.v_norms(b, heads, head_count);
}

static int synchronise(struct kernel_backend *b) {
    fake_device_run(fake_of(b), UINT64_MAX);
    return fake_of(b)->lost ? -ENOTRECOVERABLE : 0;
}

/* ---------- segments ---------- */

static int segment_new(struct kernel_backend *b, enum kernel_access access, size_t bytes, struct kernel_segment **ret) {
    struct fake_backend *f = fake_of(b);
    struct kernel_segment *s;
    if (access == KERNEL_ACCESS_SETTLED_KEPT)
        return -EINVAL;
    int r = f->lost ? -ENOTRECOVERABLE : f->now.segment_new(b, access, bytes, &s);
    if (r < 0)
        return r;
    DL_APPEND2(f->alive, s, before, after);
    *ret = s;
    return 0;
}

/* Of a device that is lost nothing comes back before the process ends. */
static struct kernel_segment *segment_free(struct kernel_backend *b, struct kernel_segment *s) {
    struct fake_backend *f = fake_of(b);
    if (!s)
        return NULL;
    fake_device_run(f, UINT64_MAX);
    if (f->lost)
        return NULL;
    RULE(!s->opener, "freed-while-open");
    DL_DELETE2(f->alive, s, before, after);
    return f->now.segment_free(b, s);
}

/* ---------- fences ---------- */

static int fence_new(struct kernel_backend *b, struct kernel_fence **ret) {
    struct kernel_fence *fence = fake_of(b)->lost ? NULL : calloc(1, sizeof *fence);
    if (!fence)
        return -ENOTRECOVERABLE;
    fake_of(b)->fences++;
    LL_PREPEND(fake_of(b)->made, fence);
    *ret = fence;
    return 0;
}

static int fence_export(struct kernel_backend *b, struct kernel_fence *fence, struct kernel_handle ret[2]) {
    if (fake_of(b)->export_fails)
        return -ENOMEM;
    for (int i = 0; i < 2; i++) {
        ret[i] = (struct kernel_handle){.fd = -1};
        memcpy(ret[i].opaque, &fence, sizeof fence);
    }
    return 0;
}

static struct kernel_fence *fence_free(struct kernel_backend *b, struct kernel_fence *fence) {
    struct fake_backend *f = fake_of(b);
    struct kernel_segment *s;
    struct fake_work *w;
    if (!fence)
        return NULL;
    f->fences--;
    if (f->lost || f->ending) /* what is queued is not done any more */
        return NULL;
    DL_FOREACH(f->work, w)
    RULE(w->kind != WORK_SIGNAL || w->fence != fence, "fence-in-use");
    DL_FOREACH2(f->alive, s, after)
    RULE(s->fence != fence, "fence-in-use");
    return NULL;
}

static void *own(struct kernel_backend *b) {
    return b;
}

static int fence_signal(struct kernel_backend *b, struct kernel_fence *fence, void *stream) {
    struct fake_backend *f = fake_of(b);
    RULE(stream == b, "a stream of somebody else's");
    if (f->lost)
        return -ENOTRECOVERABLE;
    queue(f, (struct fake_work){.kind = WORK_SIGNAL, .fence = fence, .record = ++fence->signalled});
    return 0;
}

static int fence_follow(struct kernel_backend *b, struct kernel_fence *fence, bool ours, void *stream) {
    (void)b;
    (void)fence;
    (void)ours;
    (void)stream;
    RULE(false, "follow-client");
    return 0;
}

static int fence_wait(struct kernel_backend *b, struct kernel_fence *fence, bool ours, uint32_t timeout_us) {
    struct fake_backend *f = fake_of(b);
    if (f->lost)
        return -ENOTRECOVERABLE;
    RULE(!ours, "the broker waits for itself");
    if (timeout_us && f->client_is_quick)
        fence->client_reached = fence->client_signalled;
    f->longest_wait_us = timeout_us > f->longest_wait_us ? timeout_us : f->longest_wait_us;
    fence->seen = fence->client_reached;
    return fence->client_reached == fence->client_signalled ? 0 : -EAGAIN;
}

static bool lost(struct kernel_backend *b) {
    return fake_of(b)->lost;
}

static const struct kernel_streams streams = {.own = own,
                                              .fence_new = fence_new,
                                              .fence_export = fence_export,
                                              .fence_free = fence_free,
                                              .fence_signal = fence_signal,
                                              .fence_follow = fence_follow,
                                              .fence_wait = fence_wait,
                                              .lost = lost};

/* ---------- the device ---------- */

void fake_device_init(struct fake_backend *f) {
    fake_backend_init(f, false);
    f->now = f->base;
    f->base.name = "gpu";
    f->base.device = "cuda:GPU-fake";
    f->base.streams = &streams;
    f->base.storage_dtypes = (1u << KERNEL_ELEMENT_DTYPES) - 1;
    f->base.segment_new = segment_new;
    f->base.segment_free = segment_free;
    f->base.segment_descriptor = NULL;
    f->base.segment_adopt = NULL;
    f->base.segment_leave = NULL;
    f->base.settle = settle;
    f->base.shrink = shrink;
    f->base.v_norms = v_norms;
    f->base.move_pages = move_pages;
    f->base.synchronise = synchronise;
}

void fake_device_lose(struct fake_backend *f) {
    f->lost = true;
}

void fake_device_end(struct fake_backend *f) {
    struct kernel_segment *s, *next;
    struct fake_work *w, *next_work;
    DL_FOREACH_SAFE(f->work, w, next_work) {
        DL_DELETE(f->work, w);
        work_free(w);
    }
    DL_FOREACH_SAFE2(f->alive, s, next, after) {
        DL_DELETE2(f->alive, s, before, after);
        f->now.segment_free(&f->base, s);
    }
    struct kernel_fence *fence, *next_fence;
    LL_FOREACH_SAFE(f->made, fence, next_fence) {
        LL_DELETE(f->made, fence);
        free(fence);
    }
    f->lost = f->ending = false;
    f->fences = 0;
}

/* ---------- a client ---------- */

void fake_device_open(struct fake_backend *f, const void *address, int pid) {
    struct kernel_segment *s = find(f, address);
    if (s)
        s->opener = pid;
}

void fake_device_close(struct fake_backend *f, const void *address) {
    fake_device_open(f, address, 0);
}

void fake_device_exit(struct fake_backend *f, int pid) {
    struct kernel_segment *s;
    DL_FOREACH2(f->alive, s, after)
    if (s->opener == pid)
        s->opener = 0;
}

void fake_device_order(struct fake_backend *f, const void *address, struct kernel_fence *fence) {
    struct kernel_segment *s = find(f, address);
    if (s)
        s->fence = fence;
}

struct kernel_fence *fake_handle_fence(const uint8_t event[64]) {
    struct kernel_fence *fence;
    memcpy(&fence, event, sizeof fence);
    return fence;
}

void fake_fence_signal(struct kernel_fence *fence) {
    fence->client_signalled++;
}

void fake_fence_reach(struct kernel_fence *fence) {
    fence->client_reached = fence->client_signalled;
}

void fake_fence_follow(struct fake_backend *f, struct kernel_fence *fence) {
    while (!f->lost && fence->reached < fence->signalled)
        fake_device_run(f, 1);
}
