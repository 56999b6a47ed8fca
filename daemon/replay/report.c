/* report.c - see report.h. */
#include "daemon/replay/report.h"

#include <stdlib.h>

#include "scissor_error.h"

double report_share(double part, double all) {
    return all > 0 ? part / all : -1;
}

static struct replay_mass sum_of(const struct replay *r) {
    struct replay_mass sum = {0};
    for (uint32_t l = 0; l < r->layer_count; l++) {
        sum.all += r->mass[l].all;
        sum.kept += r->mass[l].kept;
        sum.settled_all += r->mass[l].settled_all;
        sum.settled_kept += r->mass[l].settled_kept;
    }
    return sum;
}

/* Kept rows that the recording session had evicted, over all heads. */
static uint64_t unknown_rows(const struct replay *r) {
    uint64_t unknown = 0;
    for (uint32_t h = 0; h < r->head_count; h++)
        for (uint32_t i = 0; i < r->heads[h].history.settled; i++)
            unknown += r->heads[h].traced[i] == REPLAY_NONE;
    return unknown;
}

/* ---------- for people ---------- */

static void text_share(FILE *out, double part, double all) {
    double share = report_share(part, all);
    if (share < 0)
        fprintf(out, "  %10s", "-");
    else
        fprintf(out, "  %8.2f %%", 100 * share);
}

static void text_row(FILE *out, const struct replay_mass *m) {
    text_share(out, m->kept, m->all);
    text_share(out, m->settled_kept, m->settled_all);
}

static void text_layer(FILE *out, const struct replay *r, uint32_t layer) {
    const struct replay_group *g = replay_group_of(r, layer);
    uint32_t least = UINT32_MAX, most = 0, oldest = UINT32_MAX;
    for (uint32_t k = 0; k < g->kv_heads; k++) {
        const struct history *h = &r->heads[replay_head_index(g, layer, k)].history;
        least = h->settled < least ? h->settled : least;
        most = h->settled > most ? h->settled : most;
        for (uint32_t i = 0; i < h->settled; i++)
            oldest = h->position[i] < oldest ? h->position[i] : oldest;
    }
    fprintf(out, "%5u", layer);
    text_row(out, &r->mass[layer]);
    if (least < most)
        fprintf(out, "  %u-%u", least, most);
    else
        fprintf(out, "  %u", most);
    if (most)
        fprintf(out, ", from position %u on", oldest);
    fprintf(out, "\n");
}

static void text_losses(FILE *out, const struct report *report) {
    if (report->trace->lost)
        fprintf(out, "%llu records were lost while it was recorded\n", (unsigned long long)report->trace->lost);
    if (report->end == SCISSOR_EGONE)
        fprintf(out, "the daemon went away while it was recorded\n");
}

void report_text(FILE *out, const struct report *report) {
    const struct replay *r = report->replay;
    struct replay_mass sum = sum_of(r);
    fprintf(out, "%llu settles, %llu score frames, %llu tokens\n", (unsigned long long)r->settles,
            (unsigned long long)r->frames, (unsigned long long)r->tokens);
    for (uint32_t i = 0; i < r->group_count; i++)
        fprintf(out, "layers %u to %u: %s, %u rows per KV head\n", r->groups[i].first_layer,
                r->groups[i].first_layer + r->groups[i].layers - 1, r->groups[i].policy.class->name,
                r->groups[i].room + r->fresh_rows);
    text_losses(out, report);
    if (unknown_rows(r))
        fprintf(out,
                "%llu of the rows kept had been evicted in the session that was recorded, so they count as without "
                "attention from then on\n",
                (unsigned long long)unknown_rows(r));
    fprintf(out, "\nattention mass retained\nlayer  of all rows  of settled  settled rows kept per KV head\n");
    for (uint32_t l = 0; l < r->layer_count; l++)
        text_layer(out, r, l);
    fprintf(out, "  all");
    text_row(out, &sum);
    fprintf(out, "\n");
}

/* ---------- JSON ---------- */

static void json_share(FILE *out, const char *key, double part, double all) {
    double share = report_share(part, all);
    if (share < 0)
        fprintf(out, "\"%s\": null", key);
    else
        fprintf(out, "\"%s\": %.9g", key, share);
}

static void json_mass(FILE *out, const struct replay_mass *m) {
    json_share(out, "retained", m->kept, m->all);
    fprintf(out, ", ");
    json_share(out, "retained_settled", m->settled_kept, m->settled_all);
}

static int compare(const void *left, const void *right) {
    const uint32_t *a = left, *b = right;
    return *a < *b ? -1 : *a > *b;
}

/* Sorts the positions in place: nothing is replayed after a report. */
static void json_head(FILE *out, const struct history *h) {
    qsort(h->position, h->settled, sizeof *h->position, compare);
    fprintf(out, "[");
    for (uint32_t i = 0; i < h->settled; i++)
        fprintf(out, "%s%u", i ? ", " : "", h->position[i]);
    fprintf(out, "]");
}

static void json_layer(FILE *out, const struct replay *r, uint32_t layer) {
    const struct replay_group *g = replay_group_of(r, layer);
    fprintf(out, "    {\"layer\": %u, \"policy\": \"%s\", \"budget_rows\": %u, ", layer, g->policy.class->name,
            g->room + r->fresh_rows);
    json_mass(out, &r->mass[layer]);
    fprintf(out, ",\n     \"kept\": [");
    for (uint32_t k = 0; k < g->kv_heads; k++) {
        fprintf(out, "%s", k ? ",\n      " : "");
        json_head(out, &r->heads[replay_head_index(g, layer, k)].history);
    }
    fprintf(out, "]}%s\n", layer + 1 < r->layer_count ? "," : "");
}

void report_json(FILE *out, const struct report *report) {
    const struct replay *r = report->replay;
    struct replay_mass sum = sum_of(r);
    fprintf(out, "{\n  \"settles\": %llu, \"frames\": %llu, \"tokens\": %llu, \"lost_records\": %llu,\n",
            (unsigned long long)r->settles, (unsigned long long)r->frames, (unsigned long long)r->tokens,
            (unsigned long long)report->trace->lost);
    fprintf(out, "  \"end\": \"%s\", \"unknown_rows\": %llu, ", report->end ? scissor_errname(report->end) : "OK",
            (unsigned long long)unknown_rows(r));
    json_mass(out, &sum);
    fprintf(out, ",\n  \"layers\": [\n");
    for (uint32_t l = 0; l < r->layer_count; l++)
        json_layer(out, r, l);
    fprintf(out, "  ]\n}\n");
}

/* ---------- persistence ---------- */

static struct persistence_count count_all(const struct persistence *p) {
    struct persistence_count sum = {0}, layer;
    for (uint32_t l = 0; l < p->layer_count; l++) {
        persistence_count(p, l, &layer);
        sum.early += layer.early;
        sum.late += layer.late;
        sum.both += layer.both;
        sum.rows += layer.rows;
    }
    return sum;
}

static void text_persistence(FILE *out, const struct persistence_count *count) {
    text_share(out, (double)count->both, (double)count->late);
    text_share(out, (double)count->early, (double)count->rows);
    text_share(out, (double)count->late, (double)count->rows);
    fprintf(out, "\n");
}

void report_persistence_text(FILE *out, const struct report *report) {
    const struct persistence *p = report->replay->persistence;
    struct persistence_count count = count_all(p);
    fprintf(out, "%llu rows; of the first %llu of them, those with more than 1/%llu of the attention\n",
            (unsigned long long)p->tokens, (unsigned long long)p->half, (unsigned long long)p->half);
    text_losses(out, report);
    fprintf(out, "\nlayer  late ones that  early ones   late ones\n       were early ones    of all      of all\n");
    for (uint32_t l = 0; l < p->layer_count; l++) {
        struct persistence_count layer;
        persistence_count(p, l, &layer);
        fprintf(out, "%5u     ", l);
        text_persistence(out, &layer);
    }
    fprintf(out, "  all     ");
    text_persistence(out, &count);
}

static void json_persistence(FILE *out, const struct persistence_count *count) {
    json_share(out, "ratio", (double)count->both, (double)count->late);
    fprintf(out, ", ");
    json_share(out, "share_early", (double)count->early, (double)count->rows);
    fprintf(out, ", ");
    json_share(out, "share_late", (double)count->late, (double)count->rows);
    fprintf(out, ", \"early\": %llu, \"late\": %llu, \"both\": %llu", (unsigned long long)count->early,
            (unsigned long long)count->late, (unsigned long long)count->both);
}

void report_persistence_json(FILE *out, const struct report *report) {
    const struct persistence *p = report->replay->persistence;
    struct persistence_count count = count_all(p);
    fprintf(out, "{\n  \"tokens\": %llu, \"half\": %llu, \"lost_records\": %llu, \"end\": \"%s\",\n  ",
            (unsigned long long)p->tokens, (unsigned long long)p->half, (unsigned long long)report->trace->lost,
            report->end ? scissor_errname(report->end) : "OK");
    json_persistence(out, &count);
    fprintf(out, ",\n  \"layers\": [\n");
    for (uint32_t l = 0; l < p->layer_count; l++) {
        persistence_count(p, l, &count);
        fprintf(out, "    {\"layer\": %u, ", l);
        json_persistence(out, &count);
        fprintf(out, "}%s\n", l + 1 < p->layer_count ? "," : "");
    }
    fprintf(out, "  ]\n}\n");
}
