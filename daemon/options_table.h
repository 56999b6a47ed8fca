/* options_table.h - the table of options.h as rows, for options.c and options_print.c alone. */
#pragma once

#include "daemon/options.h"

enum option_type { OPTION_SIZE, OPTION_NUMBER, OPTION_TEXT, OPTION_FLAG };

struct option_info {
    const char *name;
    enum option_type type;
    enum daemon_option_scope scope;
    uint64_t min, max;
    const char *standard, *unit, *text;
    size_t offset;
};

extern const struct option_info option_table[DAEMON_OPTIONS];

static inline bool option_in_file(const struct option_info *o) {
    return o->scope == DAEMON_LIVE || o->scope == DAEMON_START;
}
