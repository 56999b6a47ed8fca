/* main.c - scissor-run: runs a Llama model from a GGUF file whose KV cache belongs to scissord.
 * Exit status: 0, 1 for a failure, 2 for a wrong command line, 128 + the number of a signal. */
#include <stdio.h>

#include "backend.h"
#include "engine.h"
#include "generate.h"
#include "likelihood.h"
#include "options.h"

static int main_run(const struct options *options) {
    struct engine engine;
    struct failure failure = {.text = ""};
    engine_catch_signals();
    int r = engine_init(&engine, options, &failure);
    if (r == 0)
        r = options->nll ? likelihood_run(&engine, &failure) : generate_run(&engine, &failure);
    engine_deinit(&engine);
    return engine_exit_status("scissor-run", r, &failure);
}

int main(int argc, char **argv) {
    struct options options;
    struct failure failure;
    char devices[128];
    if (options_parse(argc, argv, &options, &failure) != 0) {
        fprintf(stderr, "scissor-run: %s\nscissor-run --help lists the options\n", failure.text);
        return 2;
    }
    if (options.help) {
        options_print_help(stdout);
        return 0;
    }
    if (options.version) {
        printf("scissor-run %s\ndevices: %s\n", SCISSOR_VERSION, kernel_backend_built(devices, sizeof devices));
        return 0;
    }
    return main_run(&options);
}
