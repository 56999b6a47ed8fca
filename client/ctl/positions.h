/* positions.h - runs of positions. */
#pragma once

#include <jansson.h>

#include "link.h"
#include "out.h"

/* Sorts the positions and writes them as runs, "0-3, 17, 900-960", with line breaks. */
void ctl_view_positions(struct out *o, struct proto_position *positions, size_t count);
/* An array in the order given; NULL if out of memory. */
json_t *ctl_json_positions(const struct proto_position *positions, size_t count);
