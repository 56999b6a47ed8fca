/* attacked.h - a daemon with a manager that is attacked, and what must be true of it afterwards; for the tests of
 * attacks on daemons whose sessions outlive them. Functions fail the test by themselves. */
#pragma once

#include <stdint.h>

#include "manager.h"

extern struct manager attacked;
extern const char *const attacked_patient[]; /* arguments: orphans are waited for without end */
extern unsigned attacked_random;             /* for rand_r(); its seed is printed at the start */

unsigned attacked_random_below(unsigned n);
/* When what is random is to end: after $SCISSOR_TEST_SECONDS, or one. */
uint64_t attacked_end(void);
/* With room for so many descriptors in the store. */
void attacked_start(uint32_t store, const char *const *args);
/* All is given back, here and in the store, and a stranger is served. */
void attacked_nothing_is_left(void);
/* That, and it ends in order. */
void attacked_stop(void);
/* A connection that has said HELLO. */
int attacked_greet(void);
/* A session that has settled, so that it has some segments. */
struct proto_opened attacked_open(int fd, uint32_t settles);
struct proto_reattach attacked_reattach_of(const struct proto_opened *session);
/* The code that it was answered with; 1: the daemon hung up. `ret` may be NULL. */
int attacked_reattach(int fd, const struct proto_reattach *body, struct proto_reattached *ret);
/* The code that a request was answered with, which else has an answer of type `wanted`. */
int attacked_ask(int fd, uint16_t type, uint32_t request, const void *body, uint16_t wanted);
/* The code of a control request with a random id. token: NULL: zeros. */
int attacked_control(uint32_t op, uint64_t session, const uint8_t *token, uint32_t first, uint64_t a, uint64_t b,
                     uint64_t c);
/* Closes all sessions as the operator. */
void attacked_close_all(void);
