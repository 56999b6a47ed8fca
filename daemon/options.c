/* options.c - values by the table in options.h, and getopt_long over it. What is printed from it: options_print.c. */
#include "daemon/options_table.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "scissor_error.h"
#include "size.h"

const struct option_info option_table[DAEMON_OPTIONS] = {
#define OPTION_ROW(field, name, type, scope, min, max, standard, unit, text) \
    {name, OPTION_##type, DAEMON_##scope, min, max, standard, unit, text, offsetof(struct daemon_options, field)},
    DAEMON_OPTION_MAP(OPTION_ROW)
#undef OPTION_ROW
};

/* ---------- sizes ---------- */

int daemon_size_parse(const char *text, uint64_t *ret_bytes) {
    return proto_size_parse(text, ret_bytes);
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

/* Says what is expected; `dashes` stands before the name. */
static int option_refuse(const struct option_info *o, const char *dashes, const char *text, char *why,
                         size_t why_bytes) {
    char least[32], most[32];
    if (o->type == OPTION_SIZE)
        snprintf(why, why_bytes, "%s%s: '%s' is not a size; expected e.g. 256MiB (%s .. %s)", dashes, o->name, text,
                 daemon_size_text(o->min, "", least, sizeof least), daemon_size_text(o->max, "", most, sizeof most));
    else if (o->type == OPTION_NUMBER)
        snprintf(why, why_bytes, "%s%s: '%s' is not a number in range; expected e.g. %s (%" PRIu64 " .. %" PRIu64 "%s)",
                 dashes, o->name, text, o->standard, o->min, o->max,
                 strcmp(o->unit, "MS") == 0  ? " ms"
                 : strcmp(o->unit, "S") == 0 ? " s"
                                             : "");
    else if (o->type == OPTION_FLAG)
        snprintf(why, why_bytes, "%s%s: '%s' is neither yes nor no; expected yes or no", dashes, o->name, text);
    else
        snprintf(why, why_bytes, "%s%s: '%s' is not a text of %" PRIu64 " to %" PRIu64 " bytes", dashes, o->name, text,
                 o->min, o->max);
    return SCISSOR_EINVAL;
}

static int option_flag(const char *text, bool *ret) {
    static const char *const yes[] = {"yes", "true", "on", "1"}, *const no[] = {"no", "false", "off", "0"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
        bool is_yes = strcasecmp(text, yes[i]) == 0;
        if (is_yes || strcasecmp(text, no[i]) == 0) {
            *ret = is_yes;
            return 0;
        }
    }
    return SCISSOR_EINVAL;
}

/* Writes the field of one option, or nothing if the value is bad. */
static int option_set(struct daemon_options *to, const struct option_info *o, const char *text) {
    char *field = (char *)to + o->offset;
    uint64_t value;
    if (o->type == OPTION_FLAG)
        return option_flag(text, (bool *)field);
    if (o->type == OPTION_TEXT) {
        size_t length = strlen(text);
        if (length < o->min || length > o->max)
            return SCISSOR_EINVAL;
        memcpy(field, text, length + 1);
        return 0;
    }
    int r = o->type == OPTION_SIZE ? daemon_size_parse(text, &value) : option_number(text, &value);
    if (r < 0 || value < o->min || value > o->max)
        return SCISSOR_EINVAL;
    *(uint64_t *)field = value;
    return 0;
}

/* ---------- the command line ---------- */

int daemon_options_parse(int argc, char **argv, struct daemon_options *ret, char *why, size_t why_bytes) {
    struct option long_options[DAEMON_OPTIONS + 1] = {0};
    struct daemon_options options = {0};
    int index;
    for (size_t i = 0; i < DAEMON_OPTIONS; i++) {
        const struct option_info *o = &option_table[i];
        long_options[i].name = o->name;
        long_options[i].has_arg = o->type == OPTION_FLAG ? no_argument : required_argument;
        if (*o->standard && option_set(&options, o, o->standard) < 0)
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
        const char *text = optarg ? optarg : "yes";
        if (option_set(&options, &option_table[index], text) < 0)
            return option_refuse(&option_table[index], "--", text, why, why_bytes);
        options.source[index] = DAEMON_FROM_LINE;
    }
    if (optind < argc) {
        snprintf(why, why_bytes, "'%s' is not an option; see scissord --help", argv[optind]);
        return SCISSOR_EINVAL;
    }
    *ret = options;
    return 0;
}

/* ---------- the file ---------- */

static int option_unknown(const char *name, char *why, size_t why_bytes) {
    size_t used = (size_t)snprintf(why, why_bytes, "unknown option '%s'; expected one of:", name);
    for (size_t i = 0; i < DAEMON_OPTIONS && used < why_bytes; i++)
        if (option_in_file(&option_table[i]))
            used += (size_t)snprintf(why + used, why_bytes - used, " %s", option_table[i].name);
    return SCISSOR_EINVAL;
}

int daemon_options_set_from_file(struct daemon_options *o, const char *name, const char *value, char *why,
                                 size_t why_bytes) {
    struct daemon_options scratch;
    size_t i = 0;
    while (i < DAEMON_OPTIONS && strcmp(option_table[i].name, name) != 0)
        i++;
    if (i == DAEMON_OPTIONS || option_table[i].scope == DAEMON_HIDDEN)
        return option_unknown(name, why, why_bytes);
    const struct option_info *info = &option_table[i];
    if (!option_in_file(info)) {
        snprintf(why, why_bytes, "%s can stand on the command line only", name);
        return SCISSOR_EINVAL;
    }
    if (o->in_file[i]) {
        snprintf(why, why_bytes, "%s is given a second time; expected once", name);
        return SCISSOR_EINVAL;
    }
    bool beneath = o->source[i] == DAEMON_FROM_LINE;
    if (option_set(beneath ? &scratch : o, info, value) < 0)
        return option_refuse(info, "", value, why, why_bytes);
    o->in_file[i] = true;
    if (!beneath)
        o->source[i] = DAEMON_FROM_FILE;
    return 0;
}
