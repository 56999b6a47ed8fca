/* test_ffi.c - the public headers by themselves, for what does not build with our flags: strict C99, and C++, where
 * every function must keep its C name. Skipped without such a compiler; only gcc is needed to build. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "harness.h"

static const char program[] = "#include \"scissor.h\"\n"
                              "#include \"scissor.h\"\n"
                              "#ifdef __cplusplus\n"
                              "extern \"C\" {\n" /* clashes with a declaration that has another linkage */
                              "#endif\n"
                              "const char *scissor_strerror(int code);\n"
                              "const char *scissor_errname(int code);\n"
                              "const char *scissor_version(void);\n"
                              "#ifdef __cplusplus\n"
                              "}\n"
                              "#endif\n"
                              "int main(void) {\n"
                              "    struct scissor_session_spec spec;\n"
                              "    struct scissor_session_info info;\n"
                              "    spec.storage_dtype = SCISSOR_BF16;\n"
                              "    info.fresh_count = spec.storage_dtype;\n"
                              "    return scissor_strerror(SCISSOR_EGONE)[0] + (int)info.fresh_count;\n"
                              "}\n";

/* Tests run in the top folder of the tree. */
static void check_compiles(const char *compiler, const char *language, const char *standard) {
    const char *version[] = {compiler, "--version", NULL};
    char directory[64], source[96], output[96];
    int status = -1;
    assert_int_equal(harness_directory(directory, sizeof directory), 0);
    snprintf(source, sizeof source, "%s/program", directory);
    snprintf(output, sizeof output, "%s/output", directory);
    if (harness_run(version, output, &status) != 0 || status != 0) {
        print_message("SKIP: there is no %s\n", compiler);
        skip();
    }
    FILE *stream = fopen(source, "w");
    assert_non_null(stream);
    assert_true(fputs(program, stream) >= 0);
    assert_int_equal(fclose(stream), 0);
    const char *argv[] = {compiler,        "-x",      language,  standard,   "-pedantic-errors",
                          "-Wall",         "-Wextra", "-Werror", "-Iclient", "-Iproto",
                          "-fsyntax-only", source,    NULL};
    assert_int_equal(harness_run(argv, NULL, &status), 0);
    assert_int_equal(status, 0);
}

static void test_c99(void **state) {
    (void)state;
    check_compiles("cc", "c", "-std=c99");
}

static void test_cxx(void **state) {
    (void)state;
    check_compiles("c++", "c++", "-std=c++11");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_c99), cmocka_unit_test(test_cxx)};
    harness_init(60);
    return cmocka_run_group_tests_name("ffi", tests, NULL, NULL);
}
