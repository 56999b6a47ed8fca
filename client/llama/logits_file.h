/* logits_file.h - the file of --logits-out: raw f32, one row of the vocabulary per position, nothing else. */
#pragma once

#include <stdio.h>

#include "failure.h"

/* NULL path: *ret_stream is NULL, and the other two do nothing with it. */
int logits_file_open(const char *path, FILE **ret_stream, struct failure *failure);
int logits_file_append(FILE *stream, const float *logits, size_t count, struct failure *failure);
int logits_file_close(FILE *stream, struct failure *failure);
