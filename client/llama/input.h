/* input.h - a text file as a whole in memory. */
#pragma once

#include <stddef.h>

#include "failure.h"

/* Reads the file, "-" being standard input; the caller frees *ret_text with scissor_free. */
int input_read(const char *path, char **ret_text, size_t *ret_size, struct failure *failure);
