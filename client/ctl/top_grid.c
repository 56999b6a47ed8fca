/* top_grid.c - writing into the screen that `scissorctl top` shows. */
#include "top_grid.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"

bool top_grid_init(struct top_grid *g, unsigned rows, unsigned columns) {
    size_t cells = (size_t)rows * columns;
    *g = (struct top_grid){rows, columns, scissor_malloc(cells + 1), scissor_calloc(cells + 1, 1)};
    if (!g->text || !g->look) {
        top_grid_deinit(g);
        return false;
    }
    memset(g->text, ' ', cells + 1);
    return true;
}

void top_grid_deinit(struct top_grid *g) {
    g->text = scissor_free(g->text);
    g->look = scissor_free(g->look);
    g->rows = g->columns = 0;
}

static void set(struct top_grid *g, unsigned row, unsigned column, enum top_look look, char c) {
    if (row >= g->rows || column >= g->columns)
        return;
    g->text[(size_t)row * g->columns + column] = (char)(c >= 0x20 && c < 0x7f ? c : '?');
    g->look[(size_t)row * g->columns + column] = (uint8_t)look;
}

unsigned top_grid_put(struct top_grid *g, unsigned row, unsigned column, enum top_look look, const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (const char *c = text; *c; c++)
        set(g, row, column++, look, *c);
    return column;
}

unsigned top_grid_fill(struct top_grid *g, unsigned row, unsigned column, enum top_look look, char c, unsigned count) {
    while (count--)
        set(g, row, column++, look, c);
    return column;
}

void top_grid_paint(struct top_grid *g, unsigned row, enum top_look look) {
    if (row < g->rows)
        memset(g->look + (size_t)row * g->columns, (int)look, g->columns);
}
