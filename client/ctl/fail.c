/* fail.c - see fail.h. */
#include "fail.h"

#include <stdarg.h>
#include <stdio.h>

/* Where ctl_fail() writes to; NULL: standard error. */
static char *captured;
static size_t captured_size;

void ctl_fail_capture(char *text, size_t size) {
    captured = text;
    captured_size = size;
}

int ctl_fail(int status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (captured) {
        vsnprintf(captured, captured_size, format, arguments);
    } else {
        fflush(stdout);
        fputs("scissorctl: ", stderr);
        vfprintf(stderr, format, arguments);
        fputc('\n', stderr);
    }
    va_end(arguments);
    return status;
}
