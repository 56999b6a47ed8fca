/* policy.c - the table of policies, their parameters, and the choice of victims.
 *
 * Nothing here has state; policy_victims() may run on any thread that owns the history. */
#include "policy.h"

#include <assert.h>
#include <ctype.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "history.h"
#include "policy/classes.h"
#include "scissor_error.h"

static const struct policy_class *const policy_classes[] = {
    &policy_pivotal, &policy_scissorhands, &policy_h2o, &policy_tova, &policy_streaming, &policy_window, &policy_random,
};
#define POLICY_COUNT (sizeof policy_classes / sizeof *policy_classes)

const struct policy_class *policy_lookup(const char *name) {
    for (size_t i = 0; i < POLICY_COUNT; i++)
        if (strcmp(policy_classes[i]->name, name) == 0)
            return policy_classes[i];
    return NULL;
}

const struct policy_class *policy_class_at(size_t i) {
    return i < POLICY_COUNT ? policy_classes[i] : NULL;
}

void policy_score_position(const struct policy *p, const struct history *h, uint64_t next_position, float *ret_score) {
    (void)p, (void)next_position;
    for (uint32_t i = 0; i < h->settled; i++)
        ret_score[i] = (float)h->position[i];
}

uint64_t policy_first_of_last(uint64_t rows, uint64_t next_position) {
    return next_position > rows ? next_position - rows : 0;
}

uint32_t policy_share_of_budget(const struct policy *p, double share, uint32_t room) {
    return (uint32_t)(share * ((double)room + p->fresh_rows));
}

/* ---------- parameters ---------- */

/* A client's text in ours: bounded, and nothing that a terminal would act on. */
static const char *printable(const char *field, size_t bytes, char ret[static 32]) {
    size_t i = 0;
    for (; i < bytes && i < 31 && field[i]; i++)
        ret[i] = isascii((unsigned char)field[i]) && isprint((unsigned char)field[i]) ? field[i] : '?';
    ret[i] = 0;
    return ret;
}

static size_t param_count(const struct policy_class *class) {
    size_t n = 0;
    while (class->params[n].name)
        n++;
    assert(n <= PROTO_MAX_PARAMS);
    return n;
}

/* The value of one parameter; most count something, so they are whole numbers. */
static int param_set(struct policy *p, size_t index, double value, char *why, size_t why_bytes) {
    const struct policy_param_info *info = &p->class->params[index];
    if (!isfinite(value) || value < info->min || value > info->max)
        snprintf(why, why_bytes, "parameter \"%s\" of policy \"%s\" must be from %.15g to %.15g (%s), not %.15g",
                 info->name, p->class->name, info->min, info->max, info->unit, value);
    else if (!info->real && value != floor(value))
        snprintf(why, why_bytes,
                 "parameter \"%s\" of policy \"%s\" must be a whole number from %.15g to %.15g (%s), not %.15g",
                 info->name, p->class->name, info->min, info->max, info->unit, value);
    else {
        p->param[index] = value;
        return 0;
    }
    return SCISSOR_EINVAL;
}

static int param_unknown(const struct policy_class *class, const struct proto_param *param, char *why,
                         size_t why_bytes) {
    char name[32];
    char known[96] = "none";
    size_t used = 0;
    for (size_t i = 0; class->params[i].name && used < sizeof known; i++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", class->params[i].name);
    snprintf(why, why_bytes, "policy \"%s\" has no parameter \"%s\" (given: %.15g); it has: %s", class->name,
             printable(param->name, sizeof param->name, name), param->value, known);
    return SCISSOR_EINVAL;
}

static int params_read(struct policy *p, const struct proto_group *group, char *why, size_t why_bytes) {
    bool given[PROTO_MAX_PARAMS] = {false};
    size_t count = param_count(p->class);

    for (size_t i = 0; i < count; i++)
        p->param[i] = p->class->params[i].value;
    for (size_t k = 0; k < PROTO_MAX_PARAMS; k++) {
        const struct proto_param *param = &group->params[k];
        if (!param->name[0])
            continue;
        size_t i = 0;
        while (i < count && strncmp(param->name, p->class->params[i].name, sizeof param->name) != 0)
            i++;
        if (i == count)
            return param_unknown(p->class, param, why, why_bytes);
        if (given[i]) {
            snprintf(why, why_bytes, "parameter \"%s\" of policy \"%s\" is given twice (%.15g and %.15g)",
                     p->class->params[i].name, p->class->name, p->param[i], param->value);
            return SCISSOR_EINVAL;
        }
        given[i] = true;
        int r = param_set(p, i, param->value, why, why_bytes);
        if (r)
            return r;
    }
    return 0;
}

int policy_init(struct policy *p, const char *default_name, const struct proto_group *group, uint32_t fresh_rows,
                char *why, size_t why_bytes) {
    char name[32];
    uint32_t rows = group->max_rows ? group->max_rows : group->guaranteed_rows;
    struct policy made = {
        .fresh_rows = fresh_rows,
        .budget_rows = rows > fresh_rows ? rows - fresh_rows : 0,
    };

    assert(fresh_rows >= 1);
    printable(group->policy[0] ? group->policy : default_name, group->policy[0] ? sizeof group->policy : 31, name);
    if (!(made.class = policy_lookup(name))) {
        char known[96] = "";
        size_t used = 0;
        for (size_t i = 0; i < POLICY_COUNT && used < sizeof known; i++)
            used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", policy_classes[i]->name);
        snprintf(why, why_bytes, "there is no policy \"%s\"; there are: %s", name, known);
        return SCISSOR_EINVAL;
    }
    int r = params_read(&made, group, why, why_bytes);
    if (r)
        return r;
    *p = made;
    return 0;
}

/* ---------- victims ----------
 *
 * A slot's rank is one 64-bit key: the score, mapped to an unsigned number of the same order, above the position. No
 * two rows of a head have the same position, so keys are distinct and "lowest score first, a tie to the older
 * position" is their plain order. Protected rows get a word above that of every finite score. */

#define KEY_RECENT 0xff800000u /* where +infinity would lie */
#define KEY_SINK 0xffffffffu

static uint32_t score_key(float score) {
    uint32_t bits;
    if (!isfinite(score) || score == 0)
        score = 0; /* -0, too, so that it ties with 0 */
    memcpy(&bits, &score, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* The key of rank `rank` (0: lowest) among distinct keys, by one byte at a time from the top: each step counts the
 * candidates by that byte and keeps those of the byte in which the rank falls. Linear whatever the keys are, which a
 * quickselect is not, and a client chooses its scores. Overwrites `keys`. */
static uint64_t select_key(uint64_t *keys, uint32_t count, uint32_t rank) {
    for (int shift = 56; count > 1; shift -= 8) {
        uint32_t counts[256] = {0};
        uint32_t byte = 0;
        uint32_t kept = 0;
        for (uint32_t i = 0; i < count; i++)
            counts[keys[i] >> shift & 255]++;
        while (rank >= counts[byte])
            rank -= counts[byte++];
        for (uint32_t i = 0; i < count; i++)
            if ((keys[i] >> shift & 255) == byte)
                keys[kept++] = keys[i];
        count = kept;
        if (shift == 0)
            break;
    }
    return keys[0];
}

/* A session that is pressed to as few slots as it has fresh rows would lose its attention sinks with each settle, and
 * without them a model loses its way. */
uint32_t policy_settle_count(const struct policy *p, const struct history *h, uint32_t room, uint64_t next_position,
                             uint32_t rows) {
    uint64_t sinks, recent;
    uint32_t kept = 0, half = room / 2;
    if (rows <= room - half || h->settled + rows <= room)
        return rows;
    p->class->protect(p, room, next_position, &sinks, &recent);
    for (uint32_t i = 0; i < h->settled && kept < half; i++)
        kept += h->position[i] < sinks;
    return rows < room - kept ? rows : room - kept;
}

uint32_t policy_victim_count(const struct policy *p, uint32_t settled, uint32_t rows, uint32_t room) {
    if (settled + rows <= room)
        return 0;
    uint32_t needed = settled + rows - room;
    uint32_t count = p->class->drop ? p->class->drop(p, needed, settled) : needed;
    if (count < needed)
        count = needed;
    return count < settled ? count : settled;
}

void policy_lowest(const struct policy *p, const struct history *h, uint32_t room, uint64_t next_position,
                   const bool *among, uint32_t count, void *scratch, uint32_t *ret_slots) {
    uint32_t n = h->settled, candidates = 0;
    uint64_t *keys = scratch;
    uint64_t *work = keys + n;
    float *scores = (float *)work; /* read before `work` is used as such */
    uint64_t sinks, recent;

    if (count == 0)
        return;
    p->class->score(p, h, next_position, scores);
    p->class->protect(p, room, next_position, &sinks, &recent);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t position = h->position[i];
        uint32_t high = position < sinks ? KEY_SINK : position >= recent ? KEY_RECENT : score_key(scores[i]);
        keys[i] = (uint64_t)high << 32 | position;
    }
    for (uint32_t i = 0; i < n; i++)
        if (!among || among[i])
            work[candidates++] = keys[i];
    assert(count <= candidates);
    uint64_t last = select_key(work, candidates, count - 1);
    for (uint32_t i = 0, k = 0; k < count; i++)
        if ((!among || among[i]) && keys[i] <= last)
            ret_slots[k++] = i;
}

void policy_victims(const struct policy *p, const struct history *h, uint32_t room, uint64_t next_position,
                    uint32_t count, void *scratch, uint32_t *ret_slots) {
    policy_lowest(p, h, room, next_position, NULL, count, scratch, ret_slots);
}
