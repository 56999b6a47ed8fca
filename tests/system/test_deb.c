/* test_deb.c - the Debian packages: what is in which, what they depend on, and that building them again gives the same.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "harness.h"

static char base[64];
static char text[65536];      /* what the last command printed */
static const char *cannot_be; /* why there are no packages here; NULL: there are */

/* Runs a shell command; $P is the folder of the packages, $T a folder with each of them unpacked below its name. */
static int run(const char *command) {
    int status = -1;
    assert_int_equal(harness_shell(command, 240000, text, sizeof text, &status), 0);
    return status;
}

static void must(const char *command) {
    int status = run(command);
    if (status)
        fail_msg("exit status %d of %s\n%s", status, command, text);
}

static int set_up(void **state) {
    char path[300];
    (void)state;
    harness_leave_make();
    if (harness_directory(base, sizeof base) < 0)
        return -1;
#ifdef __SANITIZE_ADDRESS__
    cannot_be = "packages are not built with sanitizers";
    return 0;
#endif
    if (run("command -v dpkg-buildpackage && command -v dh")) {
        cannot_be = "there is no dpkg-buildpackage or no dh (apt-get install dpkg-dev debhelper)";
        return 0;
    }
    snprintf(path, sizeof path, "%s/deb", getenv("BUILD") && *getenv("BUILD") ? getenv("BUILD") : "build");
    setenv("P", path, 1);
    setenv("T", base, 1);
    must("make --no-print-directory deb BUILD=\"${P%/deb}\" >&2 &&"
         "for p in scissord libscissor0 libscissor-dev scissor-run; do dpkg-deb -x \"$P/$p\"_*.deb \"$T/$p\" &&"
         "dpkg-deb -e \"$P/$p\"_*.deb \"$T/$p/DEBIAN\" || exit 1; done");
    return 0;
}

static void need_packages(void) {
    if (cannot_be) {
        printf("SKIP: %s\n", cannot_be);
        skip();
    }
}

/* What `make install` puts somewhere is in one package, where Debian wants it; all of it is root's, and only root's to
 * write. */
static void test_contents(void **state) {
    (void)state;
    need_packages();
    must("A=$(dpkg-architecture -qDEB_HOST_MULTIARCH);"
         "make --no-print-directory install BUILD=\"${P%/deb}\" DESTDIR=\"$T/installed\" PREFIX=/usr "
         "LIBDIR=/usr/lib/$A UNITDIR=/lib/systemd/system >&2;"
         "(cd \"$T/installed\" && find . ! -type d | sed '/share\\/man/s/$/.gz/' | grep -v /scissord/scissord.conf | "
         "sort) "
         ">\"$T/wanted\";"
         "(for p in scissord libscissor0 libscissor-dev scissor-run; do cd \"$T/$p\" && "
         "find . ! -type d ! -path './DEBIAN/*' ! -path './usr/share/doc/*'; done) | sort >\"$T/packed\";"
         "diff \"$T/wanted\" \"$T/packed\" >&2 && wc -l <\"$T/packed\"");
    must("cd \"$T/scissord\" && ls usr/bin lib/systemd/system/scissord.service usr/share/doc/scissord");
    assert_string_equal(text, "lib/systemd/system/scissord.service\n\n"
                              "usr/bin:\nscissor-replay\nscissorctl\nscissord\n\n"
                              "usr/share/doc/scissord:\nchangelog.gz\ncopyright\n");
    must("cd \"$T\" && ls scissor-run/usr/bin libscissor-dev/usr/include && ls libscissor0/usr/lib/*/");
    assert_string_equal(text, "libscissor-dev/usr/include:\nscissor.h\nscissor_error.h\n\n"
                              "scissor-run/usr/bin:\nscissor-eval\nscissor-run\nlibscissor.so.0\n");
    must("for p in \"$P\"/*.deb; do dpkg-deb -c \"$p\"; done | awk '$2 != \"root/root\" || $1 ~ /^-.......w|^-....w/'");
    assert_string_equal(text, "");
}

static void test_control(void **state) {
    (void)state;
    need_packages();
    must("cat \"$T/scissord/DEBIAN/conffiles\"");
    assert_string_equal(text, "/etc/scissord.conf\n");
    must("cd \"$T\" && cat libscissor0/DEBIAN/conffiles scissor-run/DEBIAN/conffiles libscissor-dev/DEBIAN/conffiles "
         "2>/dev/null || true");
    assert_string_equal(text, "");
    must("dpkg-deb -f \"$P\"/scissord_*.deb Depends");
    static const char *const of_daemon[] = {"libc6 (", "libuv1 (", "libinih1 (", "libnanomsg5 (", "procps"};
    for (size_t i = 0; i < sizeof of_daemon / sizeof *of_daemon; i++)
        assert_non_null(strstr(text, of_daemon[i]));
    assert_null(strstr(text, "openblas"));
    must("dpkg-deb -f \"$P\"/scissor-run_*.deb Depends");
    assert_non_null(strstr(text, "libopenblas0"));
    must("dpkg-deb -f \"$P\"/libscissor-dev_*.deb Depends");
    assert_non_null(strstr(text, "libscissor0 (= " SCISSOR_VERSION ")"));
    must("cat \"$T/libscissor0/DEBIAN/shlibs\"");
    assert_string_equal(text, "libscissor 0 libscissor0 (>= " SCISSOR_VERSION ")\n");
}

static void test_lintian(void **state) {
    (void)state;
    need_packages();
    if (run("command -v lintian")) {
        printf("SKIP: there is no lintian (apt-get install lintian)\n");
        skip();
    }
    must("as_root=; [ $(id -u) -ne 0 ] || as_root=--allow-root;"
         "lintian $as_root --no-cfg --fail-on error,warning --display-info \"$P\"/*.changes");
    assert_null(strstr(text, "\nE: "));
    printf("%s", text);
}

/* The Makefile says the version, everything else has it from there. */
static void test_versions(void **state) {
    (void)state;
    need_packages();
    must(
        "for p in scissord libscissor0 libscissor-dev scissor-run; do dpkg-deb -f \"$P/$p\"_*.deb Version; done | uniq;"
        "zcat \"$T/scissord/usr/share/doc/scissord/changelog.gz\" | head -n 1;"
        "for p in scissord/usr/bin/scissord scissord/usr/bin/scissorctl scissor-run/usr/bin/scissor-run; do"
        " \"$T/$p\" --version | head -n 1; done;"
        "sed -n 's/^Version: //p' \"$T\"/libscissor-dev/usr/lib/*/pkgconfig/libscissor.pc");
    assert_string_equal(text, SCISSOR_VERSION "\n"
                                              "scissord (" SCISSOR_VERSION ") unstable; urgency=medium\n"
                                              "scissord " SCISSOR_VERSION "\n"
                                              "scissorctl " SCISSOR_VERSION ", protocol 1.0\n"
                                              "scissor-run " SCISSOR_VERSION "\n" SCISSOR_VERSION "\n");
    must("grep -rnF '" SCISSOR_VERSION "' Makefile README.md client daemon kernels proto systemd || true");
    assert_string_equal(text, "Makefile:11:VERSION := " SCISSOR_VERSION "\n");
}

static void test_library(void **state) {
    (void)state;
    need_packages();
    must("L=$(echo \"$T\"/libscissor0/usr/lib/*/libscissor.so.0);"
         "objdump -p \"$L\" | sed -n 's/^ *SONAME *//p';"
         "nm -D --defined-only \"$L\" | sed 's/.* //' | grep -v '^scissor_' || true;"
         "readlink \"$T\"/libscissor-dev/usr/lib/*/libscissor.so");
    assert_string_equal(text, "libscissor.so.0\nlibscissor.so.0\n");
}

/* Built once more in another folder, as of the same time, every byte is the same. */
static void test_again(void **state) {
    (void)state;
    need_packages();
    must("export SOURCE_DATE_EPOCH=$(date +%s -d \"$(zcat \"$T/scissord/usr/share/doc/scissord/changelog.gz\" |"
         "sed -n 's/^ -- .*>  //p')\") &&"
         "systemd/deb.sh " SCISSOR_VERSION " \"$T/again\" >/dev/null && cd \"$P\" && sha256sum *.deb >\"$T/sums\" &&"
         "cd \"$T/again\" && sha256sum *.deb | diff \"$T/sums\" -");
}

int main(void) {
    harness_init(290);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contents), cmocka_unit_test(test_control), cmocka_unit_test(test_lintian),
        cmocka_unit_test(test_versions), cmocka_unit_test(test_library), cmocka_unit_test(test_again),
    };
    return cmocka_run_group_tests_name("deb", tests, set_up, NULL);
}
