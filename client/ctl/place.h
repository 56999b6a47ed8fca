/* place.h - the daemon's directory: where it is, and whether somebody listens there. */
#pragma once

#include <stddef.h>

/* Writes the directory to use when none is named: $SCISSORD_DIR, else $XDG_RUNTIME_DIR/scissord if it is there, else
 * /run/scissord. */
void ctl_place_default(char *ret_directory, size_t size);

/* 0 if somebody listens on DIR/`socket`; else CTL_NOT_RUNNING or CTL_REFUSED (no permission), having said on standard
 * error what to do if `loud`. Never waits. */
int ctl_place_check(const char *directory, const char *socket, int loud);

/* Says on standard error why DIR/`socket` cannot be connected to (errno value) and what to do; CTL_NOT_RUNNING or
 * CTL_REFUSED. */
int ctl_place_tell(const char *directory, const char *socket, int error);
