/* policies.c - `scissorctl policies`: which policies the daemon has, and their parameters.
 *
 * The answer has one entry for each parameter; those of a policy stand together. */
#include <string.h>

#include "json.h"
#include "view.h"

/* Entries from `first` on that are of the same policy. */
static size_t policy_entries(const struct proto_policy_param *entries, size_t count, size_t first) {
    size_t n = 1;
    while (first + n < count && strcmp(entries[first + n].policy, entries[first].policy) == 0)
        n++;
    return n;
}

static void view_policy(struct out *o, const struct proto_policy_param *entries, size_t count) {
    out_bold(o, "%s", NAME(entries->policy));
    out_printf(o, "%s  %s\n", entries->standard ? " (default)" : "", entries->text);
    out_printf(o, "  source  %s\n", entries->source);
    for (size_t i = 0; i < count; i++) {
        const struct proto_policy_param *p = &entries[i];
        if (!p->param[0])
            continue;
        const char *space = p->unit[0] ? " " : "";
        out_printf(o, "  ");
        out_bold(o, "%s", NAME(p->param));
        out_printf(o, " = %g%s%s, %g to %g\n      %s\n", p->value, space, NAME(p->unit), p->min, p->max, p->param_text);
    }
}

static void view_list(struct out *o, const struct proto_policy_param *entries, size_t count) {
    for (size_t first = 0, n; first < count; first += n) {
        n = policy_entries(entries, count, first);
        out_bold(o, "%-13s", NAME(entries[first].policy));
        out_printf(o, " %s%s\n", entries[first].text, entries[first].standard ? " (default)" : "");
    }
}

static json_t *pack_param(const struct proto_policy_param *p) {
    return json_pack("{s:o, s:f, s:f, s:f, s:o, s:o}", "name", ctl_json_text(p->param), "default", p->value, "min",
                     p->min, "max", p->max, "unit", p->unit[0] ? ctl_json_text(p->unit) : json_null(), "text",
                     ctl_json_text(p->param_text));
}

static json_t *pack_policy(const struct proto_policy_param *entries, size_t count) {
    json_t *params = json_array();
    for (size_t i = 0; params && i < count; i++) {
        if (entries[i].param[0] && json_array_append_new(params, pack_param(&entries[i])) < 0) {
            json_decref(params);
            params = NULL;
        }
    }
    return json_pack("{s:o, s:b, s:o, s:o, s:o}", "name", ctl_json_text(entries->policy), "default",
                     entries->standard != 0, "text", ctl_json_text(entries->text), "source",
                     ctl_json_text(entries->source), "parameters", params);
}

static int show_json(const struct proto_policy_param *entries, size_t count) {
    json_t *list = json_array();
    for (size_t first = 0, n; list && first < count; first += n) {
        n = policy_entries(entries, count, first);
        if (json_array_append_new(list, pack_policy(entries + first, n)) < 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return ctl_json_print(list ? json_pack("{s:o}", "policies", list) : NULL, false);
}

int ctl_policies(struct ctl *ctl) {
    struct ctl_answer answer;
    int status = ctl_ask(ctl, PROTO_OP_POLICIES, 0, &answer);
    if (status)
        return status;
    const struct proto_policy_param *entries = answer.entries;
    size_t first = 0, count = answer.count;
    if (ctl->argument) {
        while (first < count && strncmp(entries[first].policy, ctl->argument, sizeof entries[first].policy) != 0)
            first++;
        if (first == count)
            status = ctl_fail(CTL_REFUSED, "there is no policy '%s'; `scissorctl policies` lists them", ctl->argument);
        else
            count = policy_entries(entries, count, first);
    }
    if (status == CTL_DONE && ctl->json) {
        status = show_json(entries + first, count);
    } else if (status == CTL_DONE) {
        struct out o;
        out_init(&o, ctl->colour);
        if (ctl->argument)
            view_policy(&o, entries + first, count);
        else
            view_list(&o, entries, count);
        status = out_print(&o);
    }
    ctl_answer_deinit(&answer);
    return status;
}
