/* main.c - scissor-eval: what evicting rows costs a model's predictions, over a real daemon and real sessions.
 * Exit status: 0, 1 for a failure, 2 for a wrong command line, 128 + the number of a signal. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "backend.h"
#include "eval_report.h"
#include "llama/engine.h"

static int main_print(const struct evaluation *evaluation, struct failure *failure) {
    if (eval_has_pool(evaluation->options))
        eval_report_pool(evaluation, stdout);
    else if (evaluation->options->passkey)
        eval_report_passkey(evaluation, stdout);
    else if (evaluation->options->json)
        eval_report_json(evaluation, stdout);
    else
        eval_report_table(evaluation, stdout);
    if (fflush(stdout) != 0)
        return failure_set(failure, SCISSOR_ESYSTEM, "cannot write the figures: %s", strerror(errno));
    return 0;
}

static int main_run(const struct eval_options *options) {
    struct evaluation evaluation;
    struct failure failure = {.text = ""};
    engine_catch_signals();
    int r = evaluation_run(&evaluation, options, &failure);
    if (r == 0)
        r = main_print(&evaluation, &failure);
    evaluation_deinit(&evaluation);
    return engine_exit_status("scissor-eval", r, &failure);
}

int main(int argc, char **argv) {
    static struct eval_options options;
    struct failure failure;
    char devices[128];
    if (eval_options_parse(argc, argv, &options, &failure) != 0) {
        fprintf(stderr, "scissor-eval: %s\nscissor-eval --help lists the options\n", failure.text);
        return 2;
    }
    if (options.help) {
        eval_options_print_help(stdout);
        return 0;
    }
    if (options.version) {
        printf("scissor-eval %s\ndevices: %s\n", SCISSOR_VERSION, kernel_backend_built(devices, sizeof devices));
        return 0;
    }
    return main_run(&options);
}
