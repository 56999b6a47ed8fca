/* read.h - finding a session by what was typed. */
#pragma once

#include "link.h"

/* `what` is a session's number, or the name of exactly one session: of one that is open, if one is, for one that was
 * closed may stay in quarantine for long. Fills in *ret; else an enum ctl_exit, said. */
int ctl_session_find(const struct ctl_answer *sessions, const char *what, struct proto_session_stat *ret);

/* The same, asking the daemon over `link`. */
int ctl_session_ask(struct ctl_link *link, const char *what, struct proto_session_stat *ret);
