/* control_lists.c - POSITIONS, CONFIG and POLICIES. */
#include <string.h>

#include "control_ops.h"

/* ---------- which tokens a head holds ---------- */

static const struct session_group *group_of_layer(const struct session *s, uint64_t layer) {
    for (uint32_t i = 0; i < s->group_count; i++)
        if (layer >= s->groups[i].first_layer && layer - s->groups[i].first_layer < s->groups[i].layers)
            return &s->groups[i];
    return NULL;
}

/* The list is the job's while one runs: then the tool has to ask again, which is a matter of milliseconds. */
void control_positions(const struct broker *b, const struct proto_request *r, struct control_answer *a) {
    const struct session *s = session_find(b, r->session);
    uint64_t layer = r->value[0], kv_head = r->value[1];
    if (!s || s->ending || s->queued) {
        control_fail(a, SCISSOR_ENOSESSION, "there is no session %llu that holds rows", (unsigned long long)r->session);
        return;
    }
    const struct session_group *g = group_of_layer(s, layer);
    if (!g)
        control_fail(a, SCISSOR_EINVAL, "session %llu has layers 0 to %u, not %llu", (unsigned long long)s->id,
                     s->layer_count - 1, (unsigned long long)layer);
    else if (kv_head >= g->kv_heads)
        control_fail(a, SCISSOR_EINVAL, "layer %llu of session %llu has KV heads 0 to %u, not %llu",
                     (unsigned long long)layer, (unsigned long long)s->id, g->kv_heads - 1,
                     (unsigned long long)kv_head);
    else if (s->job.running)
        control_fail(a, SCISSOR_ESTATE, "session %llu is %s just now; ask again", (unsigned long long)s->id,
                     proto_session_state_name(s->state));
    else {
        uint32_t index = g->first_head + (uint32_t)(layer - g->first_layer) * g->kv_heads + (uint32_t)kv_head;
        const struct history *h = &s->heads[index].history;
        void *positions = control_entries(a, r, h->settled);
        if (positions) /* an entry is its position and nothing else */
            memcpy(positions, h->position + a->head.first, a->bytes);
    }
}

/* ---------- options ---------- */

void control_config(const struct broker *b, const struct proto_request *r, struct control_answer *a) {
    const struct broker_config *c = &b->config;
    struct proto_option option;
    uint32_t total = 0;
    while (c->option && c->option(c->option_data, total, &option))
        total++;
    struct proto_option *options = control_entries(a, r, total);
    for (uint32_t i = 0; options && i < a->head.count; i++)
        c->option(c->option_data, a->head.first + i, &options[i]);
}

/* ---------- policies ---------- */

/* Entries of a policy: one for each parameter, but at least one. */
static uint32_t policy_entries(const struct policy_class *class) {
    uint32_t n = 0;
    while (class->params[n].name)
        n++;
    return n ? n : 1;
}

static void policy_entry(const struct broker *b, const struct policy_class *class, uint32_t i,
                         struct proto_policy_param *ret) {
    const struct policy_param_info *p = &class->params[i];
    *ret = (struct proto_policy_param){.standard = strcmp(class->name, b->config.default_policy) == 0};
    proto_text_set(ret->policy, sizeof ret->policy, class->name);
    proto_text_set(ret->text, sizeof ret->text, class->text);
    proto_text_set(ret->source, sizeof ret->source, class->source);
    if (!p->name)
        return;
    proto_text_set(ret->param, sizeof ret->param, p->name);
    proto_text_set(ret->unit, sizeof ret->unit, p->unit);
    proto_text_set(ret->param_text, sizeof ret->param_text, p->text);
    ret->min = p->min;
    ret->max = p->max;
    ret->value = p->value;
}

void control_policies(const struct broker *b, const struct proto_request *r, struct control_answer *a) {
    const struct policy_class *class;
    uint32_t total = 0, at = 0;
    for (size_t i = 0; (class = policy_class_at(i)); i++)
        total += policy_entries(class);
    struct proto_policy_param *entries = control_entries(a, r, total);
    if (!entries)
        return;
    for (size_t i = 0; (class = policy_class_at(i)); i++)
        for (uint32_t p = 0; p < policy_entries(class); p++, at++)
            if (at - a->head.first < a->head.count)
                policy_entry(b, class, p, &entries[at - a->head.first]);
}
