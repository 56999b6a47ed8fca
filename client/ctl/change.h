/* change.h - how the commands that change something begin. */
#pragma once

#include "link.h"

/* Opens the link, after the check that the daemon is there, and gets the secret that allows it. */
int ctl_change_open(struct ctl *ctl, struct ctl_link *link, uint8_t ret_key[PROTO_TOKEN_BYTES]);
