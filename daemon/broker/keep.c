/* keep.c - see keep.h. */
#include "keep.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "alloc.h"
#include "redo.h"
#include "scissor_error.h"
#include "snapshot.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14; older ones answer EINVAL, which is as good */
#endif

void (*keep_hook)(void);

static void step(void) {
    if (keep_hook)
        keep_hook();
}

/* ---------- names ---------- */

static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
#define NUMBER_END 3521614606208ull /* 62 to the power of 7 */

void keep_name(char kind, uint64_t number, char ret_name[KEEP_NAME_BYTES]) {
    char reversed[KEEP_NAME_BYTES];
    size_t n = 0, at = 0;
    assert(number < NUMBER_END);
    do {
        reversed[n++] = digits[number % 62];
        number /= 62;
    } while (number);
    ret_name[at++] = kind;
    while (n)
        ret_name[at++] = reversed[--n];
    ret_name[at] = 0;
}

bool keep_name_parse(const char *name, char *ret_kind, uint64_t *ret_number) {
    size_t length = strnlen(name, KEEP_NAME_BYTES);
    uint64_t number = 0;
    if (length < 2 || length == KEEP_NAME_BYTES || !strchr("abclfsp", name[0]) || name[1] == '0')
        return false;
    for (size_t i = 1; i < length; i++) {
        const char *digit = memchr(digits, name[i], sizeof digits - 1);
        if (!digit)
            return false;
        number = number * 62 + (uint64_t)(digit - digits);
    }
    *ret_kind = name[0];
    *ret_number = number;
    return true;
}

/* ---------- the store ---------- */

uint64_t keeper_number(struct keeper *k) {
    return atomic_fetch_add(&k->next, 1);
}

int keeper_promise(struct keeper *k, uint64_t count, bool anyway) {
    uint32_t promised = atomic_load(&k->promised);
    do {
        if (!anyway && (promised > k->store->max || count > k->store->max - promised))
            return SCISSOR_ELIMIT;
    } while (!atomic_compare_exchange_weak(&k->promised, &promised, promised + (uint32_t)count));
    return 0;
}

void keeper_take_back(struct keeper *k, uint32_t count) {
    atomic_fetch_sub(&k->promised, count);
}

int keeper_put(struct keeper *k, char kind, uint64_t number, int fd) {
    char name[KEEP_NAME_BYTES];
    if (number >= NUMBER_END)
        return SCISSOR_ESYSTEM;
    keep_name(kind, number, name);
    if (k->store->put(k->store, name, &fd, 1) < 0)
        return SCISSOR_ESYSTEM;
    atomic_fetch_add(&k->stored, 1);
    step();
    return 0;
}

void keeper_drop(struct keeper *k, char kind, uint64_t number) {
    char name[KEEP_NAME_BYTES];
    keep_name(kind, number, name);
    k->store->drop(k->store, name);
    atomic_fetch_sub(&k->stored, 1);
    step();
}

struct keep_process *keep_process_new(struct keeper *k, int pidfd, int *ret_code) {
    struct keep_process *p = scissor_malloc(sizeof *p);
    if (!p) {
        *ret_code = SCISSOR_ENOMEM;
        return NULL;
    }
    *p = (struct keep_process){.keeper = k, .number = keeper_number(k), .refs = 1};
    *ret_code = keeper_promise(k, 1, false);
    if (*ret_code < 0)
        return scissor_free(p);
    *ret_code = keeper_put(k, 'p', p->number, pidfd);
    if (*ret_code < 0) {
        keeper_take_back(k, 1);
        return scissor_free(p);
    }
    return p;
}

struct keep_process *keep_process_ref(struct keep_process *p) {
    p->refs++;
    return p;
}

struct keep_process *keep_process_unref(struct keep_process *p) {
    if (!p || --p->refs)
        return NULL;
    keeper_drop(p->keeper, 'p', p->number);
    keeper_take_back(p->keeper, 1);
    return scissor_free(p);
}

struct keep_process *keep_process_leave(struct keep_process *p) {
    if (!p || --p->refs)
        return NULL;
    return scissor_free(p);
}

/* ---------- state files ---------- */

static void file_close(struct keep_file *f) {
    if (f->memory)
        munmap(f->memory, f->bytes);
    if (f->fd >= 0)
        close(f->fd);
    *f = (struct keep_file){.fd = -1};
}

/* Makes the file larger, with memory that is really there. */
static int file_grow(struct keep_file *f, size_t bytes) {
    if (f->fd < 0 && (f->fd = memfd_create("scissor-state", MFD_CLOEXEC | MFD_ALLOW_SEALING)) < 0)
        return SCISSOR_ENOMEM;
    int r;
    do
        r = fallocate(f->fd, 0, 0, (off_t)bytes);
    while (r < 0 && errno == EINTR);
    void *memory = MAP_FAILED;
    if (r == 0)
        memory = f->memory ? mremap(f->memory, f->bytes, bytes, MREMAP_MAYMOVE)
                           : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
    if (memory == MAP_FAILED) {
        (void)!ftruncate(f->fd, (off_t)f->bytes);
        return SCISSOR_ENOMEM;
    }
    step();
    f->memory = memory;
    madvise(f->memory + f->bytes, bytes - f->bytes, MADV_POPULATE_WRITE); /* a wish */
    f->bytes = bytes;
    return 0;
}

static void file_shrink(struct keep_file *f, size_t bytes) {
    void *memory = mremap(f->memory, f->bytes, bytes, 0);
    if (memory == MAP_FAILED)
        return;
    f->bytes = bytes;
    (void)!ftruncate(f->fd, (off_t)bytes); /* cannot fail on a file of ours */
    step();
}

int keep_file_adopt(struct keep_file *f, int fd) {
    struct stat status;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) != O_RDWR || fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) ||
        status.st_size <= 0 || status.st_size % 4096 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return SCISSOR_EINVAL;
    void *memory = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return SCISSOR_EINVAL;
    *f = (struct keep_file){.fd = fd, .memory = memory, .bytes = (size_t)status.st_size};
    return 0;
}

/* ---------- sizes ---------- */

static size_t redo_offset(const struct session *s, size_t extra) {
    size_t bytes = snapshot_base_bytes(s) + extra;
    for (uint32_t i = 0; i < s->group_count; i++)
        bytes += s->groups[i].segments * snapshot_segment_bytes(&s->groups[i]);
    return session_round(bytes);
}

static size_t file_bytes(const struct session *s, size_t snapshot_extra, size_t redo_extra) {
    size_t bytes = redo_base_bytes(s) + redo_extra;
    for (uint32_t i = 0; i < s->group_count; i++)
        bytes += s->groups[i].segments * redo_segment_bytes(&s->groups[i]);
    return redo_offset(s, snapshot_extra) + session_round(bytes);
}

size_t keep_redo_offset(const struct session *s) {
    return redo_offset(s, 0);
}

size_t keep_file_bytes(const struct session *s) {
    return file_bytes(s, 0, 0);
}

uint64_t keep_base_cost(const struct session *s) {
    uint64_t rounding = 2 * 4095;
    return s->keep ? sizeof *s->keep + 2 * (snapshot_base_bytes(s) + redo_base_bytes(s) + rounding) : 0;
}

uint64_t keep_segment_cost(const struct session *s, const struct session_group *g) {
    return s->keep ? 2 * (snapshot_segment_bytes(g) + redo_segment_bytes(g)) : 0;
}

/* ---------- a session ---------- */

/* Descriptors that the session must be able to have: those of its guarantee at least. */
static uint64_t room_needed(const struct session *s) {
    uint64_t room = s->fresh_segments + 4u;
    for (uint32_t i = 0; i < s->group_count; i++) {
        const struct session_group *g = &s->groups[i];
        uint64_t guaranteed = session_group_segments(g, g->promised_pages);
        room += g->segments > guaranteed ? g->segments : guaranteed;
    }
    return room;
}

/* More room, or less. */
static int room_set(struct session *s, uint64_t room, bool anyway) {
    struct keep *keep = s->keep;
    int code = room > keep->room ? keeper_promise(keep->keeper, room - keep->room, anyway) : 0;
    if (code < 0)
        return code;
    if (room < keep->room)
        keeper_take_back(keep->keeper, keep->room - (uint32_t)room);
    keep->room = (uint32_t)room;
    return 0;
}

struct keep *keep_new(struct keeper *k, const struct proto_open *open) {
    struct keep *keep = scissor_calloc(1, sizeof *keep);
    if (!keep)
        return NULL;
    keep->keeper = k;
    keep->open = *open;
    keep->file[0].fd = keep->file[1].fd = -1;
    return keep;
}

struct keep *keep_free(struct keep *keep) {
    return scissor_free(keep);
}

static int put_segment(struct session *s, uint32_t id, char kind) {
    struct kernel_backend *device = s->pool->config.backend;
    struct session_segment *segment = &s->segments[id];
    uint64_t number = keeper_number(s->keep->keeper);
    int code = keeper_put(s->keep->keeper, kind, number, device->segment_descriptor(segment->memory));
    if (code == 0)
        segment->kept = number;
    return code;
}

static int put_pages(struct session *s) {
    struct kernel_backend *host = s->pool->host;
    struct keep *keep = s->keep;
    int code = keeper_put(keep->keeper, 'c', s->id, host->segment_descriptor(s->control));
    keep->put_control = code == 0;
    if (code == 0) {
        code = keeper_put(keep->keeper, 'l', s->id, host->segment_descriptor(s->lease));
        keep->put_lease = code == 0;
    }
    return code;
}

static int put_files(struct session *s) {
    struct keep *keep = s->keep;
    for (uint32_t i = 0; i < 2; i++) {
        int code = file_grow(&keep->file[i], keep_file_bytes(s));
        if (code == 0)
            code = keeper_put(keep->keeper, "ab"[i], s -> id, keep -> file[i].fd);
        if (code < 0)
            return code;
        keep->put_state[i] = true;
    }
    return 0;
}

int keep_open(struct session *s) {
    struct keep_counts counts = s->job.counts;
    counts.generation = 1;
    int code = room_set(s, room_needed(s), false);
    for (uint32_t i = 0; i < s->fresh_segments && code == 0; i++)
        code = put_segment(s, i, 'f');
    if (code == 0)
        code = put_pages(s);
    if (code == 0)
        code = put_files(s);
    if (code < 0)
        return code;
    snapshot_write(s, &counts, 0, 0, s->keep->file[0].memory);
    step();
    snapshot_publish(s->keep->file[0].memory, s->keep->sequence = 1);
    step();
    return 0;
}

/* The one that does not count goes first: without the other it would be the state of a settle ago that counts. */
static void spoil(struct keep *keep) {
    for (uint32_t i = 0; i < 2; i++) {
        struct keep_file *file = &keep->file[i ? keep->active : !keep->active];
        if (file->memory)
            snapshot_spoil(file->memory);
        step();
    }
}

void keep_close(struct session *s) {
    struct keep *keep = s->keep;
    spoil(keep);
    for (uint32_t i = 0; s->segments && i < s->segment_capacity; i++)
        if (s->segments[i].kept)
            keeper_drop(keep->keeper, i < s->fresh_segments ? 'f' : 's', s->segments[i].kept);
    if (keep->put_control)
        keeper_drop(keep->keeper, 'c', s->id);
    if (keep->put_lease)
        keeper_drop(keep->keeper, 'l', s->id);
    for (uint32_t i = 0; i < 2; i++) {
        if (keep->put_state[i])
            keeper_drop(keep->keeper, "ab"[i], s -> id);
        file_close(&keep->file[i]);
        keep->put_state[i] = false;
    }
    keep->put_control = keep->put_lease = false;
    room_set(s, 0, true);
}

void keep_leave(struct session *s) {
    for (uint32_t i = 0; i < 2; i++)
        file_close(&s->keep->file[i]);
}

int keep_grow(struct session *s, uint32_t group) {
    struct session_group *g = &s->groups[group];
    size_t bytes = file_bytes(s, snapshot_segment_bytes(g), redo_segment_bytes(g));
    g->segments++;
    int code = room_set(s, room_needed(s), false);
    g->segments--;
    if (code < 0)
        return code;
    for (uint32_t i = 0; i < 2; i++)
        if (bytes > s->keep->file[i].bytes && file_grow(&s->keep->file[i], bytes) < 0) {
            keep_trim(s);
            return SCISSOR_ENOMEM;
        }
    return 0;
}

void keep_trim(struct session *s) {
    size_t bytes = keep_file_bytes(s);
    for (uint32_t i = 0; i < 2; i++)
        if (s->keep->file[i].bytes > bytes)
            file_shrink(&s->keep->file[i], bytes);
    room_set(s, room_needed(s), true);
}

void keep_spoil(struct session *s) {
    s->keep->spoilt = true;
    spoil(s->keep);
}

int keep_renew(struct session *s, const struct keep_counts *counts) {
    struct keep *keep = s->keep;
    size_t bytes = keep_file_bytes(s);
    for (uint32_t i = 0; i < 2; i++)
        if (keep->file[i].bytes < bytes && file_grow(&keep->file[i], bytes) < 0)
            return SCISSOR_ENOMEM;
    char *memory = keep->file[!keep->active].memory;
    snapshot_spoil(memory);
    step();
    snapshot_write(s, counts, 0, 0, memory);
    step();
    snapshot_publish(memory, ++keep->sequence);
    step();
    keep->active = !keep->active;
    keep_trim(s);
    return 0;
}

/* ---------- a change ---------- */

void keep_begin(struct session *s) {
    struct keep *keep = s->keep;
    snapshot_spoil(keep->file[!keep->active].memory);
    step();
    keep->redo_at = keep_redo_offset(s);
    keep->redo_used = 0;
}

int keep_commit(struct session *s, const struct keep_counts *after, struct kernel_settle *items, uint32_t item_count) {
    struct keep *keep = s->keep;
    char *memory = keep->file[!keep->active].memory;
    snapshot_write(s, after, keep->redo_at, keep->redo_used, memory);
    step();
    snapshot_publish(memory, ++keep->sequence);
    step();
    keep->active = !keep->active;
    int code = redo_run(s, memory + keep->redo_at, keep->redo_used, items, item_count);
    step();
    if (code == 0)
        snapshot_done(memory);
    step();
    return code;
}
