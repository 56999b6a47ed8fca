/* size.h - sizes as people write them. */
#pragma once

#include <stdint.h>

/* "256MiB", "8GiB", "1.5GiB", "100MB", "4096": bytes. 0 or EINVAL. */
int proto_size_parse(const char *text, uint64_t *ret_bytes);
