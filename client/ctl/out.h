/* out.h - text for people: a growing buffer, aligned tables, figures with their units. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct out {
    char *text;
    size_t size, capacity;
    bool failed; /* out of memory: what follows is lost, out_flush() says so */
    bool colour;
};

void out_init(struct out *o, bool colour);
void out_deinit(struct out *o);
void out_printf(struct out *o, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* As out_printf(), bold if colours are on. */
void out_bold(struct out *o, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Writes all to `file` and empties the buffer. False if memory or the file failed, having said so. */
bool out_flush(struct out *o, FILE *file);
/* Flushes to standard output and ends `o`; an enum ctl_exit. */
int out_print(struct out *o);

#define TABLE_COLUMNS 16
#define TABLE_CELL 48

/* Cells in rows; a column is as wide as its widest cell. A title that starts with '>' aligns to the right. */
struct table {
    size_t columns, cells;
    char (*cell)[TABLE_CELL];
    bool failed;
    bool right[TABLE_COLUMNS];
};
void table_init(struct table *t, const char *const *titles, size_t columns);
void table_deinit(struct table *t);
void table_cell(struct table *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void table_print(const struct table *t, struct out *o, const char *indent);

/* A short-lived text: call as `figure_bytes(&(struct figure){""}, n)`. */
struct figure {
    char text[48]; /* a name or a device (PROTO_DEVICE_BYTES) */
};
const char *figure_bytes(struct figure *f, uint64_t bytes); /* "12.3 MiB", "17 B" */
const char *figure_count(struct figure *f, uint64_t count); /* "12,345" */
const char *figure_time(struct figure *f, uint64_t ns);     /* "12 ms", "3.4 s", "5 min 3 s", "2 h 5 min", "3 d 4 h" */
const char *figure_percent(struct figure *f, double part, double whole); /* "12.3 %" */
/* One bar for each count, as high as its share of the largest; at most 8. Blocks where the locale has them. */
const char *figure_bars(struct figure *f, const uint64_t *counts, size_t count);
/* What a client or a device is called, with everything that a terminal might take for a command replaced by '?'. */
const char *figure_name(struct figure *f, const char *name);
