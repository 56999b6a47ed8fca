/* driver.c - main() for a fuzz target where there is no libFuzzer: runs the files that are named, or stdin.
 *
 * With clang: clang -fsanitize=fuzzer,address,undefined FLAGS tests/fuzz/fuzz_attach.c proto/\*.c, without this file.
 * With gcc or for afl: with this file. `make check` runs the corpus through tests/unit/test_fuzz_corpus.c. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run(FILE *f, const char *name) {
    static uint8_t data[1 << 21];
    if (!f) {
        perror(name);
        return 1;
    }
    size_t size = fread(data, 1, sizeof data, f);
    fclose(f);
    uint8_t *exact = malloc(size ? size : 1);
    for (size_t i = 0; exact && i < size; i++)
        exact[i] = data[i];
    if (exact)
        LLVMFuzzerTestOneInput(exact, size);
    free(exact);
    return exact ? 0 : 1;
}

int main(int argc, char **argv) {
    int failed = 0;
    if (argc < 2)
        return run(stdin, "stdin");
    for (int i = 1; i < argc; i++)
        failed |= run(fopen(argv[i], "rb"), argv[i]);
    return failed;
}
