/* memory.c - segments of host memory: one memfd each, mapped by its owner (the daemon) and by at most one importer.
 *
 * The owner must be able to take memory back at once, and an importer must not be able to do harm to it. The seals
 * follow from that, and they differ by access:
 *
 *   settled   F_SEAL_FUTURE_WRITE, set after the owner's own writable mapping: from then on nobody can write to the
 *             file, map it writable or punch a hole into it, root included. F_SEAL_GROW. Not F_SEAL_SHRINK: the seal
 *             above forbids the owner, too, to punch holes, so truncating the file to 0 is the only way to take the
 *             memory from importers, and segment_free does that. An importer must therefore not be able to
 *             truncate: what it gets is a second, read-only opening of the file, and mode 0400 keeps other users from
 *             opening it anew through /proc. (A process of the daemon's own user could; it could also trace the
 *             daemon. The contents are safe even from that one.) After segment_free an importer that still touches
 *             the memory gets SIGBUS.
 *   fresh     F_SEAL_SHRINK and F_SEAL_GROW: the importer's descriptor is writable, and a truncated file would kill
 *             the daemon when it reads fresh rows. segment_free punches one hole over everything instead; an importer
 *             that still has it mapped reads zeros, and what it writes there from then on is its own memory.
 *
 *   settled,  as settled, but without F_SEAL_FUTURE_WRITE: a later process of the owner has to map the file writable,
 * and kept      that seal would keep it from that, too. The contents are then as safe as the memory itself is from
 *             truncation: from every importer of another user, but neither from root nor from the daemon's own user.
 *
 * Seals, size and mode also tell a later owner what a descriptor is (segment_adopt): nothing else about it is believed.
 *
 * F_SEAL_SEAL closes the list. Memory is there when segment_new returns: fallocate() reports what a page fault would
 * punish with a signal. Sizes that are multiples of 2 MiB are mapped at such an address and offered to huge pages;
 * populating through the mapping is what can give them, so it comes before fallocate(), whose result counts. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14; older ones answer EINVAL, which is as good */
#endif

#define GRANULE ((size_t)4096)
#define HUGE_BYTES ((size_t)2 << 20)

struct kernel_segment {
    char *address;
    size_t bytes;
    enum kernel_access access;
    int fd; /* the owner's; -1 at an importer, which needs none once it has mapped */
};

static bool access_valid(enum kernel_access access) {
    return access == KERNEL_ACCESS_SETTLED || access == KERNEL_ACCESS_FRESH;
}

static bool owner_access_valid(enum kernel_access access) {
    return access_valid(access) || access == KERNEL_ACCESS_SETTLED_KEPT;
}

static bool settled(enum kernel_access access) {
    return access != KERNEL_ACCESS_FRESH;
}

static int seals_of(enum kernel_access access) {
    static const int seals[] = {[KERNEL_ACCESS_SETTLED] = F_SEAL_FUTURE_WRITE,
                                [KERNEL_ACCESS_FRESH] = F_SEAL_SHRINK,
                                [KERNEL_ACCESS_SETTLED_KEPT] = 0};
    return F_SEAL_GROW | F_SEAL_SEAL | seals[access];
}

static bool size_valid(size_t bytes) {
    return bytes != 0 && bytes % GRANULE == 0 && bytes <= SIZE_MAX / 4;
}

/* Maps the whole file, at an address that is a multiple of 2 MiB if its size is one. */
static int map_file(int fd, size_t bytes, int protection, char **ret) {
    size_t align = bytes % HUGE_BYTES ? 0 : HUGE_BYTES;
    char *room = mmap(NULL, bytes + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return -errno;

    size_t skip = align ? (align - (uintptr_t)room % align) % align : 0;
    if (mmap(room + skip, bytes, protection, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
        int r = -errno;
        munmap(room, bytes + align);
        return r;
    }
    if (skip)
        munmap(room, skip);
    if (align - skip)
        munmap(room + skip + bytes, align - skip);
    if (align)
        madvise(room + skip, bytes, MADV_HUGEPAGE); /* a wish */
    *ret = room + skip;
    return 0;
}

static int allocate_file(int fd, int mode, size_t bytes) {
    int r;
    do
        r = fallocate(fd, mode, 0, (off_t)bytes);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

static int seal_file(int fd, enum kernel_access access) {
    if (settled(access) && fchmod(fd, 0400) < 0)
        return -errno;
    return fcntl(fd, F_ADD_SEALS, seals_of(access)) < 0 ? -errno : 0;
}

int host_segment_new(struct kernel_backend *b, enum kernel_access access, size_t bytes, struct kernel_segment **ret) {
    struct kernel_segment *s;
    int r;

    (void)b;
    if (!owner_access_valid(access) || !size_valid(bytes))
        return -EINVAL;
    s = malloc(sizeof *s);
    if (!s)
        return -ENOMEM;
    *s = (struct kernel_segment){.bytes = bytes, .access = access};

    s->fd = memfd_create(settled(access) ? "scissor-settled" : "scissor-fresh", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (s->fd < 0) {
        r = -errno;
        goto fail_memfd;
    }
    if (ftruncate(s->fd, (off_t)bytes) < 0) {
        r = -errno;
        goto fail_map;
    }
    r = map_file(s->fd, bytes, PROT_READ | PROT_WRITE, &s->address);
    if (r < 0)
        goto fail_map;
    madvise(s->address, bytes, MADV_POPULATE_WRITE); /* what it could not do, fallocate says */
    r = allocate_file(s->fd, 0, bytes);
    if (r < 0)
        goto fail_seal;
    r = seal_file(s->fd, access);
    if (r < 0)
        goto fail_seal;
    *ret = s;
    return 0;

fail_seal:
    munmap(s->address, bytes);
fail_map:
    close(s->fd);
fail_memfd:
    free(s);
    return r;
}

struct kernel_segment *host_segment_free(struct kernel_backend *b, struct kernel_segment *s) {
    (void)b;
    if (!s)
        return NULL;
    if (s->fd >= 0) {
        /* Neither can fail on a memfd of ours with these seals; if one did, the memory would live as long as its
         * last mapping, and nothing more could be done about it. */
        if (settled(s->access))
            (void)!ftruncate(s->fd, 0);
        else
            (void)!allocate_file(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, s->bytes);
        close(s->fd);
    }
    munmap(s->address, s->bytes);
    free(s);
    return NULL;
}

int host_segment_export(struct kernel_backend *b, struct kernel_segment *s, struct kernel_handle *ret) {
    char path[32];
    int fd;

    (void)b;
    if (s->fd < 0)
        return -EINVAL; /* an importer has nothing to give on */
    if (s->access == KERNEL_ACCESS_FRESH) {
        fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
    } else {
        /* A new opening, not a duplicate: a duplicate would share the owner's right to truncate. */
        snprintf(path, sizeof path, "/proc/self/fd/%d", s->fd);
        fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    if (fd < 0)
        return -errno;
    *ret = (struct kernel_handle){.fd = fd};
    return 0;
}

int host_segment_import(struct kernel_backend *b, enum kernel_access access, const struct kernel_handle *handle,
                        size_t bytes, struct kernel_segment **ret) {
    struct kernel_segment *s;
    struct stat status;
    int r;

    (void)b;
    if (!access_valid(access) || !size_valid(bytes))
        return -EINVAL;
    if (fstat(handle->fd, &status) < 0)
        return -errno;
    if (!S_ISREG(status.st_mode) || status.st_size != (off_t)bytes)
        return -EINVAL;
    s = malloc(sizeof *s);
    if (!s)
        return -ENOMEM;
    *s = (struct kernel_segment){.bytes = bytes, .access = access, .fd = -1};
    r = map_file(handle->fd, bytes, access == KERNEL_ACCESS_SETTLED ? PROT_READ : PROT_READ | PROT_WRITE, &s->address);
    if (r < 0) {
        free(s);
        return r;
    }
    close(handle->fd);
    *ret = s;
    return 0;
}

void *host_segment_address(struct kernel_segment *s) {
    return s->address;
}

/* ---------- from one owner to the next ---------- */

int host_segment_descriptor(struct kernel_segment *s) {
    return s->fd;
}

/* A file that host_segment_new() has made for this access, as far as anybody can tell. */
static int adoptable(int fd, enum kernel_access access, size_t bytes) {
    struct stat status;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fstat(fd, &status) < 0)
        return -EINVAL;
    if (!S_ISREG(status.st_mode) || status.st_size != (off_t)bytes || (flags & O_ACCMODE) != O_RDWR)
        return -EINVAL;
    if (settled(access) && (status.st_mode & 07777) != 0400)
        return -EINVAL;
    return fcntl(fd, F_GET_SEALS) == seals_of(access) ? 0 : -EINVAL;
}

int host_segment_adopt(struct kernel_backend *b, enum kernel_access access, int fd, size_t bytes,
                       struct kernel_segment **ret) {
    struct kernel_segment *s;

    (void)b;
    if ((access != KERNEL_ACCESS_FRESH && access != KERNEL_ACCESS_SETTLED_KEPT) || !size_valid(bytes))
        return -EINVAL;
    int r = adoptable(fd, access, bytes);
    if (r < 0)
        return r;
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return -errno;
    s = malloc(sizeof *s);
    if (!s)
        return -ENOMEM;
    *s = (struct kernel_segment){.bytes = bytes, .access = access, .fd = fd};
    r = map_file(fd, bytes, PROT_READ | PROT_WRITE, &s->address);
    if (r < 0) {
        free(s);
        return r;
    }
    /* Its former owner may have been interrupted when it revoked the memory: holes are filled, and with zeros. */
    r = allocate_file(fd, 0, bytes);
    if (r < 0) {
        munmap(s->address, bytes);
        free(s);
        return r;
    }
    *ret = s;
    return 0;
}

struct kernel_segment *host_segment_leave(struct kernel_backend *b, struct kernel_segment *s) {
    (void)b;
    if (!s)
        return NULL;
    if (s->fd >= 0)
        close(s->fd);
    munmap(s->address, s->bytes);
    free(s);
    return NULL;
}
