/* top_layout.h - the screens of `scissorctl top` as grids. Pure: the same state and size give the same grid. */
#pragma once

#include "top_grid.h"
#include "top_state.h"

/* Below this not even the head fits; whatever the size, nothing is written outside of it. */
#define TOP_ROWS_MIN 5u
#define TOP_COLUMNS_MIN 20u

/* Fills in a blank grid. */
void top_layout(const struct top_state *s, struct top_grid *g);

/* Parts of it; each takes the rows from `row` up to `end`. */
void top_layout_table(const struct top_state *s, struct top_grid *g, unsigned row, unsigned end);
void top_layout_detail(const struct top_state *s, struct top_grid *g, unsigned row, unsigned end);
void top_layout_help(struct top_grid *g, unsigned row, unsigned end);
