/* option_table.c - see option_table.h. */
#include "option_table.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "dtype.h"

void option_table_print(const struct option_table *table, FILE *stream) {
    fputs(table->usage, stream);
    for (size_t i = 0; i < table->count; i++) {
        const struct option_entry *entry = &table->entries[i];
        char left[40];
        if (entry->kind == OPTION_HEADING) {
            fprintf(stream, "\n%s:\n", entry->text);
            continue;
        }
        snprintf(left, sizeof(left), "%s%s %s", entry->name[1] ? "--" : "-", entry->name,
                 entry->argument ? entry->argument : "");
        fprintf(stream, "  %-22s %s\n", left, entry->text);
    }
}

/* ---------- values ---------- */

int option_read_real(const char *text, double low, double high, double *ret) {
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || *end || errno || !(value >= low && value <= high))
        return SCISSOR_EINVAL;
    *ret = value;
    return 0;
}

int option_read_integer(const char *text, uint64_t low, uint64_t high, uint64_t *ret) {
    char *end;
    errno = 0;
    if (*text < '0' || *text > '9')
        return SCISSOR_EINVAL;
    unsigned long long value = strtoull(text, &end, 10);
    if (*end || errno || value < low || value > high)
        return SCISSOR_EINVAL;
    *ret = value;
    return 0;
}

int option_read_dtype(const char *text, uint32_t count, uint32_t *ret) {
    for (uint32_t i = 0; i < count && i < KERNEL_DTYPE_COUNT; i++)
        if (strcmp(text, kernel_dtype_name(i)) == 0) {
            *ret = i;
            return 0;
        }
    return SCISSOR_EINVAL;
}

int option_read_param(const char *text, struct scissor_param *params, uint32_t *count) {
    const char *equals = strchr(text, '=');
    struct scissor_param param = {0};
    if (!equals || equals == text || (size_t)(equals - text) >= sizeof(param.name) || *count == SCISSOR_MAX_PARAMS ||
        option_read_real(equals + 1, -HUGE_VAL, HUGE_VAL, &param.value))
        return SCISSOR_EINVAL;
    memcpy(param.name, text, (size_t)(equals - text));
    params[(*count)++] = param;
    return 0;
}

static int option_read(const struct option_table *table, const struct option_entry *entry, const char *text,
                       void *options) {
    void *to = (char *)options + entry->offset;
    uint64_t integer;
    int r = SCISSOR_EINVAL;
    switch (entry->kind) {
    case OPTION_TEXT:
        *(const char **)to = text;
        return 0;
    case OPTION_NUMBER:
        r = option_read_integer(text, (uint64_t)entry->low, (uint64_t)entry->high, &integer);
        if (r == 0)
            *(uint32_t *)to = (uint32_t)integer;
        return r;
    case OPTION_LONG:
        return option_read_integer(text, 0, UINT64_MAX, to);
    case OPTION_REAL:
        return option_read_real(text, entry->low, entry->high, to);
    case OPTION_DTYPE:
        return option_read_dtype(text, (uint32_t)entry->high + 1, to);
    case OPTION_CALL:
        return table->call(options, entry->name, text);
    case OPTION_FLAG:
    case OPTION_HEADING:
        break;
    }
    return r;
}

/* ---------- the command line ---------- */

/* The entry that `argument` names; *ret_value is what follows its "=", or NULL. */
static const struct option_entry *option_find(const struct option_table *table, const char *argument,
                                              const char **ret_value) {
    bool is_long = argument[1] == '-';
    const char *name = argument + (is_long ? 2 : 1);
    size_t size = strcspn(name, "=");
    for (size_t i = 0; i < table->count; i++) {
        const char *known = table->entries[i].name;
        if (known && strlen(known) == size && strncmp(known, name, size) == 0 && is_long == (size > 1)) {
            *ret_value = name[size] ? name + size + 1 : NULL;
            return &table->entries[i];
        }
    }
    return NULL;
}

static int option_take(const struct option_table *table, int argc, char **argv, int *index, void *options,
                       struct failure *failure) {
    const char *argument = argv[*index], *value;
    if (argument[0] != '-' || argument[1] == '\0') {
        if (table->word(options, argument) != 0)
            return failure_set(failure, SCISSOR_EINVAL, "\"%.80s\" is one word too many", argument);
        return 0;
    }
    const struct option_entry *entry = option_find(table, argument, &value);
    if (!entry)
        return failure_set(failure, SCISSOR_EINVAL, "there is no option %.80s", argument);
    if (entry->kind == OPTION_FLAG) {
        if (value)
            return failure_set(failure, SCISSOR_EINVAL, "%.80s takes no value", argument);
        *(bool *)((char *)options + entry->offset) = true;
        return 0;
    }
    if (!value && *index + 1 == argc)
        return failure_set(failure, SCISSOR_EINVAL, "%.80s needs a value: %s", argument, entry->argument);
    if (!value)
        value = argv[++*index];
    if (option_read(table, entry, value, options) != 0)
        return failure_set(failure, SCISSOR_EINVAL, "%.40s cannot be \"%.80s\": %s", argument, value, entry->text);
    return 0;
}

int option_table_parse(const struct option_table *table, int argc, char **argv, void *options,
                       struct failure *failure) {
    int r = 0;
    for (int i = 1; i < argc && r == 0; i++)
        r = option_take(table, argc, argv, &i, options, failure);
    return r;
}
