/* option_table.h - command lines read by a table of options, which is also the limits and the help text.
 *
 * Arguments are "--name VALUE", "--name=VALUE", "-n VALUE", flags "--name", and words without a dash. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "failure.h"
#include "scissor.h"

enum option_kind {
    OPTION_HEADING,
    OPTION_FLAG,   /* bool */
    OPTION_TEXT,   /* const char * */
    OPTION_NUMBER, /* uint32_t within low..high */
    OPTION_LONG,   /* uint64_t */
    OPTION_REAL,   /* double within low..high */
    OPTION_DTYPE,  /* uint32_t, enum scissor_dtype up to high */
    OPTION_CALL,   /* whatever the table's `call` makes of it */
};

struct option_entry {
    enum option_kind kind;
    const char *name, *argument, *text;
    size_t offset; /* of the field in the program's struct */
    double low, high;
};

struct option_table {
    const char *usage; /* above the list, with a line break at its end */
    const struct option_entry *entries;
    size_t count;
    /* Reads the value of an option of kind OPTION_CALL; EINVAL: it cannot be that. */
    int (*call)(void *options, const char *name, const char *text);
    /* Takes a word that belongs to no option; EINVAL: one word too many. */
    int (*word)(void *options, const char *word);
};

/* Reads the arguments into `options`; strings point into argv. EINVAL: the failure says what to change. */
int option_table_parse(const struct option_table *table, int argc, char **argv, void *options, struct failure *failure);

void option_table_print(const struct option_table *table, FILE *stream);

/* ---------- values; EINVAL leaves *ret untouched ---------- */

int option_read_real(const char *text, double low, double high, double *ret);
int option_read_integer(const char *text, uint64_t low, uint64_t high, uint64_t *ret);
/* The first `count` of enum scissor_dtype, by name. */
int option_read_dtype(const char *text, uint32_t count, uint32_t *ret);
/* "NAME=VALUE", a parameter of a policy, appended to params[SCISSOR_MAX_PARAMS]. */
int option_read_param(const char *text, struct scissor_param *params, uint32_t *count);
