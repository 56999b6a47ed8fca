/* bench.h - what the parts of the benchmark share: the device, and rows of the table. One thread uses it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "backend.h"

#define HEAD_DIM 128u

struct bench {
    struct kernel_backend *backend;
    const struct kernel_streams *streams;
    void *stream; /* the backend's own */
    bool is_short;
    double copy_speed, nominal_speed; /* bytes a second; nominal_speed 0: not known */
};
extern struct bench bench;

/* Ends the program with the reason if r is an error. */
void bench_must(int r, const char *what);
/* Ends it if there is no memory. */
void *bench_need(void *memory);
/* Zeroed memory of the device. */
void *bench_memory_new(size_t bytes);
void bench_memory_free(void *memory);

/* Queues an operation again and again for a while: seconds for one, which are those of the device or those of queueing,
 * whichever take longer. */
double bench_time(const char *name, void (*queue)(void *data), void *data);
/* Prints a row of the table: an operation that moves `bytes` and took so many seconds. */
void bench_row(const char *name, const char *shape, double bytes, double took);

/* Prints the rows of attention, and then what is to be reached and what was. */
void bench_attention(void);
