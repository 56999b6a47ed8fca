/* order.c - which work comes before which: clocks of streams, and what each allocation was last used by. */
#include <string.h>

#include "fake.h"

void fake_clock_merge(struct fake_clock *to, const struct fake_clock *from) {
    for (unsigned i = 0; i < FAKE_STREAMS; i++)
        if (to->at[i] < from->at[i])
            to->at[i] = from->at[i];
}

void fake_order(struct fake_work *w) {
    struct fake_stream_state *s = &fake_state->streams[w->stream];
    fake_clock_merge(&s->clock, &fake_host);
    for (unsigned i = 0; i < FAKE_STREAMS; i++)
        if (s->clock.at[i] < fake_state->streams[i].waited)
            s->clock.at[i] = fake_state->streams[i].waited;
    s->clock.at[w->stream] = ++s->queued;
    w->clock = s->clock;
}

/* The dead are asked for last, and when the work runs: by the sockets of a process others see its end a little before
 * it can be seen here. */
static bool comes_before(unsigned stream, uint64_t at, const struct fake_clock *clock) {
    const struct fake_stream_state *s = &fake_state->streams[stream];
    return at == 0 || clock->at[stream] >= at || at <= s->began || !fake_alive(s->pid);
}

void fake_judge(const struct fake_work *w, struct fake_map *map, bool write) {
    struct fake_allocation *a = map->allocation;
    if (!map->live)
        fake_break(map->imported ? FAKE_RULE_use_after_close : FAKE_RULE_use_after_free, "queued work", map->serial);
    if (!a)
        return; /* pinned */
    if (a->write_stream >= 0 && !comes_before((unsigned)a->write_stream, a->write_at, &w->clock))
        fake_break(write ? FAKE_RULE_unordered_write : FAKE_RULE_unordered_read, "queued work", a->serial);
    if (!write) {
        a->read_at[w->stream] = w->clock.at[w->stream];
        return;
    }
    for (unsigned i = 0; i < FAKE_STREAMS; i++)
        if (!comes_before(i, a->read_at[i], &w->clock))
            fake_break(FAKE_RULE_unordered_overwrite, "queued work", a->serial);
    memset(a->read_at, 0, sizeof a->read_at);
    a->write_stream = (int)w->stream;
    a->write_at = w->clock.at[w->stream];
}
