/* failure.h - a failure's code (scissor_error.h) together with a sentence for people.
 *
 * A scissor_error code alone cannot say which tensor of which file is wrong; so every function of this program that
 * can fail on input takes a `struct failure` beside its outputs and fills it in before it returns non-zero. */
#pragma once

#include "scissor_error.h"

#define FAILURE_TEXT_BYTES 384

struct failure {
    char text[FAILURE_TEXT_BYTES];
};

/* Writes the text, cut if too long. */
void failure_write(struct failure *failure, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Writes the text and gives `code`; a macro, so that the compiler sees that a constant code is not 0. */
#define failure_set(failure, code, ...) (failure_write(failure, __VA_ARGS__), (code))

/* The usual text for a failed allocation; gives SCISSOR_ENOMEM. */
#define failure_set_memory(failure) failure_set(failure, SCISSOR_ENOMEM, "%s", scissor_strerror(SCISSOR_ENOMEM))
