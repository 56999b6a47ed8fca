/* live.h - ending the commands that run until Ctrl-C. */
#pragma once

#include <stdbool.h>

/* From now on SIGINT, SIGTERM and SIGHUP end no process but a wait. Once. */
void ctl_live_begin(void);
/* Such a signal came. */
bool ctl_live_over(void);
/* Sleeps; false if over. */
bool ctl_live_sleep(unsigned ms);
