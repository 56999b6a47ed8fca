/* failure.c - see failure.h. */
#include "failure.h"

#include <stdarg.h>
#include <stdio.h>

void failure_write(struct failure *failure, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(failure->text, sizeof(failure->text), format, arguments);
    va_end(arguments);
}
