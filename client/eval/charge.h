/* charge.h - what the daemon charges a session beside the memory of its rows. */
#pragma once

#include <stdint.h>

#include "llama/failure.h"

/* Control pages and bookkeeping (positions, sums of scores, norms), as `scissorctl memory` shows them. ESTATE: the
 * daemon does not know the session. ESYSTEM. */
int charge_beside_rows(const char *directory, uint64_t session, uint64_t *ret_bytes, struct failure *failure);
