/* config.c - `scissorctl config`: the daemon's options, as the running one has them. */
#include <string.h>

#include "json.h"
#include "view.h"

static const char *source_name(uint32_t source) {
    return source == 0 ? "default" : source == 1 ? "file" : source == 2 ? "command line" : "?";
}

/* What the entries of an answer's text fields hold is the daemon's; a terminal gets nothing of it but characters. */
static const char *clean(char *text) {
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    return text;
}

static void view_list(struct out *o, struct proto_option *options, size_t count) {
    static const char *const titles[] = {"NAME", "VALUE", "DEFAULT", "UNIT", "FROM", "CHANGES"};
    struct table t;
    table_init(&t, titles, sizeof titles / sizeof titles[0]);
    for (size_t i = 0; i < count; i++) {
        table_cell(&t, "%s", clean(options[i].name));
        table_cell(&t, "%s", clean(options[i].value));
        table_cell(&t, "%s", options[i].standard[0] ? clean(options[i].standard) : "-");
        table_cell(&t, "%s", options[i].unit[0] ? clean(options[i].unit) : "-");
        table_cell(&t, "%s", source_name(options[i].source));
        table_cell(&t, "%s", options[i].live ? "at a reload" : "at a restart");
    }
    table_print(&t, o, "");
    table_deinit(&t);
}

static void view_one(struct out *o, struct proto_option *option) {
    out_bold(o, "%s", clean(option->name));
    out_printf(o, " = %s\n", clean(option->value));
    out_printf(o, "  default  %s\n",
               option->standard[0] ? clean(option->standard) : "none, or worked out at the start");
    if (option->unit[0])
        out_printf(o, "  unit     %s\n", clean(option->unit));
    out_printf(o, "  from     %s\n", source_name(option->source));
    out_printf(o, "  changes  %s\n", option->live ? "at a reload" : "at a restart");
    out_printf(o, "  meaning  %s\n", clean(option->text));
}

static json_t *pack(const struct proto_option *option) {
    return json_pack("{s:o, s:o, s:o, s:o, s:s, s:b, s:o}", "name", ctl_json_text(option->name), "value",
                     ctl_json_text(option->value), "default",
                     option->standard[0] ? ctl_json_text(option->standard) : json_null(), "unit",
                     option->unit[0] ? ctl_json_text(option->unit) : json_null(), "source", source_name(option->source),
                     "changes_at_reload", option->live != 0, "text", ctl_json_text(option->text));
}

static int show(struct ctl *ctl, struct proto_option *options, size_t count) {
    if (ctl->json) {
        json_t *list = json_array();
        for (size_t i = 0; list && i < count; i++) {
            if (json_array_append_new(list, pack(&options[i])) < 0) {
                json_decref(list);
                list = NULL;
            }
        }
        return ctl_json_print(list ? json_pack("{s:o}", "options", list) : NULL, false);
    }
    struct out o;
    out_init(&o, ctl->colour);
    if (ctl->argument)
        view_one(&o, options);
    else
        view_list(&o, options, count);
    return out_print(&o);
}

int ctl_config(struct ctl *ctl) {
    struct ctl_answer answer;
    int status = ctl_ask(ctl, PROTO_OP_CONFIG, 0, &answer);
    if (status)
        return status;
    struct proto_option *options = answer.entries;
    size_t first = 0, count = answer.count;
    if (ctl->argument) {
        while (first < count && strncmp(options[first].name, ctl->argument, sizeof options[first].name) != 0)
            first++;
        if (first == count)
            status = ctl_fail(CTL_REFUSED, "there is no option '%s'; `scissorctl config` lists them", ctl->argument);
        count = 1;
    }
    if (status == CTL_DONE)
        status = show(ctl, options + first, count);
    ctl_answer_deinit(&answer);
    return status;
}
