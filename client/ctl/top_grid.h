/* top_grid.h - a screen as characters and looks, without a terminal. What does not fit is cut, never wrapped. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* The terminal decides what they look like; without colours it has bold, dim and reverse only. */
enum top_look {
    TOP_LOOK_PLAIN,
    TOP_LOOK_BOLD,
    TOP_LOOK_DIM,
    TOP_LOOK_TITLE,    /* titles of a table */
    TOP_LOOK_SORTED,   /* the title of the column that it is sorted by */
    TOP_LOOK_SELECTED, /* the line of the cursor */
    TOP_LOOK_WARN,
    TOP_LOOK_OWN, /* the parts of a pool's bar */
    TOP_LOOK_LENT,
    TOP_LOOK_PROMISED,
    TOP_LOOK_FREE,
    TOP_LOOKS
};

struct top_grid {
    unsigned rows, columns;
    char *text;    /* rows * columns printable characters of ASCII */
    uint8_t *look; /* as many enum top_look */
};

/* All blank. False if out of memory. */
bool top_grid_init(struct top_grid *g, unsigned rows, unsigned columns);
void top_grid_deinit(struct top_grid *g);

/* Writes at a place, which may lie outside; returns the column behind it. Anything unprintable becomes '?'. */
unsigned top_grid_put(struct top_grid *g, unsigned row, unsigned column, enum top_look look, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* `count` times the same character. */
unsigned top_grid_fill(struct top_grid *g, unsigned row, unsigned column, enum top_look look, char c, unsigned count);
/* Gives a whole row one look. */
void top_grid_paint(struct top_grid *g, unsigned row, enum top_look look);
