/* test_kernels_memory.c - segments: what a client can and cannot do with an exported descriptor, and that freed memory
 * is gone for it. Attacks run in a forked child as another user where the test is run by root; a skip says so where it
 * is not. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend.h"

#define SIZE ((size_t)SCISSOR_SEGMENT_BYTES)
#define NOBODY 65534

static struct kernel_backend *backend;

static struct kernel_segment *segment_new(enum kernel_access access, size_t bytes) {
    struct kernel_segment *s = NULL;
    assert_int_equal(backend->segment_new(backend, access, bytes, &s), 0);
    return s;
}

static int exported(struct kernel_segment *s) {
    struct kernel_handle handle = {.fd = -1};
    assert_int_equal(backend->segment_export(backend, s, &handle), 0);
    assert_true(handle.fd >= 0);
    assert_true(fcntl(handle.fd, F_GETFD) & FD_CLOEXEC);
    return handle.fd;
}

static struct kernel_segment *imported(enum kernel_access access, int fd, size_t bytes) {
    struct kernel_handle handle = {.fd = fd};
    struct kernel_segment *s = NULL;
    assert_int_equal(backend->segment_import(backend, access, &handle, bytes, &s), 0);
    assert_true(fcntl(fd, F_GETFD) < 0); /* taken over */
    return s;
}

static size_t bytes_held(int fd) {
    struct stat status;
    assert_int_equal(fstat(fd, &status), 0);
    return (size_t)status.st_blocks * 512;
}

static bool all_zero(const char *memory, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (memory[i])
            return false;
    return true;
}

static int lowest_free_fd(void) {
    int fd = dup(0);
    assert_true(fd >= 0);
    close(fd);
    return fd;
}

/* Exit status of a child that runs `body`; 128 + the signal that ended it. */
static int in_child(int (*body)(int), int argument) {
    int status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        signal(SIGBUS, SIG_DFL); /* a sanitizer's handler would turn it into an exit */
        _exit(body(argument));
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* A check in a child: says where it failed, and ends the child with 1. */
#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            dprintf(STDERR_FILENO, "child: line %d: %s, errno %d\n", __LINE__, #condition, errno); \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)
#define REQUIRE_FAILS(call, number) REQUIRE((call) < 0 && errno == (number))

static int open_again(int fd, int flags) {
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, flags | O_CLOEXEC);
}

static bool maps(int fd, int protection) {
    void *memory = mmap(NULL, SIZE, protection, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return false;
    munmap(memory, SIZE);
    return true;
}

/* ---------- settled ---------- */

/* What no client can do with the descriptor, whatever its user. */
static int attack_descriptor(int fd) {
    char byte = 1;
    REQUIRE_FAILS(write(fd, &byte, 1), EBADF);
    REQUIRE_FAILS(pwrite(fd, &byte, 1, 4096), EBADF);
    REQUIRE(ftruncate(fd, 0) < 0);
    REQUIRE(ftruncate(fd, 2 * (off_t)SIZE) < 0);
    REQUIRE_FAILS(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), EBADF);
    REQUIRE_FAILS(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), EPERM);
    REQUIRE(!maps(fd, PROT_READ | PROT_WRITE));
    char *memory = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
    REQUIRE(memory != MAP_FAILED && memory[0] == 'K' && memory[SIZE - 1] == 'V');
    REQUIRE_FAILS(mprotect(memory, SIZE, PROT_READ | PROT_WRITE), EACCES);
    REQUIRE(madvise(memory, SIZE, MADV_REMOVE) < 0);
    return 0;
}

static int attack_as_nobody(int fd) {
    REQUIRE(setresuid(NOBODY, NOBODY, NOBODY) == 0);
    REQUIRE(prctl(PR_SET_DUMPABLE, 1) == 0); /* or /proc/self would be root's, and prove nothing */
    int own = memfd_create("own", MFD_CLOEXEC);
    REQUIRE(own >= 0 && open_again(own, O_RDWR) >= 0);

    int r = attack_descriptor(fd);
    REQUIRE(r == 0);
    REQUIRE_FAILS(fchmod(fd, 0600), EPERM);
    REQUIRE_FAILS(open_again(fd, O_RDWR), EACCES);
    REQUIRE_FAILS(open_again(fd, O_WRONLY), EACCES);
    REQUIRE_FAILS(open_again(fd, O_RDWR | O_TRUNC), EACCES);
    return 0;
}

/* Root may open the file anew, but the seals hold. */
static int attack_as_root(int fd) {
    char byte = 1;
    int r = attack_descriptor(fd), again = open_again(fd, O_RDWR);
    REQUIRE(r == 0 && again >= 0);
    REQUIRE(!maps(again, PROT_READ | PROT_WRITE));
    REQUIRE(maps(again, PROT_READ));
    REQUIRE_FAILS(write(again, &byte, 1), EPERM);
    REQUIRE_FAILS(fallocate(again, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), EPERM);
    REQUIRE_FAILS(ftruncate(again, 2 * (off_t)SIZE), EPERM);
    return 0;
}

static int attack_as_owner(int fd) {
    int r = attack_descriptor(fd);
    REQUIRE(r == 0);
    REQUIRE_FAILS(open_again(fd, O_RDWR), EACCES);
    return 0;
}

static void test_settled_sealed(void **state) {
    struct kernel_segment *s = segment_new(KERNEL_ACCESS_SETTLED, SIZE);
    char *memory = backend->segment_address(s);
    int fd = exported(s);
    (void)state;

    memory[0] = 'K';
    memory[SIZE - 1] = 'V';
    if (geteuid() == 0) {
        assert_int_equal(in_child(attack_as_nobody, fd), 0);
        assert_int_equal(in_child(attack_as_root, fd), 0);
    } else {
        print_message("SKIP attacks of another user: not root\n");
        assert_int_equal(in_child(attack_as_owner, fd), 0);
    }
    assert_true(memory[0] == 'K' && memory[SIZE - 1] == 'V');
    memory[1] = 'x'; /* the owner still writes */
    close(fd);
    assert_null(backend->segment_free(backend, s));
}

static struct kernel_segment *seen_by_child;

static int read_first_byte(int unused) {
    (void)unused;
    return *(volatile char *)backend->segment_address(seen_by_child);
}

static void test_settled_revoked(void **state) {
    struct kernel_segment *owner = segment_new(KERNEL_ACCESS_SETTLED, SIZE);
    int fd = exported(owner), kept = dup(fd);
    (void)state;

    seen_by_child = imported(KERNEL_ACCESS_SETTLED, fd, SIZE);
    *(char *)backend->segment_address(owner) = 42;
    assert_int_equal(in_child(read_first_byte, 0), 42);
    assert_true(bytes_held(kept) >= SIZE);
    backend->segment_free(backend, owner);
    assert_int_equal(bytes_held(kept), 0);
    assert_int_equal(in_child(read_first_byte, 0), 128 + SIGBUS);
    close(kept);
    backend->segment_free(backend, seen_by_child);
}

/* ---------- fresh ---------- */

static int attack_fresh(int fd) {
    if (geteuid() == 0)
        REQUIRE(setresuid(NOBODY, NOBODY, NOBODY) == 0);
    REQUIRE_FAILS(ftruncate(fd, 0), EPERM);
    REQUIRE_FAILS(ftruncate(fd, 2 * (off_t)SIZE), EPERM);
    REQUIRE_FAILS(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EPERM);
    REQUIRE(maps(fd, PROT_READ | PROT_WRITE));
    return 0;
}

static void test_fresh_sealed(void **state) {
    struct kernel_segment *s = segment_new(KERNEL_ACCESS_FRESH, SIZE);
    int fd = exported(s);
    (void)state;
    assert_int_equal(in_child(attack_fresh, fd), 0);
    close(fd);
    backend->segment_free(backend, s);
}

static void test_fresh_revoked(void **state) {
    struct kernel_segment *owner = segment_new(KERNEL_ACCESS_FRESH, SIZE);
    int fd = exported(owner), kept = dup(fd);
    struct kernel_segment *importer = imported(KERNEL_ACCESS_FRESH, fd, SIZE);
    char *seen = backend->segment_address(importer);
    (void)state;

    memset(seen, 7, SIZE); /* both ends write the same memory */
    assert_int_equal(((char *)backend->segment_address(owner))[SIZE - 1], 7);
    assert_true(bytes_held(kept) >= SIZE);
    backend->segment_free(backend, owner);
    assert_int_equal(bytes_held(kept), 0);
    assert_true(all_zero(seen, SIZE));
    close(kept);
    backend->segment_free(backend, importer);
}

/* ---------- both ---------- */

static void test_new(void **state) {
    (void)state;
    for (int access = KERNEL_ACCESS_SETTLED; access <= KERNEL_ACCESS_SETTLED_KEPT; access++) {
        for (size_t bytes = 4096; bytes <= 2 * SIZE; bytes = bytes < SIZE ? SIZE : bytes + SIZE) {
            int before = lowest_free_fd();
            struct kernel_segment *s = segment_new(access, bytes);
            char *memory = backend->segment_address(s);
            int fd = exported(s);
            assert_true(bytes_held(fd) >= bytes);
            assert_true(bytes % SIZE || (uintptr_t)memory % SIZE == 0);
            assert_true(all_zero(memory, bytes));
            memset(memory, 0xa5, bytes); /* the next one must not see this */
            close(fd);
            backend->segment_free(backend, s);
            assert_int_equal(lowest_free_fd(), before);
        }
    }
}

static void test_new_refused(void **state) {
    struct kernel_segment *s = (void *)&backend;
    int before = lowest_free_fd();
    (void)state;
    assert_int_equal(backend->segment_new(backend, KERNEL_ACCESS_FRESH, 0, &s), -EINVAL);
    assert_int_equal(backend->segment_new(backend, KERNEL_ACCESS_FRESH, 4095, &s), -EINVAL);
    assert_int_equal(backend->segment_new(backend, KERNEL_ACCESS_FRESH, SIZE_MAX & ~(size_t)4095, &s), -EINVAL);
    assert_int_equal(backend->segment_new(backend, (enum kernel_access)7, SIZE, &s), -EINVAL);
    assert_true(backend->segment_new(backend, KERNEL_ACCESS_SETTLED, (size_t)1 << 48, &s) < 0); /* no such memory */
    assert_ptr_equal(s, &backend);
    assert_int_equal(lowest_free_fd(), before);
    assert_null(backend->segment_free(backend, NULL));
}

/* Without room in the descriptor table and with less address space than the segment takes. */
static int starve(int unused) {
    struct kernel_segment *s = NULL;
    struct kernel_handle handle;
    (void)unused;
    REQUIRE(backend->segment_new(backend, KERNEL_ACCESS_SETTLED, SIZE, &s) == 0);
    int limit = lowest_free_fd();
    REQUIRE(setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)limit, (rlim_t)limit}) == 0);
    REQUIRE(backend->segment_export(backend, s, &handle) == -EMFILE);
    REQUIRE(backend->segment_new(backend, KERNEL_ACCESS_FRESH, SIZE, &s) == -EMFILE);
    backend->segment_free(backend, s);
    REQUIRE(setrlimit(RLIMIT_FSIZE, &(struct rlimit){4096, 4096}) == 0);
    signal(SIGXFSZ, SIG_IGN);
    REQUIRE(backend->segment_new(backend, KERNEL_ACCESS_FRESH, SIZE, &s) == -EFBIG);
    REQUIRE(lowest_free_fd() == limit - 1);
    return 0;
}

static void test_starved(void **state) {
    (void)state;
    assert_int_equal(in_child(starve, 0), 0);
}

static void test_import_refused(void **state) {
    struct kernel_segment *owner = segment_new(KERNEL_ACCESS_FRESH, SIZE), *s = NULL;
    struct kernel_handle handle = {.fd = exported(owner)}, none = {.fd = -1}, other;
    int ends[2];
    (void)state;

    assert_int_equal(backend->segment_import(backend, KERNEL_ACCESS_FRESH, &handle, 2 * SIZE, &s), -EINVAL);
    assert_int_equal(backend->segment_import(backend, KERNEL_ACCESS_FRESH, &handle, SIZE / 2, &s), -EINVAL);
    assert_int_equal(backend->segment_import(backend, KERNEL_ACCESS_FRESH, &handle, 0, &s), -EINVAL);
    assert_int_equal(backend->segment_import(backend, KERNEL_ACCESS_FRESH, &none, SIZE, &s), -EBADF);
    assert_int_equal(pipe(ends), 0);
    other = (struct kernel_handle){.fd = ends[0]};
    assert_int_equal(backend->segment_import(backend, KERNEL_ACCESS_FRESH, &other, SIZE, &s), -EINVAL);
    close(ends[0]);
    close(ends[1]);
    assert_null(s);
    assert_true(fcntl(handle.fd, F_GETFD) >= 0); /* still the caller's */

    /* A settled segment cannot be mapped writable by naming it a fresh one. */
    struct kernel_segment *settled = segment_new(KERNEL_ACCESS_SETTLED, SIZE);
    other = (struct kernel_handle){.fd = exported(settled)};
    assert_true(backend->segment_import(backend, KERNEL_ACCESS_FRESH, &other, SIZE, &s) < 0);
    close(other.fd);
    backend->segment_free(backend, settled);

    /* An importer's end gives nothing on, and its release does not touch the owner's memory. */
    s = imported(KERNEL_ACCESS_FRESH, handle.fd, SIZE);
    assert_int_equal(backend->segment_export(backend, s, &other), -EINVAL);
    *(char *)backend->segment_address(s) = 9;
    backend->segment_free(backend, s);
    assert_int_equal(*(char *)backend->segment_address(owner), 9);
    backend->segment_free(backend, owner);
}

/* ---------- from one owner to the next ---------- */

/* The next owner, in a process of its own: sees what the first has written, writes, and goes without revoking. */
static int adopt_and_leave(int fd) {
    struct kernel_segment *s = NULL;
    REQUIRE(backend->segment_adopt(backend, KERNEL_ACCESS_SETTLED_KEPT, fd, SIZE, &s) == 0);
    char *memory = backend->segment_address(s);
    REQUIRE(backend->segment_descriptor(s) == fd && (uintptr_t)memory % SIZE == 0);
    REQUIRE(memory[0] == 'K' && memory[SIZE - 1] == 'V');
    memory[1] = 'x';
    backend->segment_leave(backend, s);
    REQUIRE(fcntl(fd, F_GETFD) < 0);
    return 0;
}

static int attack_kept(int fd) {
    if (geteuid() == 0)
        REQUIRE(setresuid(NOBODY, NOBODY, NOBODY) == 0 && prctl(PR_SET_DUMPABLE, 1) == 0);
    int r = attack_descriptor(fd);
    REQUIRE(r == 0);
    REQUIRE_FAILS(open_again(fd, O_RDWR), EACCES);
    REQUIRE_FAILS(open_again(fd, O_WRONLY), EACCES);
    return 0;
}

static void test_kept(void **state) {
    struct kernel_segment *first = segment_new(KERNEL_ACCESS_SETTLED_KEPT, SIZE), *next = NULL;
    char *memory = backend->segment_address(first);
    int store = dup(backend->segment_descriptor(first)), fd = exported(first), watched = dup(fd);
    (void)state;

    memory[0] = 'K';
    memory[SIZE - 1] = 'V';
    assert_int_equal(in_child(attack_kept, fd), 0);
    seen_by_child = imported(KERNEL_ACCESS_SETTLED, fd, SIZE);
    assert_int_equal(backend->segment_descriptor(seen_by_child), -1);
    const char *seen = backend->segment_address(seen_by_child);

    assert_int_equal(in_child(adopt_and_leave, store), 0);
    backend->segment_leave(backend, first); /* the first owner's end loses nothing */
    assert_true(seen[0] == 'K' && seen[1] == 'x');

    assert_int_equal(backend->segment_adopt(backend, KERNEL_ACCESS_SETTLED_KEPT, store, SIZE, &next), 0);
    assert_true(fcntl(store, F_GETFD) & FD_CLOEXEC);
    ((char *)backend->segment_address(next))[1] = 'y';
    assert_int_equal(seen[1], 'y');
    fd = exported(next);
    assert_int_equal(in_child(attack_kept, fd), 0);
    close(fd);
    backend->segment_free(backend, next);
    assert_int_equal(bytes_held(watched), 0);
    assert_int_equal(in_child(read_first_byte, 0), 128 + SIGBUS);
    close(watched);
    backend->segment_free(backend, seen_by_child);
    assert_null(backend->segment_leave(backend, NULL));
}

static void test_fresh_kept(void **state) {
    struct kernel_segment *first = segment_new(KERNEL_ACCESS_FRESH, SIZE), *next = NULL;
    int store = dup(backend->segment_descriptor(first)), fd = exported(first);
    struct kernel_segment *importer = imported(KERNEL_ACCESS_FRESH, fd, SIZE);
    char *seen = backend->segment_address(importer);
    (void)state;

    memset(seen, 7, SIZE);
    backend->segment_leave(backend, first);
    assert_int_equal(backend->segment_adopt(backend, KERNEL_ACCESS_FRESH, store, SIZE, &next), 0);
    assert_int_equal(((char *)backend->segment_address(next))[SIZE - 1], 7);
    seen[1] = 8;
    assert_int_equal(((char *)backend->segment_address(next))[1], 8);
    fd = dup(store);
    backend->segment_free(backend, next);
    assert_int_equal(bytes_held(fd), 0);
    assert_true(all_zero(seen, SIZE));

    /* Taken from a revoked one, all of its memory is there again, and zeroed. */
    assert_int_equal(backend->segment_adopt(backend, KERNEL_ACCESS_FRESH, fd, SIZE, &next), 0);
    assert_true(bytes_held(fd) >= SIZE && all_zero(backend->segment_address(next), SIZE));
    backend->segment_free(backend, next);
    backend->segment_free(backend, importer);
}

static void test_adopt_refused(void **state) {
    struct kernel_segment *fresh = segment_new(KERNEL_ACCESS_FRESH, SIZE), *s = NULL;
    struct kernel_segment *kept = segment_new(KERNEL_ACCESS_SETTLED_KEPT, SIZE);
    struct kernel_segment *settled = segment_new(KERNEL_ACCESS_SETTLED, SIZE);
    int f = backend->segment_descriptor(fresh), k = backend->segment_descriptor(kept), read_only = exported(kept);
    int plain = memfd_create("plain", MFD_CLOEXEC | MFD_ALLOW_SEALING), ends[2], before = lowest_free_fd();
    (void)state;

    assert_int_equal(ftruncate(plain, SIZE), 0);
    assert_int_equal(pipe(ends), 0);
    int strange[] = {k, read_only, plain, ends[0], ends[1], -1};
    for (size_t i = 0; i < sizeof strange / sizeof *strange; i++)
        assert_int_equal(backend->segment_adopt(backend, KERNEL_ACCESS_FRESH, strange[i], SIZE, &s), -EINVAL);
    strange[0] = f;
    for (size_t i = 0; i < sizeof strange / sizeof *strange; i++)
        assert_int_equal(backend->segment_adopt(backend, KERNEL_ACCESS_SETTLED_KEPT, strange[i], SIZE, &s), -EINVAL);
    for (size_t bytes = 0; bytes <= 2 * SIZE; bytes += SIZE / 2)
        if (bytes != SIZE)
            assert_int_equal(backend->segment_adopt(backend, KERNEL_ACCESS_FRESH, f, bytes, &s), -EINVAL);
    int sealed = backend->segment_descriptor(settled);
    assert_int_equal(backend->segment_adopt(backend, KERNEL_ACCESS_SETTLED, sealed, SIZE, &s), -EINVAL);
    assert_int_equal(backend->segment_adopt(backend, KERNEL_ACCESS_SETTLED_KEPT, sealed, SIZE, &s), -EINVAL);
    assert_null(s);
    close(ends[0]);
    close(ends[1]);
    assert_int_equal(lowest_free_fd(), before);
    close(plain);
    close(read_only);
    backend->segment_free(backend, fresh);
    backend->segment_free(backend, kept);
    backend->segment_free(backend, settled);
}

static int set_up(void **state) {
    (void)state;
    backend = kernel_host_backend("reference");
    return backend ? 0 : -1;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_settled_sealed),
        cmocka_unit_test(test_settled_revoked),
        cmocka_unit_test(test_fresh_sealed),
        cmocka_unit_test(test_fresh_revoked),
        cmocka_unit_test(test_new),
        cmocka_unit_test(test_new_refused),
        cmocka_unit_test(test_starved),
        cmocka_unit_test(test_import_refused),
        cmocka_unit_test(test_kept),
        cmocka_unit_test(test_fresh_kept),
        cmocka_unit_test(test_adopt_refused),
    };
    return cmocka_run_group_tests_name("kernels: memory", tests, set_up, NULL);
}
