/* memory.c - which memory kernels may access: a sorted array of regions, each with its cells. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "internal.h"

static struct region *regions;
static size_t region_count, region_room;
static size_t last_found;

static void *pages_new(size_t bytes) {
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) {
        perror("emulator: mmap");
        abort();
    }
    return pages;
}

static size_t cells_bytes(const struct region *r) {
    return ((r->end - r->begin) / CELL_BYTES + 2) * sizeof(struct cell);
}

/* Index of the first region that ends behind `at`. */
static size_t region_index(uintptr_t at) {
    size_t low = 0, high = region_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (regions[middle].end > at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

struct region *region_find(uintptr_t at, size_t bytes) {
    size_t i = last_found;
    if (i >= region_count || at < regions[i].begin || at >= regions[i].end)
        i = region_index(at);
    if (i >= region_count || at < regions[i].begin || bytes > regions[i].end - at)
        return NULL;
    last_found = i;
    return &regions[i];
}

const struct region *region_nearest(uintptr_t at) {
    size_t i = region_index(at);
    if (i > 0 && (i == region_count || (at < regions[i].begin && at - regions[i - 1].end < regions[i].begin - at)))
        i--;
    return i < region_count ? &regions[i] : NULL;
}

static void region_insert(void *memory, size_t bytes, bool writable, bool own) {
    struct region r = {.begin = (uintptr_t)memory, .end = (uintptr_t)memory + bytes, .writable = writable, .own = own};
    size_t i = region_index(r.begin);
    if (region_count == region_room) {
        region_room = 2 * region_room + 16;
        regions = realloc(regions, region_room * sizeof *regions);
        if (!regions)
            abort();
    }
    memmove(regions + i + 1, regions + i, (region_count - i) * sizeof *regions);
    r.cells = pages_new(cells_bytes(&r));
    regions[i] = r;
    region_count++;
}

/* The region that begins there. */
static struct region *region_at(void *memory) {
    struct region *r = region_find((uintptr_t)memory, 1);
    if (!r || r->begin != (uintptr_t)memory) {
        fprintf(stderr, "emulator: no memory begins at %p\n", memory);
        abort();
    }
    return r;
}

static void region_remove(struct region *r) {
    munmap(r->cells, cells_bytes(r));
    memmove(r, r + 1, (size_t)(regions + region_count - (r + 1)) * sizeof *r);
    region_count--;
}

/* Between what may be accessed and the ends of its pages lies nothing that is allowed. */
#define MARGIN 256u

void *emulator_memory_new(size_t bytes) {
    char *memory = aligned_alloc(MARGIN, (bytes + 3 * MARGIN - 1) / MARGIN * MARGIN);
    if (!memory)
        abort();
    memset(memory, 0xff, (bytes + 3 * MARGIN - 1) / MARGIN * MARGIN);
    region_insert(memory + MARGIN, bytes, true, true);
    return memory + MARGIN;
}

void emulator_memory_free(void *memory) {
    if (!memory)
        return;
    region_remove(region_at(memory));
    free((char *)memory - MARGIN);
}

void emulator_memory_allow(void *memory, size_t bytes, bool writable) {
    region_insert(memory, bytes, writable, false);
}

void emulator_memory_forbid(void *memory) {
    region_remove(region_at(memory));
}

void emulator_memory_writable(void *memory, bool writable) {
    region_at(memory)->writable = writable;
}

void emulator_memory_touched(void (*tell)(void *data, void *memory, bool loaded, bool stored), void *data) {
    uint32_t launch = emulation.launch_epoch;
    for (size_t i = 0; i < region_count; i++) {
        const struct region *r = &regions[i];
        if (r->loaded == launch || r->stored == launch)
            tell(data, (void *)r->begin, r->loaded == launch, r->stored == launch);
    }
}
