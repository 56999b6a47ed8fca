/* dying_backend.h - the host backend, with moments between and within its moves at which a test can end the process. */
#pragma once

#include <stdint.h>

#include "backend.h"

/* What has been moved by all of them. */
extern struct dying_counts { uint64_t tail_moves, page_copies, detail_moves; } dying_counts;

/* `point` is called at each moment, `copying` when half of a page has been copied. */
void dying_backend_init(struct kernel_backend *b, void (*point)(void), void (*copying)(void));
