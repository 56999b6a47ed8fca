/* doctor_findings.c - the table of thresholds, and findings in order. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"
#include "doctor.h"

const struct doctor_info doctor_table[DOCTOR_THRESHOLDS] = {
#define DOCTOR_ROW(name, id, severity, threshold, unit, text) {id, DOCTOR_##severity, threshold, unit, text},
    DOCTOR_MAP(DOCTOR_ROW)
#undef DOCTOR_ROW
};

const char *doctor_severity_name(enum doctor_severity severity) {
    return severity == DOCTOR_CRITICAL ? "critical" : severity == DOCTOR_WARNING ? "warning" : "note";
}

double doctor_percent(double part, double whole) {
    return whole > 0 ? 100 * part / whole : 0;
}

struct doctor_finding *doctor_find(struct doctor_findings *f, enum doctor_threshold which, double value) {
    const struct doctor_info *info = &doctor_table[which];
    if (!(value >= info->threshold))
        return NULL;
    struct doctor_finding *list = scissor_realloc(f->list, (f->count + 1) * sizeof *list);
    if (!list) {
        f->failed = true;
        return NULL;
    }
    f->list = list;
    list[f->count] = (struct doctor_finding){
        .id = info->id,
        .severity = info->severity,
        .value = value,
        .threshold = info->threshold,
        .unit = info->unit,
    };
    return &list[f->count++];
}

void doctor_say(struct doctor_finding *finding, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(finding->sentence, sizeof finding->sentence, format, arguments);
    va_end(arguments);
}

void doctor_advise(struct doctor_finding *finding, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(finding->advice, sizeof finding->advice, format, arguments);
    va_end(arguments);
}

/* The worst first, else as they were found. There are few. */
static void sort_findings(struct doctor_findings *f) {
    for (size_t i = 1; i < f->count; i++) {
        struct doctor_finding one = f->list[i];
        size_t at = i;
        for (; at > 0 && f->list[at - 1].severity < one.severity; at--)
            f->list[at] = f->list[at - 1];
        f->list[at] = one;
    }
}

void doctor_examine(const struct doctor_state *state, struct doctor_findings *ret) {
    *ret = (struct doctor_findings){.list = NULL};
    doctor_examine_pools(state, ret);
    doctor_examine_sessions(state, ret);
    doctor_examine_machine(state, ret);
    sort_findings(ret);
}

void doctor_findings_deinit(struct doctor_findings *findings) {
    findings->list = scissor_free(findings->list);
    findings->count = 0;
}

enum doctor_severity doctor_worst(const struct doctor_findings *findings) {
    return findings->count ? findings->list[0].severity : DOCTOR_NOTE;
}
