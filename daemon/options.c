/* options.c - getopt_long over the table in options.h. */
#include "daemon/options.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "scissor_error.h"

enum option_type { OPTION_SIZE, OPTION_NUMBER, OPTION_TEXT, OPTION_FLAG };

struct option_info {
    const char *name;
    enum option_type type;
    uint64_t min, max;
    const char *standard, *unit, *text;
    size_t offset;
};

static const struct option_info option_table[] = {
#define OPTION_ROW(field, name, type, min, max, standard, unit, text) \
    {name, OPTION_##type, min, max, standard, unit, text, offsetof(struct daemon_options, field)},
    DAEMON_OPTION_MAP(OPTION_ROW)
#undef OPTION_ROW
};
#define OPTION_COUNT (sizeof option_table / sizeof *option_table)

/* ---------- sizes ---------- */

static const struct {
    const char *name;
    double bytes;
} size_units[] = {
    {"", 1},         {"B", 1},    {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40},
    {"PiB", 0x1p50}, {"KB", 1e3}, {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12},    {"PB", 1e15},
};

int daemon_size_parse(const char *text, uint64_t *ret_bytes) {
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

const char *daemon_size_text(uint64_t bytes, const char *space, char *text, size_t text_bytes) {
    static const char *const names[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
    size_t unit = 0;
    double value = (double)bytes;
    while (value >= 1024 && unit + 1 < sizeof names / sizeof *names) {
        value /= 1024;
        unit++;
    }
    snprintf(text, text_bytes, value == (double)(uint64_t)value ? "%.0f%s%s" : "%.1f%s%s", value, space, names[unit]);
    return text;
}

/* ---------- parsing ---------- */

static int option_number(const char *text, uint64_t *ret) {
    char *end;
    if (*text < '0' || *text > '9')
        return SCISSOR_EINVAL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || *end)
        return SCISSOR_EINVAL;
    *ret = value;
    return 0;
}

static int option_refuse(const struct option_info *o, const char *text, char *why, size_t why_bytes) {
    char least[32], most[32];
    if (o->type == OPTION_SIZE)
        snprintf(why, why_bytes, "--%s: '%s' is not a size; expected e.g. 256MiB (%s .. %s)", o->name, text,
                 daemon_size_text(o->min, "", least, sizeof least), daemon_size_text(o->max, "", most, sizeof most));
    else if (o->type == OPTION_NUMBER)
        snprintf(why, why_bytes, "--%s: '%s' is not a number in range; expected e.g. %s (%" PRIu64 " .. %" PRIu64 ")",
                 o->name, text, o->standard, o->min, o->max);
    else
        snprintf(why, why_bytes, "--%s: '%s' is not a text of %" PRIu64 " to %" PRIu64 " bytes", o->name, text, o->min,
                 o->max);
    return SCISSOR_EINVAL;
}

/* Writes the field of one option; `text` is NULL for a flag. */
static int option_set(struct daemon_options *to, const struct option_info *o, const char *text, char *why,
                      size_t why_bytes) {
    char *field = (char *)to + o->offset;
    uint64_t value;
    if (o->type == OPTION_FLAG) {
        *(bool *)field = true;
        return 0;
    }
    if (o->type == OPTION_TEXT) {
        size_t length = strlen(text);
        if (length < o->min || length > o->max)
            return option_refuse(o, text, why, why_bytes);
        *(const char **)field = text;
        return 0;
    }
    int r = o->type == OPTION_SIZE ? daemon_size_parse(text, &value) : option_number(text, &value);
    if (r < 0 || value < o->min || value > o->max)
        return option_refuse(o, text, why, why_bytes);
    *(uint64_t *)field = value;
    return 0;
}

int daemon_options_parse(int argc, char **argv, struct daemon_options *ret, char *why, size_t why_bytes) {
    struct option long_options[OPTION_COUNT + 1] = {0};
    struct daemon_options options = {0};
    int index;
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        const struct option_info *o = &option_table[i];
        long_options[i].name = o->name;
        long_options[i].has_arg = o->type == OPTION_FLAG ? no_argument : required_argument;
        if (*o->standard && option_set(&options, o, o->standard, why, why_bytes) < 0)
            abort(); /* the table is wrong */
    }
    optind = 0; /* glibc: start anew */
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, ":", long_options, &index)) != -1;) {
        if (c != 0) {
            snprintf(why, why_bytes,
                     c == ':' ? "%s needs a value; see scissord --help" : "unknown option '%s'; see scissord --help",
                     argv[optind - 1]);
            return SCISSOR_EINVAL;
        }
        if (option_set(&options, &option_table[index], optarg, why, why_bytes) < 0)
            return SCISSOR_EINVAL;
    }
    if (optind < argc) {
        snprintf(why, why_bytes, "'%s' is not an option; see scissord --help", argv[optind]);
        return SCISSOR_EINVAL;
    }
    *ret = options;
    return 0;
}

/* ---------- help ---------- */

static void option_help(FILE *to, const struct option_info *o) {
    char left[48], least[32], most[32];
    snprintf(left, sizeof left, "--%s %s", o->name, o->unit);
    fprintf(to, "  %-18s %s", left, o->text);
    if (o->type == OPTION_SIZE)
        fprintf(to, " (%s .. %s)", daemon_size_text(o->min, "", least, sizeof least),
                daemon_size_text(o->max, "", most, sizeof most));
    else if (o->type == OPTION_NUMBER)
        fprintf(to, " (%" PRIu64 " .. %" PRIu64 ", default %s)", o->min, o->max, o->standard);
    else if (*o->standard)
        fprintf(to, " (default %s)", o->standard);
    fputc('\n', to);
}

void daemon_options_help(FILE *to) {
    fputs("Usage: scissord [OPTION]...\n"
          "Owns the KV caches of all model sessions on this machine and keeps them within one budget.\n"
          "Runs in the foreground and logs to stderr; SIGTERM ends it cleanly.\n\n",
          to);
    for (size_t i = 0; i < OPTION_COUNT; i++)
        option_help(to, &option_table[i]);
    fputs("\nA SIZE is a number of bytes or one with a unit: 256MiB, 1.5GiB, 100MB.\n", to);
}
