/* admission_check.c - the fields of an OPEN: each is checked here, once, and nothing is believed after that.
 *
 * A refusal names the field, what it may be and what it was, so that somebody can put it right without our source. */
#include <stdio.h>
#include <string.h>

#include "internal.h"

struct check {
    char *why;
    size_t why_bytes;
    uint32_t group;
};

static int bad_range(const struct check *c, const char *field, uint64_t low, uint64_t high, uint64_t value) {
    snprintf(c->why, c->why_bytes, "%s must be %llu to %llu, not %llu", field, (unsigned long long)low,
             (unsigned long long)high, (unsigned long long)value);
    return SCISSOR_EINVAL;
}

static int in_range(const struct check *c, const char *field, uint64_t low, uint64_t high, uint64_t value) {
    return value >= low && value <= high ? 0 : bad_range(c, field, low, high, value);
}

static int in_group_range(const struct check *c, const char *field, uint64_t low, uint64_t high, uint64_t value) {
    char name[64];
    snprintf(name, sizeof name, "groups[%u].%s", c->group, field);
    return in_range(c, name, low, high, value);
}

static int multiple_of_16(const struct check *c, const char *field, uint32_t value) {
    if (value % 16 == 0)
        return 0;
    snprintf(c->why, c->why_bytes, "%s must be a multiple of 16, not %u", field, value);
    return SCISSOR_EINVAL;
}

static int check_head_dim(const struct check *c, uint32_t head_dim) {
    char name[64];
    int code = in_group_range(c, "head_dim", 16, 256, head_dim);
    snprintf(name, sizeof name, "groups[%u].head_dim", c->group);
    return code < 0 ? code : multiple_of_16(c, name, head_dim);
}

static int check_shape(const struct check *c, const struct proto_group *g, uint32_t layers_left, uint32_t heads_left) {
    int code = in_group_range(c, "layers", 1, layers_left, g->layers);
    if (code == 0)
        code = in_group_range(c, "kv_heads", 1, heads_left / g->layers, g->kv_heads);
    if (code == 0)
        code = in_group_range(c, "q_heads", g->kv_heads, PROTO_MAX_HEADS, g->q_heads);
    if (code == 0 && g->q_heads % g->kv_heads) {
        snprintf(c->why, c->why_bytes, "groups[%u].q_heads must be a multiple of kv_heads (%u), not %u", c->group,
                 g->kv_heads, g->q_heads);
        return SCISSOR_EINVAL;
    }
    return code < 0 ? code : check_head_dim(c, g->head_dim);
}

/* The fresh rows are part of the budget, and something must be settled beside them. */
static int check_budget(const struct check *c, const struct proto_group *g, uint32_t fresh_rows) {
    int code = in_group_range(c, "guaranteed_rows", fresh_rows + 16, PROTO_MAX_ROWS, g->guaranteed_rows);
    if (code == 0 && g->max_rows)
        code = in_group_range(c, "max_rows", g->guaranteed_rows, PROTO_MAX_ROWS, g->max_rows);
    return code;
}

static int check_policy(const struct broker *b, const struct check *c, const struct proto_group *g, struct session *s) {
    char why[PROTO_TEXT_BYTES];
    if (!proto_text_valid(g->policy, sizeof g->policy)) {
        snprintf(c->why, c->why_bytes, "groups[%u].policy is not a text that ends within its field", c->group);
        return SCISSOR_EINVAL;
    }
    int code = policy_init(&s->groups[c->group].policy, b->config.default_policy, g, s->fresh_rows, why, sizeof why);
    if (code < 0)
        snprintf(c->why, c->why_bytes, "groups[%u]: %.160s", c->group, why);
    return code;
}

/* A layer's scores must fit into one frame, in the narrower of the usual formats. */
static int check_frame(const struct check *c, const struct session *s) {
    for (uint32_t i = 0; i < s->group_count; i++) {
        const struct session_group *g = &s->groups[i];
        uint64_t vector = proto_score_vector_bytes(PROTO_FORMAT_F16, g->max_rows);
        uint64_t layer = vector * (uint32_t)__builtin_popcount(g->planes) * g->kv_heads;
        if (layer <= PROTO_SCORE_MAX - sizeof(struct proto_score))
            continue;
        snprintf(c->why, c->why_bytes,
                 "groups[%u].max_rows is %u: the scores of one layer would take %llu bytes, a frame holds %zu", i,
                 g->max_rows, (unsigned long long)layer, PROTO_SCORE_MAX - sizeof(struct proto_score));
        return SCISSOR_EINVAL;
    }
    return 0;
}

static int check_session(const struct broker *b, const struct check *c, const struct proto_open *open) {
    int code = 0;
    if (!proto_text_valid(open->name, sizeof open->name)) {
        snprintf(c->why, c->why_bytes, "name is not a text that ends within its field");
        return SCISSOR_EINVAL;
    }
    if (open->pool != PROTO_ANY_POOL)
        code = in_range(c, "pool", 0, b->pool_count - 1, open->pool);
    if (code == 0)
        code = in_range(c, "compute_dtype", 0, KERNEL_ELEMENT_DTYPES - 1, open->compute_dtype);
    if (code == 0)
        code = in_range(c, "storage_dtype", 0, KERNEL_DTYPE_COUNT - 1, open->storage_dtype);
    if (code == 0 && open->fresh_rows)
        code = in_range(c, "fresh_rows", 16, PROTO_MAX_FRESH, open->fresh_rows);
    if (code == 0)
        code = multiple_of_16(c, "fresh_rows", open->fresh_rows);
    if (code == 0 && open->priority)
        code = in_range(c, "priority", 1, BROKER_PRIORITY_MOST, open->priority);
    if (code == 0)
        code = in_range(c, "wait_ms", 0, PROTO_MAX_WAIT_MS, open->wait_ms);
    if (code == 0)
        code = in_range(c, "group_count", 1, PROTO_MAX_GROUPS, open->group_count);
    return code;
}

int admission_check(const struct broker *b, const struct proto_open *open, struct session *s, char *why,
                    size_t why_bytes) {
    struct check c = {why, why_bytes, 0};
    uint32_t layers = 0, heads = 0;
    int code = check_session(b, &c, open);
    if (code < 0)
        return code;

    proto_text_set(s->name, sizeof s->name, open->name);
    s->compute_dtype = open->compute_dtype;
    s->storage_dtype = open->storage_dtype;
    s->fresh_rows = open->fresh_rows ? open->fresh_rows : 64;
    s->opened_priority = s->priority = open->priority ? open->priority : 100;
    for (c.group = 0; c.group < open->group_count; c.group++) {
        const struct proto_group *g = &open->groups[c.group];
        code = check_shape(&c, g, PROTO_MAX_LAYERS - layers, PROTO_MAX_HEADS - heads);
        if (code == 0)
            code = check_budget(&c, g, s->fresh_rows);
        if (code == 0)
            code = check_policy(b, &c, g, s);
        if (code < 0)
            return code;
        layers += g->layers;
        heads += g->layers * g->kv_heads;
    }
    session_shape(s, open);
    return check_frame(&c, s);
}
