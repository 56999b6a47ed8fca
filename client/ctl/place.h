/* place.h - the daemon's directory: where it is, whether somebody listens there, and the admin key in it. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "attach.h"

/* Writes the directory to use when none is named: $SCISSORD_DIR, else $XDG_RUNTIME_DIR/scissord if it is there, else
 * /run/scissord. */
void ctl_place_default(char *ret_directory, size_t size);

/* 0 if somebody listens on DIR/`socket`; else CTL_NOT_RUNNING or CTL_REFUSED (no permission), having said on standard
 * error what to do if `loud`. Never waits. */
int ctl_place_check(const char *directory, const char *socket, int loud);

/* Reads DIR/admin.key. 0 or CTL_REFUSED, having said who may read it. */
int ctl_place_admin_key(const char *directory, uint8_t ret_key[PROTO_TOKEN_BYTES]);
