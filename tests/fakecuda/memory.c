/* memory.c - allocations of a device, their IPC handles, and pinned memory.
 *
 * New memory is full of 0xa5, as a driver's is of whatever was there. Freed and closed memory stays mapped without any
 * access, so that whatever still reads it dies. Kernels see memory from the end of the call that makes it until that of
 * the call that ends it. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake.h"

#define MAGIC "fakemem"

struct handle {
    char magic[8];
    uint64_t serial, slot;
    int64_t owner;
};
_Static_assert(sizeof(struct handle) <= sizeof(cuda_memory_handle), "fits");

static struct fake_map maps[FAKE_MAPS];
static unsigned map_count;

/* ---------- maps ---------- */

struct fake_map *fake_find(const void *address) {
    for (unsigned i = 0; i < map_count; i++)
        if ((uintptr_t)address - (uintptr_t)maps[i].address < maps[i].bytes)
            return &maps[i];
    return NULL;
}

cuda_result fake_touch(const void *address, size_t bytes, struct fake_map **ret) {
    struct fake_map *map = fake_find(address);
    if (!map)
        return CUDA_INVALID_VALUE;
    if (!map->live)
        fake_break(map->imported ? FAKE_RULE_use_after_close : FAKE_RULE_use_after_free, "queued work", map->serial);
    if (bytes > map->bytes - (size_t)((uintptr_t)address - (uintptr_t)map->address))
        fake_break(FAKE_RULE_out_of_bounds, "queued work", map->serial);
    map->queued++;
    *ret = map;
    return 0;
}

static struct fake_map *map_add(int fd, size_t bytes) {
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *memory;
    if (map_count == FAKE_MAPS)
        return NULL;
    memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (memory == MAP_FAILED)
        return NULL;
    maps[map_count] = (struct fake_map){.address = memory, .bytes = bytes, .live = true};
    return &maps[map_count++];
}

/* Of one that is no longer live; not under the lock, as a launch may be running. */
static void map_end(const struct fake_map *map) {
    fake_memory_hide(map);
    mmap(map->address, map->bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

/* ---------- allocations ---------- */

static pid_t importer_alive(struct fake_allocation *a) {
    for (unsigned i = 0; i < FAKE_IMPORTERS; i++) {
        if (a->importers[i] && fake_alive(a->importers[i]))
            return a->importers[i];
        a->importers[i] = 0;
    }
    return 0;
}

/* What dead processes have left, as a driver would. */
static void collect(void) {
    for (unsigned i = 0; i < FAKE_ALLOCATIONS; i++) {
        struct fake_allocation *a = &fake_state->allocations[i];
        if (a->serial && !fake_alive(a->owner) && !importer_alive(a)) {
            fake_unlink(a->serial);
            a->serial = 0;
        }
    }
}

static size_t taken(int device) {
    size_t bytes = 0;
    for (unsigned i = 0; i < FAKE_ALLOCATIONS; i++)
        if (fake_state->allocations[i].serial && fake_state->allocations[i].device == device)
            bytes += fake_state->allocations[i].bytes;
    return bytes;
}

static cuda_result allocate(size_t bytes, struct fake_map **ret) {
    int device = fake_context()->device;
    struct fake_allocation *a = fake_state->allocations;
    collect();
    if (bytes == 0)
        return CUDA_INVALID_VALUE;
    if (bytes > fake_devices[device].bytes - taken(device))
        return CUDA_OUT_OF_MEMORY;
    while (a < fake_state->allocations + FAKE_ALLOCATIONS && a->serial)
        a++;
    if (a == fake_state->allocations + FAKE_ALLOCATIONS)
        return CUDA_OUT_OF_MEMORY;

    uint64_t serial = ++fake_state->serial;
    int fd = fake_open(serial, O_CREAT | O_EXCL);
    struct fake_map *map = fd >= 0 && ftruncate(fd, (off_t)bytes) == 0 ? map_add(fd, bytes) : NULL;
    if (fd >= 0)
        close(fd);
    if (!map)
        return CUDA_OPERATING_SYSTEM;
    memset(map->address, 0xa5, bytes);
    *a = (struct fake_allocation){
        .serial = serial, .owner = getpid(), .device = device, .bytes = bytes, .write_stream = -1};
    map->serial = serial;
    map->allocation = a;
    *ret = map;
    return 0;
}

cuda_result cuMemAlloc_v2(cuda_address *ret, size_t bytes) {
    struct fake_map *map;
    FAKE_ENTER(cuMemAlloc_v2, true);
    fake_lock();
    cuda_result code = allocate(bytes, &map);
    fake_unlock();
    if (code == 0) {
        fake_memory_show(map);
        *ret = (uintptr_t)map->address;
    }
    return code;
}

cuda_result cuMemFree_v2(cuda_address address) {
    FAKE_ENTER(cuMemFree_v2, true);
    fake_lock();
    struct fake_map *map = fake_find((void *)(uintptr_t)address);
    if (!map || map->imported || !map->serial || (uintptr_t)map->address != address) {
        fake_unlock();
        return CUDA_INVALID_VALUE;
    }
    if (!map->live)
        fake_break(FAKE_RULE_double_free, "cuMemFree", map->serial);
    if (importer_alive(map->allocation))
        fake_break(FAKE_RULE_free_imported, "cuMemFree", map->serial);
    if (map->queued)
        fake_break(FAKE_RULE_free_queued, "cuMemFree", map->serial);
    fake_unlink(map->serial);
    map->allocation->serial = 0;
    map->live = false;
    fake_unlock();
    map_end(map);
    return 0;
}

size_t fakecuda_memory_taken(void) {
    fake_lock();
    collect();
    size_t bytes = taken(fake_context()->device);
    fake_unlock();
    return bytes;
}

/* ---------- handles ---------- */

cuda_result cuIpcGetMemHandle(cuda_memory_handle *ret, cuda_address address) {
    FAKE_ENTER(cuIpcGetMemHandle, true);
    fake_lock();
    struct fake_map *map = fake_find((void *)(uintptr_t)address);
    bool own = map && map->serial && !map->imported;
    if (own && !map->live)
        fake_break(FAKE_RULE_use_after_free, "cuIpcGetMemHandle", map->serial);
    if (own) {
        struct handle h = {.magic = MAGIC,
                           .serial = map->serial,
                           .slot = (uint64_t)(map->allocation - fake_state->allocations),
                           .owner = getpid()};
        memset(ret, 0, sizeof *ret);
        memcpy(ret, &h, sizeof h);
    }
    fake_unlock();
    return own ? 0 : CUDA_INVALID_VALUE;
}

static cuda_result open_handle(const struct handle *h, struct fake_map **ret) {
    if (memcmp(h->magic, MAGIC, sizeof h->magic) || h->slot >= FAKE_ALLOCATIONS)
        return CUDA_INVALID_VALUE;
    struct fake_allocation *a = &fake_state->allocations[h->slot];
    if (a->serial != h->serial || !fake_alive(a->owner))
        return CUDA_INVALID_VALUE;
    if (a->owner == getpid())
        return CUDA_INVALID_CONTEXT;
    for (unsigned i = 0; i < map_count; i++)
        if (maps[i].live && maps[i].serial == h->serial)
            fake_break(FAKE_RULE_double_open, "cuIpcOpenMemHandle", h->serial);
    importer_alive(a); /* forgets the first dead ones */
    unsigned slot = 0;
    while (slot < FAKE_IMPORTERS && a->importers[slot])
        slot++;
    int fd = slot < FAKE_IMPORTERS ? fake_open(a->serial, 0) : -1;
    struct fake_map *map = fd >= 0 ? map_add(fd, a->bytes) : NULL;
    if (fd >= 0)
        close(fd);
    if (!map)
        return CUDA_MAP_FAILED;
    a->importers[slot] = getpid();
    map->serial = a->serial;
    map->allocation = a;
    map->imported = true;
    *ret = map;
    return 0;
}

cuda_result cuIpcOpenMemHandle_v2(cuda_address *ret, cuda_memory_handle handle, unsigned flags) {
    struct handle h;
    struct fake_map *map;
    FAKE_ENTER(cuIpcOpenMemHandle_v2, true);
    if (flags != CUDA_IPC_LAZY_PEER_ACCESS)
        return CUDA_INVALID_VALUE;
    memcpy(&h, &handle, sizeof h);
    fake_lock();
    cuda_result code = open_handle(&h, &map);
    fake_unlock();
    if (code == 0) {
        fake_memory_show(map);
        *ret = (uintptr_t)map->address;
    }
    return code;
}

cuda_result cuIpcCloseMemHandle(cuda_address address) {
    FAKE_ENTER(cuIpcCloseMemHandle, true);
    fake_lock();
    struct fake_map *map = fake_find((void *)(uintptr_t)address);
    if (!map || !map->imported || (uintptr_t)map->address != address) {
        fake_unlock();
        return CUDA_INVALID_VALUE;
    }
    if (!map->live)
        fake_break(FAKE_RULE_double_close, "cuIpcCloseMemHandle", map->serial);
    if (map->queued)
        fake_break(FAKE_RULE_close_queued, "cuIpcCloseMemHandle", map->serial);
    for (unsigned i = 0; i < FAKE_IMPORTERS; i++)
        if (map->allocation->serial == map->serial && map->allocation->importers[i] == getpid())
            map->allocation->importers[i] = 0;
    map->live = false;
    fake_unlock();
    map_end(map);
    return 0;
}

/* ---------- pinned memory ---------- */

cuda_result cuMemHostAlloc(void **ret, size_t bytes, unsigned flags) {
    FAKE_ENTER(cuMemHostAlloc, true);
    if (bytes == 0 || flags & ~7u)
        return CUDA_INVALID_VALUE;
    fake_lock();
    struct fake_map *map = map_add(-1, bytes);
    fake_unlock();
    if (!map)
        return CUDA_OUT_OF_MEMORY;
    fake_memory_show(map);
    *ret = map->address;
    return 0;
}

cuda_result cuMemFreeHost(void *memory) {
    FAKE_ENTER(cuMemFreeHost, true);
    fake_lock();
    struct fake_map *map = fake_find(memory);
    if (!map || map->serial || map->address != memory) {
        fake_unlock();
        return CUDA_INVALID_VALUE;
    }
    if (!map->live)
        fake_break(FAKE_RULE_double_free, "cuMemFreeHost", 0);
    if (map->queued)
        fake_break(FAKE_RULE_host_free_queued, "cuMemFreeHost", 0);
    map->live = false;
    fake_unlock();
    map_end(map);
    return 0;
}
