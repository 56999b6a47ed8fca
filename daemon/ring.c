/* ring.c - the shared ring; no lock, each cursor is written by one side.
 *
 * Sleeping: after a push the producer looks whether the consumer had taken all records before this one, and only then
 * wakes it; the consumer looks at the head once more after it has published its tail and cleared its eventfd. Both
 * pairs are "store mine, then load the other's" in one total order, so one of the two sees the other. The same holds
 * for the producer's `waiting` flag and the consumer's tail. */
#include "daemon/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "score.h"

#define RING_HEAD_BYTES 4096u
#define RING_MASK (RING_BYTES - 1)

static_assert((RING_BYTES & RING_MASK) == 0, "a power of two");
static_assert(RING_BYTES >= 2 * (PROTO_SCORE_MAX + 8), "room for the largest frame");

/* Each side's words on cache lines of their own. */
struct ring_shared {
    _Atomic uint64_t head __attribute__((aligned(64)));    /* producer: bytes written */
    _Atomic uint64_t pushed;                               /* producer: records written */
    _Atomic uint64_t malformed, overrun;                   /* producer */
    _Atomic uint64_t tail __attribute__((aligned(64)));    /* consumer: bytes taken */
    _Atomic uint64_t popped;                               /* consumer: records taken */
    _Atomic uint32_t waiting __attribute__((aligned(64))); /* producer sets, consumer clears */
};
static_assert(sizeof(struct ring_shared) <= RING_HEAD_BYTES, "fits before the data");
static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "shared between processes");

static uint64_t ring_record_bytes(size_t size) {
    return (sizeof(uint32_t) + size + 7) & ~(uint64_t)7;
}

static int ring_map(struct ring *ring, int fd) {
    void *memory = mmap(NULL, RING_HEAD_BYTES + RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return -errno;
    *ring = (struct ring){.shared = memory, .data = (uint8_t *)memory + RING_HEAD_BYTES};
    return 0;
}

int ring_new(struct ring *ring, int *ret_fd) {
    int fd = memfd_create("scissord-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    int r = 0;
    if (ftruncate(fd, RING_HEAD_BYTES + RING_BYTES) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        r = -errno;
    if (r == 0)
        r = ring_map(ring, fd);
    if (r < 0) {
        close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

int ring_attach(struct ring *ring, int fd) {
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    return st.st_size == RING_HEAD_BYTES + RING_BYTES ? ring_map(ring, fd) : -EINVAL;
}

void ring_deinit(struct ring *ring) {
    if (ring->shared)
        munmap(ring->shared, RING_HEAD_BYTES + RING_BYTES);
    *ring = (struct ring){0};
}

static void ring_write(struct ring *ring, uint64_t at, const void *bytes, size_t size) {
    size_t offset = at & RING_MASK, first = RING_BYTES - offset < size ? RING_BYTES - offset : size;
    memcpy(ring->data + offset, bytes, first);
    memcpy(ring->data, (const char *)bytes + first, size - first);
}

static void ring_read(const struct ring *ring, uint64_t at, void *bytes, size_t size) {
    size_t offset = at & RING_MASK, first = RING_BYTES - offset < size ? RING_BYTES - offset : size;
    memcpy(bytes, ring->data + offset, first);
    memcpy((char *)bytes + first, ring->data, size - first);
}

static bool ring_has_room(const struct ring *ring, uint64_t bytes) {
    uint64_t used = ring->cursor - atomic_load(&ring->shared->tail);
    return ring->records - atomic_load(&ring->shared->popped) < RING_RECORDS_MAX && used <= RING_BYTES &&
           bytes <= RING_BYTES - used;
}

int ring_push(struct ring *ring, const void *frame, size_t size, bool *ret_wake) {
    if (size == 0 || size > PROTO_SCORE_MAX)
        return -EINVAL;
    uint64_t bytes = ring_record_bytes(size), before = ring->cursor;
    if (!ring_has_room(ring, bytes))
        return RING_FULL;
    uint32_t size32 = (uint32_t)size;
    ring_write(ring, before, &size32, sizeof size32);
    ring_write(ring, before + sizeof size32, frame, size);
    ring->cursor += bytes;
    ring->records++;
    atomic_store(&ring->shared->pushed, ring->records);
    atomic_store(&ring->shared->head, ring->cursor);
    *ret_wake = atomic_load(&ring->shared->tail) == before;
    return 0;
}

bool ring_wait_for_room(struct ring *ring) {
    atomic_store(&ring->shared->waiting, 1);
    /* Room for the largest frame, so that whatever waits fits. */
    if (!ring_has_room(ring, ring_record_bytes(PROTO_SCORE_MAX)))
        return true;
    atomic_store(&ring->shared->waiting, 0);
    return false;
}

void ring_count_malformed(struct ring *ring) {
    atomic_fetch_add(&ring->shared->malformed, 1);
}

void ring_count_overrun(struct ring *ring) {
    atomic_fetch_add(&ring->shared->overrun, 1);
}

int ring_pop(struct ring *ring, void *frame, size_t *ret_size, bool *ret_wake) {
    uint64_t there = atomic_load(&ring->shared->head) - ring->cursor;
    uint32_t size;
    if (there == 0)
        return RING_EMPTY;
    if (there > RING_BYTES || there < ring_record_bytes(1))
        return -EBADMSG;
    ring_read(ring, ring->cursor, &size, sizeof size);
    if (size == 0 || size > PROTO_SCORE_MAX || ring_record_bytes(size) > there)
        return -EBADMSG;
    ring_read(ring, ring->cursor + sizeof size, frame, size);
    ring->cursor += ring_record_bytes(size);
    ring->records++;
    atomic_store(&ring->shared->popped, ring->records);
    atomic_store(&ring->shared->tail, ring->cursor);
    *ret_size = size;
    /* Not for each record: the producer comes back when half of them are gone. */
    *ret_wake = atomic_load(&ring->shared->waiting) &&
                atomic_load(&ring->shared->pushed) - ring->records <= RING_RECORDS_MAX / 2 &&
                atomic_exchange(&ring->shared->waiting, 0);
    return 0;
}

bool ring_is_empty(const struct ring *ring) {
    return atomic_load(&ring->shared->head) == ring->cursor;
}

struct ring_counts ring_take_counts(struct ring *ring) {
    struct ring_counts now = {atomic_load(&ring->shared->malformed), atomic_load(&ring->shared->overrun)};
    struct ring_counts fresh = {now.malformed - ring->seen.malformed, now.overrun - ring->seen.overrun};
    ring->seen = now;
    return fresh;
}
