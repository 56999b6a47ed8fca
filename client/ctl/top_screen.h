/* top_screen.h - `scissorctl top` on a whole terminal. The one file of scissorctl that includes curses is
 * top_screen.c. */
#pragma once

#include "link.h"

/* Runs until q, Ctrl-C or the end of the terminal, which it gives back as it was. An enum ctl_exit, with `link` closed;
 * or CTL_TOP_NO_SCREEN with nothing done if the type of the terminal is not known or its cursor cannot be moved. */
#define CTL_TOP_NO_SCREEN (-1)
int ctl_top_screen(const struct ctl *ctl, struct ctl_link *link);
