/* options_print.c - what is made from the table of options beside the parsers: help, --check, manual pages, and what a
 * reload has changed. */
#include "daemon/options_table.h"

#include <inttypes.h>
#include <string.h>

#include "broker/policy.h"
#include "control.h"

/* " (1MiB .. 1PiB, default ...)" or nothing. */
static void option_print_bounds(FILE *to, const struct option_info *o) {
    char least[32], most[32];
    const char *comma = "";
    if (o->type != OPTION_SIZE && o->type != OPTION_NUMBER && !*o->standard)
        return;
    fputs(" (", to);
    if (o->type == OPTION_SIZE) {
        fprintf(to, "%s .. %s", daemon_size_text(o->min, "", least, sizeof least),
                daemon_size_text(o->max, "", most, sizeof most));
        comma = ", ";
    } else if (o->type == OPTION_NUMBER) {
        fprintf(to, "%" PRIu64 " .. %" PRIu64, o->min, o->max);
        comma = ", ";
    }
    if (*o->standard)
        fprintf(to, "%sdefault %s", comma, o->standard);
    fputc(')', to);
}

void daemon_options_help(FILE *to) {
    fputs(
        "Usage: scissord [OPTION]...\n"
        "Owns the KV caches of all model sessions on this machine and keeps them within one budget.\n"
        "Runs in the foreground and logs to stderr; SIGTERM ends it cleanly, SIGHUP reads the configuration again.\n\n",
        to);
    for (size_t i = 0; i < DAEMON_OPTIONS; i++) {
        const struct option_info *o = &option_table[i];
        char left[48];
        if (o->scope == DAEMON_HIDDEN)
            continue;
        snprintf(left, sizeof left, "--%s %s", o->name, o->unit);
        fprintf(to, "  %-24s %s", left, o->text);
        option_print_bounds(to, o);
        fputc('\n', to);
    }
    fputs("\nA SIZE is a number of bytes or one with a unit: 256MiB, 1.5GiB, 100MB.\n", to);
}

/* ---------- values ---------- */

/* Without loss, as daemon_size_parse() reads it. */
static void option_size_text(uint64_t bytes, char *text, size_t text_bytes) {
    static const char *const units[] = {"", "KiB", "MiB", "GiB", "TiB", "PiB"};
    size_t unit = 0;
    while (bytes && bytes % 1024 == 0 && unit + 1 < sizeof units / sizeof *units) {
        bytes /= 1024;
        unit++;
    }
    snprintf(text, text_bytes, "%" PRIu64 "%s", bytes, units[unit]);
}

/* As a file has it; empty if there is none. */
static const char *option_value_text(const struct daemon_options *o, size_t i, char *text, size_t text_bytes) {
    const struct option_info *info = &option_table[i];
    const char *field = (const char *)o + info->offset;
    if (info->type == OPTION_FLAG)
        snprintf(text, text_bytes, "%s", *(const bool *)field ? "yes" : "no");
    else if (info->type == OPTION_TEXT)
        snprintf(text, text_bytes, "%s", field);
    else if (info->type == OPTION_NUMBER)
        snprintf(text, text_bytes, "%" PRIu64, *(const uint64_t *)field);
    else if (*(const uint64_t *)field == 0 && !*info->standard)
        *text = 0;
    else
        option_size_text(*(const uint64_t *)field, text, text_bytes);
    return text;
}

void daemon_options_print(FILE *to, const struct daemon_options *o) {
    static const char *const sources[] = {"default", "file", "command line"};
    char text[256];
    fprintf(to, "; scissord %s, configuration file: %s\n", SCISSOR_VERSION, *o->config ? o->config : "none");
    for (size_t i = 0; i < DAEMON_OPTIONS; i++) {
        if (!option_in_file(&option_table[i]))
            continue;
        if (*option_value_text(o, i, text, sizeof text))
            fprintf(to, "%s = %s ; %s\n", option_table[i].name, text, sources[o->source[i]]);
        else
            fprintf(to, "; %s: %s\n", option_table[i].name, option_table[i].text);
    }
}

bool daemon_options_describe(const struct daemon_options *o, uint32_t index, struct proto_option *ret) {
    for (size_t i = 0; i < DAEMON_OPTIONS; i++) {
        const struct option_info *info = &option_table[i];
        char text[256];
        if (!option_in_file(info) || index-- > 0)
            continue;
        *ret = (struct proto_option){.source = o->source[i], .live = info->scope == DAEMON_LIVE};
        proto_text_set(ret->name, sizeof ret->name, info->name);
        proto_text_set(ret->unit, sizeof ret->unit, info->unit);
        proto_text_set(ret->value, sizeof ret->value, option_value_text(o, i, text, sizeof text));
        proto_text_set(ret->standard, sizeof ret->standard, info->type == OPTION_FLAG ? "no" : info->standard);
        proto_text_set(ret->text, sizeof ret->text, info->text);
        return true;
    }
    return false;
}

void daemon_options_compare(const struct daemon_options *before, const struct daemon_options *after,
                            void (*changed)(void *data, const char *name, const char *was, const char *is, bool live),
                            void *data) {
    char was[256], is[256];
    for (size_t i = 0; i < DAEMON_OPTIONS; i++)
        if (option_in_file(&option_table[i]) &&
            strcmp(option_value_text(before, i, was, sizeof was), option_value_text(after, i, is, sizeof is)) != 0)
            changed(data, option_table[i].name, was, is, option_table[i].scope == DAEMON_LIVE);
}

/* ---------- the default configuration ---------- */

/* A comment of lines of at most 80 characters. */
static void option_print_comment(FILE *to, const char *text) {
    size_t column = (size_t)fprintf(to, ";");
    for (const char *at = text; *at;) {
        size_t length = strcspn(at, " ");
        if (column > 1 && column + 1 + length > 80)
            column = (size_t)fprintf(to, "\n;") - 1;
        column += (size_t)fprintf(to, " %.*s", (int)length, at);
        at += length + strspn(at + length, " ");
    }
    fputc('\n', to);
}

void daemon_options_template(FILE *to) {
    option_print_comment(to, "scissord.conf - configuration of scissord, see scissord.conf(5).");
    fputs(";\n", to);
    option_print_comment(to, "Everything is here with its default, behind a ';': take that away and change the value. "
                             "`scissord --check` says whether the file is right; `systemctl reload scissord` or SIGHUP "
                             "lets the daemon read it again. The command line is above this file.");
    for (size_t i = 0; i < DAEMON_OPTIONS; i++) {
        const struct option_info *o = &option_table[i];
        bool flag = o->type == OPTION_FLAG;
        if (!option_in_file(o))
            continue;
        fputc('\n', to);
        option_print_comment(to, o->text);
        fprintf(to, "; %s", flag ? "yes or no (default no)" : o->unit);
        option_print_bounds(to, o);
        fprintf(to, "%s\n;%s = %s\n", o->scope == DAEMON_START ? "; takes effect at the next start" : "", o->name,
                flag           ? "no"
                : *o->standard ? o->standard
                               : o->unit);
    }
}

/* ---------- manual pages ---------- */

/* One line of running text, of which roff must take nothing for its own. */
static void option_man_text(FILE *to, const char *text) {
    for (; *text; text++) {
        if (*text == '\\')
            fputs("\\e", to);
        else
            fputc(*text, to);
    }
}

void daemon_options_man(FILE *to, bool file) {
    fputs(".Bl -tag -width Ds\n", to);
    for (size_t i = 0; i < DAEMON_OPTIONS; i++) {
        const struct option_info *o = &option_table[i];
        if (o->scope == DAEMON_HIDDEN || (file && !option_in_file(o)))
            continue;
        if (file)
            fprintf(to, ".It Ic %s No = Ar %s\n", o->name, o->type == OPTION_FLAG ? "yes|no" : o->unit);
        else
            fprintf(to, ".It Fl \\-%s%s%s\n", o->name, *o->unit ? " Ar " : "", o->unit);
        option_man_text(to, o->text);
        option_print_bounds(to, o);
        fputs(file && o->type == OPTION_FLAG ? " (default no).\n" : ".\n", to);
        if (file && o->scope == DAEMON_START)
            fputs("A change takes effect at the next start.\n", to);
    }
    fputs(".El\n", to);
}

void daemon_policies_man(FILE *to) {
    fputs(".Bl -tag -width Ds\n", to);
    for (size_t i = 0; policy_class_at(i); i++) {
        const struct policy_class *policy = policy_class_at(i);
        fprintf(to, ".It Cm %s\n", policy->name);
        option_man_text(to, policy->text);
        fprintf(to, ".\n%s", policy->params->name ? ".Bl -tag -width Ds\n" : "");
        for (const struct policy_param_info *p = policy->params; p->name; p++) {
            fprintf(to, ".It Ic %s\n", p->name);
            option_man_text(to, p->text);
            fprintf(to, " (%.10g .. %.10g, default %.10g).\n", p->min, p->max, p->value);
        }
        fputs(policy->params->name ? ".El\n" : "", to);
    }
    fputs(".El\n", to);
}
