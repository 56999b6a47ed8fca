/* utf8.h - recognises UTF-8 sequences; overlong forms, surrogates and values past U+10FFFF are not UTF-8. */
#pragma once

#include <stddef.h>

#define UTF8_INVALID 0
#define UTF8_INCOMPLETE (-1)

/* The length of the sequence that `bytes` starts with, 1 to 4; UTF8_INCOMPLETE if `size` bytes are the beginning of
 * one; UTF8_INVALID otherwise. size >= 1. */
int utf8_sequence(const char *bytes, size_t size);

/* Bytes at the start that are whole sequences. */
size_t utf8_valid_prefix(const char *bytes, size_t size);
