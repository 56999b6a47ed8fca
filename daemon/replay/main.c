/* main.c - scissor-replay: the command line, and one pass over the trace; for the persistence ratio one before, as it
 * needs to know where the trace's half is. */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/replay/replay.h"
#include "daemon/replay/report.h"
#include "scissor_error.h"

#define USAGE 2

static const char help[] =
    "usage: scissor-replay [OPTIONS] FILE\n"
    "\n"
    "Runs an eviction policy over a trace that `scissorctl record` wrote, and prints which share of the recorded\n"
    "attention fell on rows that it would have kept.\n"
    "\n"
    "Options:\n"
    "  --policy NAME       the policy; without it, that of the recorded session with its parameters\n"
    "  --param NAME=VALUE  a parameter of the policy; may be repeated\n"
    "  --budget ROWS       rows per KV head, the fresh buffer included; without it, as in the recorded session\n"
    "  --persistence       print instead whether the rows that attention looks at early are those of later\n"
    "  --json              print JSON, with the positions that each KV head would have kept at the end\n"
    "  --help              this text\n"
    "  --version           the version\n"
    "\n"
    "The exit status is 0; 1 if the trace cannot be read or does not have what the policy needs; 2 if the command "
    "line\n"
    "is wrong.\n";

struct arguments {
    struct replay_spec spec;
    uint32_t params;
    bool json, persistence;
    const char *path;
};

static int complain(int status, const char *what, const char *about) {
    fprintf(stderr, "scissor-replay: %s%s\n", what, about);
    return status;
}

static int take_param(struct arguments *a, const char *text) {
    const char *equals = strchr(text, '=');
    struct proto_param *param = &a->spec.params[a->params];
    char *end;
    size_t length = equals ? (size_t)(equals - text) : 0;
    if (length < 1 || length >= sizeof param->name)
        return complain(USAGE, "--param takes NAME=VALUE, not ", text);
    if (a->params == PROTO_MAX_PARAMS)
        return complain(USAGE, "no policy has so many parameters: ", text);
    param->value = strtod(equals + 1, &end);
    if (end == equals + 1 || *end)
        return complain(USAGE, "--param takes a number as VALUE, not ", equals + 1);
    memcpy(param->name, text, length);
    a->params++;
    return 0;
}

static int take_budget(struct arguments *a, const char *text) {
    char *end;
    errno = 0;
    unsigned long rows = strtoul(text, &end, 10);
    if (errno || *end || text[0] < '1' || text[0] > '9' || rows > PROTO_MAX_ROWS)
        return complain(USAGE, "--budget takes a number of rows, not ", text);
    a->spec.budget = (uint32_t)rows;
    return 0;
}

/* 0, USAGE, or -1 if all was said. */
static int parse(int argc, char **argv, struct arguments *a) {
    enum { POLICY = 256, PARAM, BUDGET, PERSISTENCE, JSON, HELP, VERSION };
    static const struct option options[] = {{"policy", 1, NULL, POLICY},   {"param", 1, NULL, PARAM},
                                            {"budget", 1, NULL, BUDGET},   {"persistence", 0, NULL, PERSISTENCE},
                                            {"json", 0, NULL, JSON},       {"help", 0, NULL, HELP},
                                            {"version", 0, NULL, VERSION}, {0}};
    int status = 0;
    for (int option; status == 0 && (option = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        if (option == POLICY)
            a->spec.policy = optarg;
        else if (option == PARAM)
            status = take_param(a, optarg);
        else if (option == BUDGET)
            status = take_budget(a, optarg);
        else if (option == PERSISTENCE)
            a->persistence = true;
        else if (option == JSON)
            a->json = true;
        else if (option == HELP || option == 'h')
            return fputs(help, stdout), -1;
        else if (option == VERSION)
            return printf("scissor-replay %s\n", SCISSOR_VERSION), -1;
        else
            status = USAGE;
    }
    if (status)
        return status;
    if (optind + 1 != argc)
        return complain(USAGE, "usage: scissor-replay [OPTIONS] FILE; see --help", "");
    if (a->params && !a->spec.policy)
        return complain(USAGE, "--param needs --policy", "");
    if (a->persistence && (a->spec.policy || a->spec.budget))
        return complain(USAGE, "--persistence is of the recorded session: it takes no --policy and no --budget", "");
    a->path = argv[optind];
    return 0;
}

/* Reads to the end; how the recording ended goes to *ret_end. */
static int run(struct trace_reader *reader, struct replay *replay, int *ret_end, const char **ret_why) {
    struct trace_record record;
    struct trace_end end;
    int code;
    while ((code = trace_read(reader, &record)) == 0) {
        if (record.type == TRACE_END) {
            memcpy(&end, reader->bytes, sizeof end);
            *ret_end = end.code;
        } else if ((code = replay_record(replay, record.type, reader->bytes)) != 0) {
            *ret_why = replay->why;
            return code;
        }
    }
    *ret_why = reader->why;
    return code == TRACE_DONE ? 0 : code;
}

/* Rows that the trace has scores of. */
static int count_rows(struct trace_reader *reader, uint64_t *ret_rows) {
    struct trace_record record;
    struct trace_state state = {0};
    struct proto_score frame;
    uint64_t rows = 0;
    int code;
    while ((code = trace_read(reader, &record)) == 0) {
        if (record.type == TRACE_STATE)
            memcpy(&state, reader->bytes, sizeof state);
        if (record.type != TRACE_FRAME)
            continue;
        memcpy(&frame, reader->bytes, sizeof frame);
        rows = state.tokens_seen + frame.fresh;
    }
    *ret_rows = rows;
    return code == TRACE_DONE ? 0 : code;
}

/* A pass over the file before the one that replays it. */
static int persistence_of(FILE *file, struct persistence *p, char why[static 160]) {
    struct trace_reader reader;
    const char *text = reader.why;
    uint64_t rows;
    int code = trace_reader_init(&reader, file);
    if (code == 0)
        code = count_rows(&reader, &rows);
    if (code == 0)
        code = persistence_init(p, &reader.shape, rows, &text);
    if (code == 0 && fseek(file, 0, SEEK_SET) != 0) {
        text = strerror(errno);
        code = SCISSOR_ESYSTEM;
    }
    if (code)
        snprintf(why, 160, "%s", text);
    trace_reader_deinit(&reader);
    return code;
}

static int replay_all(const struct arguments *a, FILE *file, struct persistence *persistence) {
    struct trace_reader reader;
    struct replay replay = {0};
    struct report report = {.replay = &replay, .trace = &reader};
    const char *why = reader.why;
    int code = trace_reader_init(&reader, file);
    if (code == 0) {
        why = replay.why;
        code = replay_init(&replay, &reader.shape, &a->spec);
        replay.persistence = persistence;
    }
    if (code == 0)
        code = run(&reader, &replay, &report.end, &why);
    if (code == 0 && persistence && persistence->evicted) {
        why = "rows were evicted while it was recorded; persistence needs a session whose budget keeps every row";
        code = SCISSOR_EINVAL;
    }
    if (code != 0)
        fprintf(stderr, "scissor-replay: %s: %s\n", a->path, why);
    else if (persistence)
        (a->json ? report_persistence_json : report_persistence_text)(stdout, &report);
    else
        (a->json ? report_json : report_text)(stdout, &report);
    replay_deinit(&replay);
    trace_reader_deinit(&reader);
    return code != 0 || fflush(stdout) != 0;
}

static int replay_file(const struct arguments *a, FILE *file) {
    struct persistence persistence = {0};
    char why[160];
    if (a->persistence && persistence_of(file, &persistence, why) != 0) {
        fprintf(stderr, "scissor-replay: %s: %s\n", a->path, why);
        persistence_deinit(&persistence);
        return 1;
    }
    int status = replay_all(a, file, a->persistence ? &persistence : NULL);
    persistence_deinit(&persistence);
    return status;
}

int main(int argc, char **argv) {
    struct arguments arguments = {0};
    int status = parse(argc, argv, &arguments);
    if (status)
        return status < 0 ? 0 : status;
    FILE *file = fopen(arguments.path, "rb");
    if (!file) {
        fprintf(stderr, "scissor-replay: %s: %s\n", arguments.path, strerror(errno));
        return 1;
    }
    status = replay_file(&arguments, file);
    fclose(file);
    return status;
}
