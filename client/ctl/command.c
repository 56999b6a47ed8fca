/* command.c - the table of commands, the command line and the help that comes from both. */
#include "command.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "doctor.h"
#include "place.h"
#include "sort.h"

const struct ctl_command ctl_commands[] = {
#define CTL_COMMAND_ROW(name, argument, options, function, line, more) {name, argument, options, function, line, more},
    CTL_COMMAND_MAP(CTL_COMMAND_ROW)
#undef CTL_COMMAND_ROW
        {0}};

static const struct {
    const char *option, *argument, *text;
} options[] = {
#define CTL_OPTION_ROW(name, option, argument, text) {option, argument, text},
    CTL_OPTION_MAP(CTL_OPTION_ROW)
#undef CTL_OPTION_ROW
};

const struct ctl_command *ctl_command_find(const char *name) {
    for (const struct ctl_command *c = ctl_commands; c->name; c++)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

static int usage(const char *what, const char *detail) {
    return ctl_fail(CTL_USAGE, "%s%s; `scissorctl help` lists what there is", what, detail);
}

static int take_number(const char *option, const char *text, uint64_t min, uint64_t *ret) {
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (errno || *end || text[0] < '0' || text[0] > '9' || n < min)
        return ctl_fail(CTL_USAGE, "--%s takes a number, %llu or more, not '%s'", option, (unsigned long long)min,
                        text);
    *ret = n;
    return CTL_DONE;
}

static int take_sort(struct ctl *ctl, const char *text) {
    if (!ctl_sort_known(text))
        return ctl_fail(CTL_USAGE, "--sort takes a key of `scissorctl help sessions`, not '%s'", text);
    ctl->sort = text;
    return CTL_DONE;
}

static int take_directory(struct ctl *ctl, const char *text) {
    if (!*text || strlen(text) >= sizeof ctl->directory)
        return ctl_fail(CTL_USAGE, "--dir takes a directory of at most %zu characters", sizeof ctl->directory - 1);
    snprintf(ctl->directory, sizeof ctl->directory, "%s", text);
    return CTL_DONE;
}

/* The argument of an option. */
static int take_value(struct ctl *ctl, int option, const char *text) {
    switch (option) {
    case CTL_OPTION_DIR:
        return take_directory(ctl, text);
    case CTL_OPTION_COUNT:
        return take_number("count", text, 1, &ctl->count);
    case CTL_OPTION_SETTLES:
        return take_number("settles", text, 1, &ctl->settles);
    case CTL_OPTION_SORT:
        return take_sort(ctl, text);
    case CTL_OPTION_LAYER:
        ctl->layer_given = true;
        return take_number("layer", text, 0, &ctl->layer);
    case CTL_OPTION_HEAD:
        ctl->head_given = true;
        return take_number("head", text, 0, &ctl->head);
    case CTL_OPTION_LISTEN:
        ctl->listen = text;
        return CTL_DONE;
    default:
        return CTL_DONE;
    }
}

/* Reads the options, wherever they stand; sets their bits. */
static int parse_options(int argc, char **argv, struct ctl *ctl, uint32_t *ret_given) {
    struct option table[CTL_OPTIONS + 1] = {{0}};
    for (int i = 0; i < CTL_OPTIONS; i++)
        table[i] = (struct option){options[i].option, options[i].argument != NULL, NULL, 256 + i};
    optind = 0; /* tests parse more than once */
    opterr = 0;
    for (int option; (option = getopt_long(argc, argv, ":h", table, NULL)) != -1;) {
        if (option == ':')
            return usage("an option lacks its argument: ", argv[optind - 1]);
        if (option == '?')
            return usage("there is no option ", argv[optind - 1]);
        option = option == 'h' ? CTL_OPTION_HELP : option - 256;
        *ret_given |= 1u << option;
        int status = take_value(ctl, option, optarg);
        if (status)
            return status;
    }
    return CTL_DONE;
}

/* What stands behind the command. */
static int parse_argument(const struct ctl_command *command, char **words, int count, struct ctl *ctl) {
    const char *argument = command->argument ? command->argument : "";
    int named = *argument ? 1 : 0;
    for (const char *c = argument; *c; c++)
        named += *c == ' ';
    int most = strstr(argument, "...") ? INT_MAX : named;
    if (count > most)
        return ctl_fail(CTL_USAGE, "'%s' is too much; usage: scissorctl %s%s%s", words[most], command->name,
                        *argument ? " " : "", argument);
    if (*argument && *argument != '[' && count < named)
        return ctl_fail(CTL_USAGE, "usage: scissorctl %s %s", command->name, argument);
    ctl->argument = count ? words[0] : NULL;
    ctl->words = words;
    ctl->word_count = count;
    return CTL_DONE;
}

int ctl_parse(int argc, char **argv, struct ctl *ctl, const struct ctl_command **ret_command) {
    *ctl = (struct ctl){.colour = isatty(STDOUT_FILENO) && !getenv("NO_COLOR")};
    ctl_place_default(ctl->directory, sizeof ctl->directory);
    uint32_t given = 0;
    int status = parse_options(argc, argv, ctl, &given);
    if (status)
        return status;
    char **words = argv + optind;
    int count = argc - optind;
    const char *name = count ? words[0] : given & CTL_BIT(HELP) ? "help" : given & CTL_BIT(VERSION) ? "version" : NULL;
    if (!name)
        return usage("no command", "");
    const struct ctl_command *command = ctl_command_find(name);
    if (!command)
        return usage("there is no command ", name);
    if (given & CTL_BIT(HELP) && command->run != ctl_help) {
        ctl->argument = count ? command->name : NULL;
        *ret_command = ctl_command_find("help");
        return CTL_DONE;
    }
    for (int i = 0; i < CTL_OPTIONS; i++)
        if (given & ~(CTL_COMMON | command->options) & 1u << i)
            return ctl_fail(CTL_USAGE, "`%s` has no option --%s; see `scissorctl help %s`", command->name,
                            options[i].option, command->name);
    status = count ? parse_argument(command, words + 1, count - 1, ctl) : CTL_DONE;
    if (status)
        return status;
    ctl->json = given & CTL_BIT(JSON);
    ctl->once = given & CTL_BIT(ONCE);
    ctl->heads = given & CTL_BIT(HEADS);
    ctl->reverse = given & CTL_BIT(REVERSE);
    *ret_command = command;
    return CTL_DONE;
}

static void print_options(uint32_t which) {
    char left[32];
    for (int i = 0; i < CTL_OPTIONS; i++) {
        if (!(which & 1u << i))
            continue;
        snprintf(left, sizeof left, "--%s%s%s", options[i].option, options[i].argument ? " " : "",
                 options[i].argument ? options[i].argument : "");
        printf("  %-14s %s\n", left, options[i].text);
    }
}

static void print_thresholds(void) {
    for (size_t i = 0; i < DOCTOR_THRESHOLDS; i++) {
        char figure[32] = "any";
        const struct doctor_info *t = &doctor_table[i];
        if (*t->unit)
            snprintf(figure, sizeof figure, "%g %s", t->threshold, t->unit);
        printf("  %-22s  %-8s  %-10s %s\n", t->id, doctor_severity_name(t->severity), figure, t->text);
    }
    printf("\n");
}

int ctl_help(struct ctl *ctl) {
    const struct ctl_command *command = ctl->argument ? ctl_command_find(ctl->argument) : NULL;
    if (ctl->argument && !command)
        return usage("there is no command ", ctl->argument);
    if (command) {
        printf("usage: scissorctl [OPTIONS] %s%s%s\n\n%s\n%s\n", command->name, command->argument ? " " : "",
               command->argument ? command->argument : "", command->line, command->more);
        if (command->run == ctl_doctor)
            print_thresholds();
        print_options(command->options | CTL_COMMON);
        return CTL_DONE;
    }
    printf("usage: scissorctl [OPTIONS] COMMAND\n\nLooks into a running scissord and changes what it does.\n\n");
    for (const struct ctl_command *c = ctl_commands; c->name; c++)
        printf("  %-9s %-9s %s\n", c->name, c->argument ? c->argument : "", c->line);
    printf("\n");
    print_options(CTL_COMMON);
    printf("\nDIR is by default $SCISSORD_DIR, else $XDG_RUNTIME_DIR/scissord if it is there, else /run/scissord.\n"
           "The exit status is 0; 1 if something was refused or failed; 2 if the command line is wrong; 3 if no "
           "scissord is running; 10 or 20 if `doctor` has warnings or something critical.\n");
    return CTL_DONE;
}
