/* fail.h - how a command of scissorctl says what went wrong, and the exit status that stands for it. */
#pragma once

#include <stddef.h>

enum ctl_exit {
    CTL_DONE = 0,
    CTL_REFUSED = 1,     /* the daemon said no, or something failed on the way */
    CTL_USAGE = 2,       /* the command line is wrong */
    CTL_NOT_RUNNING = 3, /* nobody listens on the control socket */
    CTL_WARNING = 10,    /* `doctor` has something to warn of */
    CTL_CRITICAL = 20,   /* `doctor` found something critical */
};

/* Writes "scissorctl: ..." to standard error and returns `status`. */
int ctl_fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* From now on ctl_fail() writes what it would say into `text` and nothing to standard error, for those who show it
 * elsewhere; NULL ends that. */
void ctl_fail_capture(char *text, size_t size);
