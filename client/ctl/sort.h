/* sort.h - the orders that `scissorctl sessions --sort` knows. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "control.h"

bool ctl_sort_known(const char *key);
/* Orders sessions by a known key; equal ones by their ids. Names, ids and priorities rise, the other keys fall. */
void ctl_sort_sessions(struct proto_session_stat *sessions, size_t count, const char *key, bool reverse);
