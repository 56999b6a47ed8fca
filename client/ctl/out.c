/* out.c - builds what people read in memory first, so that it is written at once or not at all. */
#include "out.h"

#include <errno.h>
#include <langinfo.h>
#include <stdarg.h>
#include <string.h>

#include "alloc.h"
#include "command.h"

#define BOLD "\033[1m"
#define PLAIN "\033[0m"

void out_init(struct out *o, bool colour) {
    *o = (struct out){.colour = colour};
}

void out_deinit(struct out *o) {
    o->text = scissor_free(o->text);
    o->size = o->capacity = 0;
}

static bool out_reserve(struct out *o, size_t more) {
    if (o->failed)
        return false;
    if (more <= o->capacity - o->size)
        return true;
    size_t capacity = (o->size + more) * 2;
    char *text = scissor_realloc(o->text, capacity);
    if (!text) {
        o->failed = true;
        return false;
    }
    o->text = text;
    o->capacity = capacity;
    return true;
}

static void out_vprintf(struct out *o, const char *format, va_list arguments) {
    va_list again;
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (length < 0 || !out_reserve(o, (size_t)length + 1))
        return;
    vsnprintf(o->text + o->size, (size_t)length + 1, format, arguments);
    o->size += (size_t)length;
}

void out_printf(struct out *o, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    out_vprintf(o, format, arguments);
    va_end(arguments);
}

void out_bold(struct out *o, const char *format, ...) {
    if (o->colour)
        out_printf(o, BOLD);
    va_list arguments;
    va_start(arguments, format);
    out_vprintf(o, format, arguments);
    va_end(arguments);
    if (o->colour)
        out_printf(o, PLAIN);
}

bool out_flush(struct out *o, FILE *file) {
    size_t wanted = o->failed ? 0 : o->size, written = wanted ? fwrite(o->text, 1, wanted, file) : 0;
    bool memory = !o->failed;
    o->failed = false;
    o->size = 0;
    if (!memory)
        ctl_fail(CTL_REFUSED, "out of memory");
    else if (fflush(file) || written != wanted)
        ctl_fail(CTL_REFUSED, "cannot write: %s", strerror(errno));
    else
        return true;
    return false;
}

int out_print(struct out *o) {
    int status = out_flush(o, stdout) ? CTL_DONE : CTL_REFUSED;
    out_deinit(o);
    return status;
}

/* ---------- tables ---------- */

static char *table_next(struct table *t) {
    if (t->failed)
        return NULL;
    /* Room for 16 rows at a time. */
    size_t step = t->columns * 16;
    if (t->cells % step == 0) {
        void *more = scissor_realloc(t->cell, (t->cells + step) * sizeof t->cell[0]);
        if (!more) {
            t->failed = true;
            return NULL;
        }
        t->cell = more;
    }
    return t->cell[t->cells++];
}

void table_init(struct table *t, const char *const *titles, size_t columns) {
    *t = (struct table){.columns = columns};
    for (size_t i = 0; i < columns; i++) {
        t->right[i] = titles[i][0] == '>';
        table_cell(t, "%s", titles[i] + t->right[i]);
    }
}

void table_deinit(struct table *t) {
    t->cell = scissor_free(t->cell);
    t->cells = 0;
}

void table_cell(struct table *t, const char *format, ...) {
    char *cell = table_next(t);
    if (!cell)
        return;
    va_list arguments;
    va_start(arguments, format);
    if (vsnprintf(cell, TABLE_CELL, format, arguments) >= TABLE_CELL)
        memcpy(cell + TABLE_CELL - 4, "...", 4);
    va_end(arguments);
}

/* Columns on the screen: what is not the first byte of a UTF-8 character takes none. */
static int cell_width(const char *cell) {
    int width = 0;
    for (; *cell; cell++)
        width += (*cell & 0xc0) != 0x80;
    return width;
}

void table_print(const struct table *t, struct out *o, const char *indent) {
    int width[TABLE_COLUMNS] = {0};
    if (t->failed)
        o->failed = true;
    for (size_t i = 0; i < t->cells; i++)
        if (cell_width(t->cell[i]) > width[i % t->columns])
            width[i % t->columns] = cell_width(t->cell[i]);
    for (size_t i = 0; i < t->cells && !t->failed; i++) {
        size_t column = i % t->columns;
        bool last = column + 1 == t->columns;
        if (column == 0)
            out_printf(o, "%s%s", indent, o->colour && i == 0 ? BOLD : "");
        int room = width[column] - cell_width(t->cell[i]);
        if (t->right[column])
            out_printf(o, "%*s%s", room, "", t->cell[i]);
        else
            out_printf(o, "%s%*s", t->cell[i], last ? 0 : room, "");
        out_printf(o, "%s", !last ? "  " : o->colour && i < t->columns ? PLAIN "\n" : "\n");
    }
}

/* ---------- figures ---------- */

const char *figure_bytes(struct figure *f, uint64_t bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    size_t unit = 0;
    /* 1023.95 would print as 1024.0. */
    for (; value >= 1023.95 && unit + 1 < sizeof units / sizeof units[0]; unit++)
        value /= 1024;
    snprintf(f->text, sizeof f->text, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return f->text;
}

const char *figure_count(struct figure *f, uint64_t count) {
    char digits[24];
    size_t length = (size_t)snprintf(digits, sizeof digits, "%llu", (unsigned long long)count), at = 0;
    for (size_t i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0)
            f->text[at++] = ',';
        f->text[at++] = digits[i];
    }
    f->text[at] = 0;
    return f->text;
}

const char *figure_time(struct figure *f, uint64_t ns) {
    unsigned long long s = ns / 1000000000u;
    if (s == 0)
        snprintf(f->text, sizeof f->text, "%llu ms", (unsigned long long)ns / 1000000u);
    else if (s < 60)
        snprintf(f->text, sizeof f->text, "%.1f s", (double)(ns / 100000000u) / 10);
    else if (s < 3600)
        snprintf(f->text, sizeof f->text, "%llu min %llu s", s / 60, s % 60);
    else if (s < 86400)
        snprintf(f->text, sizeof f->text, "%llu h %llu min", s / 3600, s / 60 % 60);
    else
        snprintf(f->text, sizeof f->text, "%llu d %llu h", s / 86400, s / 3600 % 24);
    return f->text;
}

const char *figure_percent(struct figure *f, double part, double whole) {
    snprintf(f->text, sizeof f->text, "%.1f %%", whole > 0 ? 100 * part / whole : 0.0);
    return f->text;
}

const char *figure_name(struct figure *f, const char *name) {
    size_t i = 0;
    for (; name[i] && i + 1 < sizeof f->text; i++)
        f->text[i] = name[i] >= 0x20 && name[i] < 0x7f ? name[i] : '?';
    f->text[i] = 0;
    return f->text;
}

const char *figure_bars(struct figure *f, const uint64_t *counts, size_t count) {
    static const char *const blocks[] = {" ",      "\u2581", "\u2582", "\u2583", "\u2584",
                                         "\u2585", "\u2586", "\u2587", "\u2588"};
    static const char *const plain[] = {" ", ".", ".", ":", "-", "=", "+", "*", "#"};
    const char *const *bars = strcmp(nl_langinfo(CODESET), "UTF-8") == 0 ? blocks : plain;
    uint64_t most = 1;
    size_t at = 0;
    for (size_t i = 0; i < count; i++)
        most = counts[i] > most ? counts[i] : most;
    for (size_t i = 0; i < count && at + 4 < sizeof f->text; i++) {
        /* What is there at all has the lowest bar at least. */
        const char *bar = bars[counts[i] ? 1 + (size_t)((double)counts[i] / (double)most * 7 + 0.5) : 0];
        at += (size_t)snprintf(f->text + at, sizeof f->text - at, "%s", bar);
    }
    f->text[at] = 0;
    return f->text;
}
