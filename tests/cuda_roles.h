/* cuda_roles.h - tests on the driver in tests/fakecuda: each runs in processes of its own, which play a role.
 *
 * A program's main() is cuda_roles_main() with a table. Without arguments it runs each role as a test: it starts itself
 * again with the role's name, on a fresh directory of devices. Roles use REQUIRE and end with _exit(0). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>
#include <unistd.h>

#include "backend.h"
#include "cuda/cuda_backend.h"
#include "cuda/driver.h"

#define REQUIRE(condition)                                                                       \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            fprintf(stderr, "role: line %d: %s: %s\n", __LINE__, #condition, kernel_cuda_why()); \
            _exit(1);                                                                            \
        }                                                                                        \
    } while (0)

struct cuda_role {
    const char *name;
    void (*run)(const char *name);
    const char *rule; /* with which the driver must end it; NULL: it must end well */
    const char *text; /* that its output must have besides; NULL: none */
    unsigned delay_us;
    const char *fail; /* FAKECUDA_FAIL */
    bool unwatched;   /* on the driver that does not watch its kernels */
};

/* Runs `tests` in this process where a GPU is wanted (SCISSOR_TEST_GPU) or the driver in tests/fakecuda is there
 * already, else in this program, started again without arguments on a fresh directory of that driver's devices. Skips
 * where the program has no kernels. */
int cuda_again_main(char **argv, int (*tests)(void));

int cuda_roles_main(int argc, char **argv, const char *group, const struct cuda_role *roles, size_t count);

/* ---------- what roles are made of ---------- */

/* Two processes, before either has loaded the driver: 0 in the child, which dies with its parent. */
pid_t role_divide(void);
/* To the other one of the two, and from it. */
void role_say(const void *what, size_t bytes);
void role_hear(void *what, size_t bytes);

/* The driver itself, with its primary context current in this thread, and a stream. */
const struct cuda_driver *role_driver(cuda_stream *ret);
/* Bytes of its device that are allocated, or open in a process. */
size_t role_memory_taken(void);
cuda_address role_memory(const struct cuda_driver *d, size_t bytes);
/* A handle for the other process, and what it opens. */
void role_say_memory(const struct cuda_driver *d, cuda_address a);
cuda_address role_hear_memory(const struct cuda_driver *d, cuda_memory_handle *ret);
