/* fake_messages.h - what the two files of the fake daemon share; tests include fake_daemon.h. */
#pragma once

#include "fake_daemon.h"

/* Sends a packet to the client, if one is connected; closes its descriptors. */
void fake_deliver(struct fake *f, struct fake_packet *p);
/* The same for a message, which the hook sees first. */
void fake_send_with(struct fake *f, uint16_t type, uint32_t request, const void *body, const void *entries,
                    uint16_t count, const int *fds, uint32_t fd_count);
/* Does what a client's packet asks for. */
void fake_handle(struct fake *f, const char *packet, size_t size);
/* Folds the score frames that have come; with a session, waits until frame `sequence` of it has. */
void fake_read_frames(struct fake *f, const struct fake_session *s, uint64_t sequence);
void fake_end_session(struct fake *f, struct fake_session *s);
/* The fake's own copy of a head's entry, which a test that scribbles on the page does not touch; and its way there. */
uint32_t *fake_own_words(struct fake_session *s, uint32_t head);
void fake_publish(struct fake_session *s);
