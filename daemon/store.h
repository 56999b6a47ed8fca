/* store.h - the service manager's descriptor store as the broker's: what is put there comes back to the next process.
 */
#pragma once

#include <stdint.h>

#include "broker/broker.h"

/* Holds up to `max` descriptors. Any thread may use it. */
void store_init(struct broker_store *store, uint32_t max);
