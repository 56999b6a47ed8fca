/* fake_device.c - see fake_device.h. One lock for everything; a stream is a list of work under whatever pointer names
 * it. */
#include "fake_device.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "fake_device_work.h"

#define STREAMS 16u
#define NOT_OF_THE_HOST ((uintptr_t)1 << 62)

struct fake_device fake_device;

struct kernel_fence {
    struct fake_events *events;
    unsigned own;
};

struct kernel_segment {
    struct kernel_segment *next;
    struct kernel_segment *owner; /* NULL: it is one */
    char *memory;
    size_t bytes;
    unsigned imports;
};

struct stream {
    bool used;
    void *name;
    struct fake_queued *first, **last;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct stream streams[STREAMS];
static struct kernel_backend client_backend, daemon_backend;

void *fake_device_host(const void *address) {
    return (void *)((uintptr_t)address & ~NOT_OF_THE_HOST);
}

static void *device_address(void *host) {
    return (void *)((uintptr_t)host | NOT_OF_THE_HOST);
}

/* Locks; or what an operation of the client is to fail with. */
static int enter(struct kernel_backend *b) {
    pthread_mutex_lock(&lock);
    if (b != &client_backend || fake_device.fail_after < 0)
        return 0;
    if (fake_device.fail_after > 0) {
        fake_device.fail_after--;
        return 0;
    }
    int r = fake_device.fail_with;
    if (r != -ENOTRECOVERABLE && (fake_device.fail_more == 0 || fake_device.fail_more-- == 0))
        fake_device.fail_after = -1;
    pthread_mutex_unlock(&lock);
    return r;
}

/* ---------- work ---------- */

static struct stream *stream_of(void *name) {
    struct stream *unused = NULL;
    for (unsigned i = 0; i < STREAMS; i++) {
        if (streams[i].used && streams[i].name == name)
            return &streams[i];
        unused = streams[i].used ? unused : &streams[i];
    }
    *unused = (struct stream){.used = true, .name = name, .last = &unused->first};
    return unused;
}

static struct fake_queued *queue(void *stream, enum fake_work kind) {
    struct stream *s = stream_of(stream);
    struct fake_queued *w = calloc(1, sizeof *w);
    w->kind = kind;
    *s->last = w;
    s->last = &w->next;
    return w;
}

/* All that is on the stream, and before it what it waits for. */
static void run(struct stream *s);

static void reach(struct fake_events *e, unsigned event, uint64_t number) {
    for (unsigned i = 0; i < STREAMS && e->reached[event] < number; i++)
        for (const struct fake_queued *w = streams[i].first; w; w = w->next)
            if (w->kind == RECORD && w->events == e && w->event == event && w->number == number) {
                run(&streams[i]);
                break;
            }
}

static void run(struct stream *s) {
    while (s->first) {
        struct fake_queued *w = s->first;
        if (w->kind == FOLLOW)
            reach(w->events, w->event, w->number);
        fake_work_do(w);
        s->first = w->next;
        if (!s->first)
            s->last = &s->first;
        fake_work_free(w);
    }
}

unsigned fake_device_queued(void) {
    unsigned count = 0;
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < STREAMS; i++)
        for (const struct fake_queued *w = streams[i].first; w; w = w->next)
            count++;
    pthread_mutex_unlock(&lock);
    return count;
}

/* ---------- what queued work uses ---------- */

static bool lost(struct kernel_backend *b) {
    return b == &client_backend && fake_device.fail_after == 0 && fake_device.fail_with == -ENOTRECOVERABLE;
}

/* Nothing runs on a device that is lost. */
static void fault(const char *what) {
    if (lost(&client_backend))
        return;
    fprintf(stderr, "fake device: %s\n", what);
    fake_device.faults++;
}

/* What an owner has queued goes on when an importer closes its own mapping. */
static void check_unused(const void *memory, size_t bytes, bool import) {
    for (unsigned i = 0; i < STREAMS; i++)
        for (const struct fake_queued *w = streams[i].first; w; w = w->next)
            if (!(import && w->kind == SETTLE) && fake_work_uses(w, fake_device_host(memory), bytes))
                fault("freed while work that is queued uses it");
}

/* ---------- memory ---------- */

static int segment_new(struct kernel_backend *b, enum kernel_access access, size_t bytes, struct kernel_segment **ret) {
    (void)access;
    int r = enter(b);
    if (r < 0)
        return r;
    struct kernel_segment *s = calloc(1, sizeof *s);
    s->memory = aligned_alloc(4096, bytes);
    s->bytes = bytes;
    memset(s->memory, 0, bytes);
    fake_device.allocations++;
    pthread_mutex_unlock(&lock);
    *ret = s;
    return 0;
}

static struct kernel_segment *refused;

static void let_go(struct kernel_segment *s) {
    if (s->owner)
        s->owner->imports--;
    else
        free(s->memory);
    free(s);
    fake_device.allocations--;
}

static struct kernel_segment *segment_free(struct kernel_backend *b, struct kernel_segment *s) {
    (void)b;
    if (!s)
        return NULL;
    pthread_mutex_lock(&lock);
    check_unused(s->memory, s->bytes, s->owner != NULL);
    if (s->imports)
        fault("a segment freed while a client has it open");
    if (s->owner && fake_device.refuses)
        LL_PREPEND(refused, s);
    else
        let_go(s);
    pthread_mutex_unlock(&lock);
    return NULL;
}

static bool closed(struct kernel_backend *b) {
    struct kernel_segment *s, *next;
    (void)b;
    pthread_mutex_lock(&lock);
    LL_FOREACH_SAFE(refused, s, next) {
        if (fake_device.refuses)
            break;
        LL_DELETE(refused, s);
        let_go(s);
    }
    bool r = refused == NULL;
    pthread_mutex_unlock(&lock);
    return r;
}

static int segment_export(struct kernel_backend *b, struct kernel_segment *s, struct kernel_handle *ret) {
    (void)b;
    *ret = (struct kernel_handle){.fd = -1};
    memcpy(ret->opaque, &s, sizeof s);
    return 0;
}

static int segment_import(struct kernel_backend *b, enum kernel_access access, const struct kernel_handle *handle,
                          size_t bytes, struct kernel_segment **ret) {
    struct kernel_segment *owner;
    (void)access;
    int r = enter(b);
    if (r < 0)
        return r;
    memcpy(&owner, handle->opaque, sizeof owner);
    if (owner && owner->bytes == bytes) {
        *ret = calloc(1, sizeof **ret);
        **ret = (struct kernel_segment){.owner = owner, .memory = owner->memory, .bytes = bytes};
        owner->imports++;
        fake_device.allocations++;
    } else {
        r = -EBADF;
    }
    pthread_mutex_unlock(&lock);
    return r;
}

static void *segment_address(struct kernel_segment *s) {
    return device_address(s->memory);
}

/* Its size lies before it, as whoever frees it is asked for none. */
static int memory_new(struct kernel_backend *b, enum kernel_memory where, size_t bytes, void **ret) {
    int r = enter(b);
    if (r < 0)
        return r;
    char *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    memset(memory, 0xA5, bytes + 64);
    memcpy(memory, &bytes, sizeof bytes);
    fake_device.allocations++;
    pthread_mutex_unlock(&lock);
    *ret = where == KERNEL_MEMORY_DEVICE ? device_address(memory + 64) : memory + 64;
    return 0;
}

static void *memory_free(struct kernel_backend *b, enum kernel_memory where, void *memory) {
    size_t bytes;
    (void)b;
    if (!memory)
        return NULL;
    pthread_mutex_lock(&lock);
    if ((where == KERNEL_MEMORY_DEVICE) != (fake_device_host(memory) != memory))
        fault("memory freed as what it is not");
    char *begin = (char *)fake_device_host(memory) - 64;
    memcpy(&bytes, begin, sizeof bytes);
    check_unused(memory, bytes, false);
    free(begin);
    fake_device.allocations--;
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* ---------- what is queued ---------- */

static void *copied(const void *from, size_t bytes) {
    return memcpy(malloc(bytes ? bytes : 1), from, bytes);
}

static int settle(struct kernel_backend *b, const struct kernel_settle *heads, size_t count) {
    int r = enter(b);
    if (r < 0)
        return r;
    struct fake_queued *w = queue(b, SETTLE);
    struct kernel_settle *items = w->items = copied(heads, count * sizeof *heads);
    w->count = count;
    for (size_t i = 0; i < count; i++) {
        uint32_t pages = 0;
        for (uint32_t m = 0; m < heads[i].move_count; m++)
            pages = heads[i].moves[m].to / SCISSOR_PAGE_ROWS >= pages ? heads[i].moves[m].to / SCISSOR_PAGE_ROWS + 1
                                                                      : pages;
        items[i].pages = copied(heads[i].pages, pages * sizeof *heads[i].pages);
        items[i].moves = copied(heads[i].moves, heads[i].move_count * sizeof *heads[i].moves);
    }
    pthread_mutex_unlock(&lock);
    return 0;
}

static void *own(struct kernel_backend *b) {
    return b;
}

static int wait(struct kernel_backend *b, void *stream) {
    int r = enter(b);
    if (r < 0)
        return r;
    run(stream_of(stream));
    pthread_mutex_unlock(&lock);
    return 0;
}

static int transfer(struct kernel_backend *b, void *to, const void *from, size_t bytes, void *stream) {
    int r = enter(b);
    if (r < 0)
        return r;
    struct fake_queued *w = queue(stream, from ? TRANSFER : FILL);
    w->to = to;
    w->from = from;
    w->bytes = bytes;
    pthread_mutex_unlock(&lock);
    return 0;
}

static int fill_zero(struct kernel_backend *b, void *to, size_t bytes, void *stream) {
    return transfer(b, to, NULL, bytes, stream);
}

static int append(struct kernel_backend *b, const struct kernel_append *heads, size_t count, void *stream) {
    int r = enter(b);
    if (r < 0)
        return r;
    struct fake_queued *w = queue(stream, APPEND);
    w->items = copied(heads, count * sizeof *heads);
    w->count = count;
    pthread_mutex_unlock(&lock);
    return 0;
}

static size_t attend_workspace(struct kernel_backend *b, const struct kernel_attend *items, size_t count) {
    size_t bytes = 0;
    (void)b;
    for (size_t i = 0; i < count; i++)
        bytes += 16 * (items[i].settled_rows + items[i].fresh_before + items[i].rows);
    return bytes;
}

static int attend(struct kernel_backend *b, const struct kernel_attend *items, size_t count, void *workspace,
                  void *stream) {
    int r = enter(b);
    if (r < 0)
        return r;
    struct fake_queued *w = queue(stream, ATTEND);
    struct kernel_attend *to = w->items = copied(items, count * sizeof *items);
    w->count = count;
    w->to = workspace;
    for (size_t i = 0; i < count; i++)
        to[i].pages = copied(items[i].pages, layout_pages_of_rows(items[i].settled_rows) * sizeof *items[i].pages);
    pthread_mutex_unlock(&lock);
    return 0;
}

/* ---------- events ---------- */

static int fence_make(struct kernel_backend *b, struct fake_events *events, unsigned own_event,
                      struct kernel_fence **ret) {
    int r = enter(b);
    if (r < 0)
        return r;
    *ret = calloc(1, sizeof **ret);
    **ret = (struct kernel_fence){events ? events : calloc(1, sizeof *events), own_event};
    (*ret)->events->users++;
    fake_device.allocations++;
    pthread_mutex_unlock(&lock);
    return 0;
}

static int fence_new(struct kernel_backend *b, struct kernel_fence **ret) {
    return fence_make(b, NULL, 1, ret);
}

static int fence_export(struct kernel_backend *b, struct kernel_fence *f, struct kernel_handle ret[2]) {
    (void)b;
    for (int i = 0; i < 2; i++) {
        ret[i] = (struct kernel_handle){.fd = -1};
        memcpy(ret[i].opaque, &f->events, sizeof f->events);
    }
    return 0;
}

static int fence_import(struct kernel_backend *b, const struct kernel_handle handles[2], struct kernel_fence **ret) {
    struct fake_events *events;
    memcpy(&events, handles[0].opaque, sizeof events);
    return events ? fence_make(b, events, 0, ret) : -EBADF;
}

static struct kernel_fence *fence_free(struct kernel_backend *b, struct kernel_fence *f) {
    (void)b;
    if (!f)
        return NULL;
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < STREAMS; i++)
        for (const struct fake_queued *w = streams[i].first; w; w = w->next)
            if (w->events == f->events && f->events->users == 1)
                fault("an event freed while work that is queued uses it");
    if (f->own == 1 && f->events->users > 1)
        fault("an event freed while a client has it open");
    if (--f->events->users == 0)
        free(f->events);
    free(f);
    fake_device.allocations--;
    pthread_mutex_unlock(&lock);
    return NULL;
}

static int fence_signal(struct kernel_backend *b, struct kernel_fence *f, void *stream) {
    int r = enter(b);
    if (r < 0)
        return r;
    struct fake_queued *w = queue(stream, RECORD);
    w->events = f->events;
    w->event = f->own;
    w->number = ++f->events->recorded[f->own];
    pthread_mutex_unlock(&lock);
    return 0;
}

static int fence_follow(struct kernel_backend *b, struct kernel_fence *f, bool own_event, void *stream) {
    int r = enter(b);
    if (r < 0)
        return r;
    struct fake_queued *w = queue(stream, FOLLOW);
    w->events = f->events;
    w->event = own_event ? f->own : !f->own;
    w->number = f->events->recorded[w->event];
    pthread_mutex_unlock(&lock);
    return 0;
}

static int fence_wait(struct kernel_backend *b, struct kernel_fence *f, bool own_event, uint32_t timeout_us) {
    int r = enter(b);
    if (r < 0)
        return r;
    unsigned event = own_event ? f->own : !f->own;
    if (timeout_us && !fake_device.stuck)
        reach(f->events, event, f->events->recorded[event]);
    r = f->events->reached[event] < f->events->recorded[event] ? -EAGAIN : 0;
    pthread_mutex_unlock(&lock);
    return r;
}

static const struct kernel_streams operations = {.own = own,
                                                 .wait = wait,
                                                 .memory_new = memory_new,
                                                 .memory_free = memory_free,
                                                 .fill_zero = fill_zero,
                                                 .transfer = transfer,
                                                 .append = append,
                                                 .attend_workspace = attend_workspace,
                                                 .attend = attend,
                                                 .fence_new = fence_new,
                                                 .fence_export = fence_export,
                                                 .fence_import = fence_import,
                                                 .fence_free = fence_free,
                                                 .fence_signal = fence_signal,
                                                 .fence_follow = fence_follow,
                                                 .fence_wait = fence_wait,
                                                 .closed = closed,
                                                 .lost = lost};

/* Not written again: several threads ask for them. */
#define BACKEND                                                                                                  \
    {                                                                                                            \
        .name = "cuda", .path = "fake", .device = FAKE_DEVICE_NAME,                                              \
        .storage_dtypes = (1u << KERNEL_ELEMENT_DTYPES) - 1, .streams = &operations, .segment_new = segment_new, \
        .segment_free = segment_free, .segment_export = segment_export, .segment_import = segment_import,        \
        .segment_address = segment_address, .settle = settle                                                     \
    }

static struct kernel_backend client_backend = BACKEND, daemon_backend = BACKEND;

struct kernel_backend *fake_device_client(void) {
    return &client_backend;
}

struct kernel_backend *fake_device_daemon(void) {
    return &daemon_backend;
}

void fake_device_discard(void) {
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < STREAMS; i++)
        while (streams[i].first) {
            struct fake_queued *next = streams[i].first->next;
            fake_work_free(streams[i].first);
            streams[i].first = next;
        }
    memset(streams, 0, sizeof streams);
    pthread_mutex_unlock(&lock);
}

void fake_device_reset(void) {
    fake_device_discard();
    fake_device = (struct fake_device){.fail_after = -1};
}
