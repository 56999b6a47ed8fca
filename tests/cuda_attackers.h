/* cuda_attackers.h - what clients of tests/system/test_cuda_attack.c do in processes of their own, to a daemon on a
 * device or with it, until they are ended. */
#pragma once

#include "attach.h"
#include "cuda/driver.h"

/* A session that may borrow: rows of f32, of which 64 more for each head fill a segment. */
struct proto_open attackers_open(uint32_t guaranteed_rows, uint32_t max_rows);
/* Sessions of the role "never-done". */
#define ATTACKERS_NEVER_DONE 64
/* ... of "opens", and of "opens-some". */
#define ATTACKERS_OPENS 100
#define ATTACKERS_OPENS_SOME 5
/* Plays the role on the daemon in `directory`; writes the file `mark` when it has come to where it shall be. Gives an
 * exit status if it comes back. */
int attackers_play(const char *name, const char *mark, const char *directory);
/* Events that the driver has left. */
unsigned attackers_events(const struct cuda_driver *driver);
/* Entries of a directory. */
unsigned attackers_files(const char *directory);
