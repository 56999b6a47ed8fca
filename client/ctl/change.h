/* change.h - how the commands that change something begin and end. */
#pragma once

#include "link.h"
#include "pass.h"

/* Opens the link, after the check that the daemon is there, and gets the pass that allows it. */
int ctl_change_open(struct ctl *ctl, struct ctl_link *link, struct ctl_pass *pass);
void ctl_change_close(struct ctl_link *link, struct ctl_pass *pass);
