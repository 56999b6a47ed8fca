/* test_fuzz_corpus.c - runs every fuzz target over its corpus and over some thousand mutations of it, always the same
 * ones. The targets are included, each under a name of its own. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LLVMFuzzerTestOneInput fuzz_attach
#include "fuzz/fuzz_attach.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_score
#include "fuzz/fuzz_score.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_control
#include "fuzz/fuzz_control.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_dispatch
#include "fuzz/fuzz_dispatch.c"
#undef LLVMFuzzerTestOneInput

#define LLVMFuzzerTestOneInput fuzz_config
#include "fuzz/fuzz_config.c"
#undef LLVMFuzzerTestOneInput

#define LLVMFuzzerTestOneInput fuzz_snapshot
#include "fuzz/fuzz_snapshot.c"
#undef LLVMFuzzerTestOneInput

#define LLVMFuzzerTestOneInput fuzz_trace
#include "fuzz/fuzz_trace.c"
#undef LLVMFuzzerTestOneInput

typedef int (*fuzz_target)(const uint8_t *data, size_t size);

static uint32_t state_of_noise = 1;
static uint32_t noise(void) {
    state_of_noise = state_of_noise * 1664525u + 1013904223u;
    return state_of_noise >> 8;
}

/* A copy of just the right size, so that a sanitizer sees each byte too far. */
static void run_exact(fuzz_target target, const uint8_t *data, size_t size) {
    uint8_t *exact = malloc(size + (size == 0));
    memcpy(exact, data, size);
    target(exact, size);
    free(exact);
}

static void mutate_and_run(fuzz_target target, const uint8_t *data, size_t size) {
    static const uint8_t edges[] = {0, 1, 2, 3, 7, 8, 15, 16, 64, 127, 128, 255};
    uint8_t *copy = malloc(size + 64);
    for (int i = 0; i < 1500; i++) {
        memset(copy, 0, size + 64);
        memcpy(copy, data, size);
        size_t length = noise() % 4 ? size : noise() % (size + 64);
        for (uint32_t edits = 1 + noise() % 3; edits > 0 && length > 0; edits--)
            copy[noise() % 3 ? noise() % length : noise() % (length < 128 ? length : 128)] =
                noise() % 2 ? edges[noise() % sizeof edges] : (uint8_t)noise();
        run_exact(target, copy, length);
    }
    free(copy);
}

static void run_corpus(fuzz_target target, const char *name) {
    static uint8_t data[1 << 20];
    char path[512];
    int files = 0;
    snprintf(path, sizeof path, "tests/fuzz/corpus/%s", name);
    DIR *directory = opendir(path);
    assert_non_null(directory);
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "tests/fuzz/corpus/%.64s/%.255s", name, entry->d_name);
        FILE *f = fopen(path, "rb");
        assert_non_null(f);
        size_t size = fread(data, 1, sizeof data, f);
        fclose(f);
        run_exact(target, data, size);
        mutate_and_run(target, data, size);
        files++;
    }
    closedir(directory);
    assert_true(files > 0);
}

static void attach_corpus(void **state) {
    (void)state;
    run_corpus(fuzz_attach, "attach");
}
static void score_corpus(void **state) {
    (void)state;
    run_corpus(fuzz_score, "score");
}
static void control_corpus(void **state) {
    (void)state;
    run_corpus(fuzz_control, "control");
}
static void dispatch_corpus(void **state) {
    (void)state;
    run_corpus(fuzz_dispatch, "dispatch");
}

static void config_corpus(void **state) {
    (void)state;
    run_corpus(fuzz_config, "config");
}

static void snapshot_corpus(void **state) {
    (void)state;
    run_corpus(fuzz_snapshot, "snapshot");
    assert_true(snapshot_sessions > 1000); /* the corpus is of the layout that is read */
}

static void trace_corpus(void **state) {
    (void)state;
    run_corpus(fuzz_trace, "trace");
    assert_true(trace_frames > 1000); /* the corpus is of the layout that is read */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attach_corpus),   cmocka_unit_test(score_corpus),  cmocka_unit_test(control_corpus),
        cmocka_unit_test(dispatch_corpus), cmocka_unit_test(config_corpus), cmocka_unit_test(snapshot_corpus),
        cmocka_unit_test(trace_corpus),
    };
    return cmocka_run_group_tests_name("fuzz corpus", tests, NULL, NULL);
}
