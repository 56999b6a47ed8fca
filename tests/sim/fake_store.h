/* fake_store.h - keeps descriptors as the service manager does: names and copies, for the broker's next life. */
#pragma once

#include "broker.h"

#define FAKE_STORE_MAX 2048

struct fake_store {
    struct broker_store base; /* first */
    uint32_t count;
    uint64_t puts, drops;
    uint64_t puts_left; /* so many more succeed, then all fail; UINT64_MAX: none fails */
    struct broker_kept kept[FAKE_STORE_MAX];
};

void fake_store_init(struct fake_store *s, uint32_t max);
/* Closes what it has. */
void fake_store_deinit(struct fake_store *s);
/* What the next process gets: copies; the store keeps its own. Returns how many. */
size_t fake_store_give(const struct fake_store *s, struct broker_kept *ret_kept);
/* The descriptor of that name, still the store's; -1. */
int fake_store_find(const struct fake_store *s, const char *name);
