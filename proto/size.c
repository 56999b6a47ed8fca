/* size.c - figures with a unit, binary or decimal, in any case of letters. */
#include "size.h"

#include <stdlib.h>
#include <string.h>

#include "scissor_error.h"

static const struct {
    const char *name;
    double bytes;
} size_units[] = {
    {"", 1},         {"B", 1},    {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40},
    {"PiB", 0x1p50}, {"KB", 1e3}, {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12},    {"PB", 1e15},
};

int proto_size_parse(const char *text, uint64_t *ret_bytes) {
    /* strtod alone would take signs, exponents, hexadecimal and "inf". */
    size_t figures = strspn(text, "0123456789.");
    char number[32], *end;
    if (figures == 0 || figures >= sizeof number)
        return SCISSOR_EINVAL;
    memcpy(number, text, figures);
    number[figures] = 0;
    double value = strtod(number, &end);
    if (*end)
        return SCISSOR_EINVAL;
    for (size_t i = 0; i < sizeof size_units / sizeof *size_units; i++)
        if (strcasecmp(text + figures, size_units[i].name) == 0) {
            double bytes = value * size_units[i].bytes;
            if (bytes >= 0x1p63)
                return SCISSOR_EINVAL;
            *ret_bytes = (uint64_t)bytes;
            return 0;
        }
    return SCISSOR_EINVAL;
}
