/* test_install.c - what `make install` puts where, what others can do with it, and that `make uninstall` leaves
 * nothing. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend.h"
#include "harness.h"

static char base[64];
static char text[65536]; /* what the last command printed */

/* Runs a shell command with $D (the tree that is installed into) and $P (PREFIX below it) set; gives its status. */
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
    char path[128];
    (void)state;
    harness_leave_make();
    if (harness_directory(base, sizeof base) < 0)
        return -1;
    snprintf(path, sizeof path, "%s/tree", base);
    setenv("D", path, 1);
    snprintf(path, sizeof path, "%s/tree/opt/kv", base);
    setenv("P", path, 1);
    setenv("B", getenv("BUILD") && *getenv("BUILD") ? getenv("BUILD") : "build", 1);
    must("make --no-print-directory install BUILD=\"$B\" DESTDIR=\"$D\" PREFIX=/opt/kv");
    return 0;
}

static void test_files(void **state) {
    char devices[128], versions[512];
    (void)state;
    must("cd \"$D\" && find . ! -type d | sort");
    assert_string_equal(text, "./etc/scissord.conf\n"
                              "./opt/kv/bin/scissor-eval\n"
                              "./opt/kv/bin/scissor-replay\n"
                              "./opt/kv/bin/scissor-run\n"
                              "./opt/kv/bin/scissorctl\n"
                              "./opt/kv/bin/scissord\n"
                              "./opt/kv/include/scissor.h\n"
                              "./opt/kv/include/scissor_error.h\n"
                              "./opt/kv/lib/libscissor.a\n"
                              "./opt/kv/lib/libscissor.so\n"
                              "./opt/kv/lib/libscissor.so.0\n"
                              "./opt/kv/lib/pkgconfig/libscissor.pc\n"
                              "./opt/kv/lib/systemd/system/scissord-metrics.service\n"
                              "./opt/kv/lib/systemd/system/scissord-metrics.socket\n"
                              "./opt/kv/lib/systemd/system/scissord.service\n"
                              "./opt/kv/lib/systemd/system/scissord.socket\n"
                              "./opt/kv/lib/sysusers.d/scissord.conf\n"
                              "./opt/kv/lib/tmpfiles.d/scissord.conf\n"
                              "./opt/kv/share/bash-completion/completions/scissorctl\n"
                              "./opt/kv/share/man/man1/scissor-eval.1\n"
                              "./opt/kv/share/man/man1/scissor-replay.1\n"
                              "./opt/kv/share/man/man1/scissor-run.1\n"
                              "./opt/kv/share/man/man1/scissorctl.1\n"
                              "./opt/kv/share/man/man3/libscissor.3\n"
                              "./opt/kv/share/man/man5/scissord.conf.5\n"
                              "./opt/kv/share/man/man8/scissord.8\n"
                              "./opt/kv/share/scissord/scissord-gpu.conf\n"
                              "./opt/kv/share/scissord/scissord.conf\n");
    must("readlink \"$P/lib/libscissor.so\"");
    assert_string_equal(text, "libscissor.so.0\n");
    must("find \"$D\" -type f -perm /111 | sed 's|.*/||' | sort");
    assert_string_equal(text, "scissor-eval\nscissor-replay\nscissor-run\nscissorctl\nscissord\n");
    must("find \"$D\" ! -type l -perm /022");
    assert_string_equal(text, "");
    must("\"$P/bin/scissord\" --version; \"$P/bin/scissor-run\" --version");
    kernel_backend_built(devices, sizeof devices);
    snprintf(versions, sizeof versions, "scissord %s\ndevices: %s\nscissor-run %s\ndevices: %s\n", SCISSOR_VERSION,
             devices, SCISSOR_VERSION, devices);
    assert_string_equal(text, versions);
    /* NVIDIA's driver is looked for when it is wanted, so that all of it starts where there is none. */
    must("readelf -d \"$P/bin/\"* \"$P/lib/libscissor.so.0\" | grep NEEDED | grep -ciE 'cuda|nvidia' || true");
    assert_string_equal(text, "0\n");
    must("PKG_CONFIG_PATH=\"$P/lib/pkgconfig\" pkg-config --modversion libscissor");
    assert_string_equal(text, SCISSOR_VERSION "\n");
}

/* A figure of systemd for how much a service may do; 10 stands for 1.0 of 10. The offline form starts nothing. */
static void test_exposure(void **state) {
    (void)state;
    if (run("systemd-analyze security --help | grep -q -e --offline")) {
        printf("SKIP: no systemd-analyze that could look at a unit which is not installed\n");
        skip();
    }
    must("systemd-analyze security --no-pager --offline=true --threshold=10 \"$P/lib/systemd/system/scissord.service\" "
         ">/dev/null");
    /* What a GPU needs beyond that: each line has its reason above it. */
    must("awk '/^#/ {said = 1; next} /^\\[/ {next} !said {print FILENAME \": \" $0}' "
         "\"$P/share/scissord/scissord-gpu.conf\"");
    assert_string_equal(text, "");
}

/* The units name the programs where they are, and systemd has nothing against them. */
static void test_units(void **state) {
    char wanted[32];
    (void)state;
    must("grep -rhE '^Exec[A-Za-z]*=' \"$P/lib/systemd/system\"");
    assert_non_null(strstr(text, "ExecStart=/opt/kv/bin/scissord --descriptor-store "));
    assert_non_null(strstr(text, "ExecStart=/opt/kv/bin/scissorctl --dir /run/scissord metrics --listen systemd\n"));
    must("! grep -rE '@[A-Z]+@' \"$P/lib/systemd\"");
    /* The daemon counts on as many descriptors as the manager keeps. */
    must("sed -nE 's/^(FileDescriptorStoreMax=|ExecStart=.*--descriptor-store )//p' "
         "\"$P/lib/systemd/system/scissord.service\" | sort -u | wc -l");
    assert_string_equal(text, "1\n");
    must("\"$P/bin/scissord\" --config /dev/null --pool 1GiB --memory-max");
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    snprintf(wanted, sizeof wanted, "%ld\n", 1409286144 + (cores < 2 ? 2 : cores) * (48L << 20));
    assert_string_equal(text, wanted); /* 1 GiB, a sixteenth of it, 256 MiB, and 48 MiB for each job that can run */
    if (run("command -v systemd-analyze systemd-sysusers systemd-tmpfiles")) {
        printf("SKIP: no systemd that could read units\n");
        skip();
    }
    /* A root of its own, where systemd looks below /usr/local; of the programs in the units these are of the system. */
    must("R=\"$D.root\" && mkdir -p \"$R/bin\" \"$R/usr/local\" && cp -r \"$P/lib\" \"$R/usr/local\" &&"
         "mkdir -p \"$R/opt/kv\" \"$R/lib/systemd/system\" && cp /lib/systemd/system/*.target "
         "\"$R/lib/systemd/system\" && cp -r \"$P/bin\" \"$R/opt/kv\" && cp /bin/sh /bin/kill \"$R/bin\" &&"
         "systemd-analyze verify --man=no --root=\"$R\" scissord.service scissord.socket scissord-metrics.socket "
         "scissord-metrics.service && mkdir -p \"$R/etc/systemd/system/scissord.service.d\" &&"
         "cp \"$P/share/scissord/scissord-gpu.conf\" \"$R/etc/systemd/system/scissord.service.d\" &&"
         "systemd-analyze verify --man=no --root=\"$R\" scissord.service");
    assert_string_equal(text, "");
    if (geteuid() != 0) {
        printf("SKIP: only root can make a user and a directory of that user\n");
        skip();
    }
    must("R=\"$D.root\" && systemd-sysusers --root=\"$R\" >/dev/null 2>&1 && systemd-tmpfiles --root=\"$R\" --create &&"
         "sed 's/:.*//' \"$R/etc/passwd\" \"$R/etc/group\" && stat -c %a \"$R/run/scissord\"");
    assert_string_equal(text, "scissord\nscissord\n750\n");
}

/* The shared library exports what the headers declare, and nothing else. */
static void test_symbols(void **state) {
    (void)state;
    must(
        "{ sed -n 's/^SCISSOR_API .*[ *]\\(scissor_[a-z_]*\\)(.*/\\1/p' \"$P/include/scissor.h\";"
        "sed -n 's/^const char \\*\\(scissor_[a-z]*\\)(.*/\\1/p' \"$P/include/scissor_error.h\"; } |"
        "LC_ALL=C sort >\"$D.declared\";"
        /* What begins with an underscore is the compiler's. */
        "nm -D --defined-only \"$P/lib/libscissor.so\" | sed 's/.* //' | grep -v '^_' | LC_ALL=C sort >\"$D.exported\";"
        "diff \"$D.declared\" \"$D.exported\" && wc -l <\"$D.declared\"");
    assert_true(atoi(text) >= 21);
    must("objdump -p \"$P/lib/libscissor.so\" | grep SONAME");
    assert_non_null(strstr(text, " libscissor.so.0\n"));
}

/* The program in README.md, built as it says there, with nothing of the source tree. */
static void test_example(void **state) {
    (void)state;
    struct harness_daemon d;
    char command[512];
    if (run("nm -D \"$P/lib/libscissor.so\" | grep -E '__(a|ub|t)san_'") == 0) {
        printf("SKIP: the library is built with a sanitizer, which a program without one cannot load\n");
        skip();
    }
    must("cp \"$B/tests/readme_example.c\" \"$D.c\" && export PKG_CONFIG_PATH=\"$P/lib/pkgconfig\" &&"
         "export PKG_CONFIG_SYSROOT_DIR=\"$D\" && cd / &&"
         "${CC:-cc} -Wall -Werror \"$D.c\" $(pkg-config --cflags --libs libscissor) -o \"$D.program\"");
    must("ldd \"$D.program\" | grep -c libscissor.so.0");
    assert_int_equal(harness_start(&d, NULL), 0);
    snprintf(command, sizeof command, "SCISSORD_DIR=%s LD_LIBRARY_PATH=\"$P/lib\" \"$D.program\"", d.dir);
    must(command);
    assert_string_equal(text, "1000 tokens, 232 rows held per head: success\n");
    assert_int_equal(harness_stop(&d), 0);
}

/* Completes the last of the words. */
static void complete(const char *words) {
    char command[1024];
    snprintf(command, sizeof command,
             "PATH=\"$P/bin:$PATH\" bash -c '. \"$P/share/bash-completion/completions/scissorctl\";"
             "COMP_WORDS=(%s); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _scissorctl; echo \"${COMPREPLY[@]}\"'",
             words);
    must(command);
}

static void test_completion(void **state) {
    (void)state;
    struct harness_daemon d;
    struct proto_open open;
    struct proto_opened one, two;
    char words[256], expected[64];
    complete("scissorctl se");
    assert_string_equal(text, "sessions session\n");
    complete("scissorctl --json help wa");
    assert_string_equal(text, "watch\n");
    complete("scissorctl watch --c");
    assert_string_equal(text, "--count\n");
    complete("scissorctl stat \"\"");
    assert_string_equal(text, "\n");
    complete("scissorctl --dir /nowhere close \"\"");
    assert_string_equal(text, "\n");
    complete("scissorctl metrics --li");
    assert_string_equal(text, "--listen\n");
    complete("scissorctl metrics --listen sys");
    assert_string_equal(text, "systemd\n");
    complete("scissorctl sessions --sort = to");
    assert_string_equal(text, "tokens\n");
    complete("scissorctl sessions --sort \"\"");
    assert_string_equal(text, "name charged tokens idle priority evicted id\n");
    complete("scissorctl watch --count \"\"");
    assert_string_equal(text, "\n");
    complete("scissorctl limits \"\"");
    assert_string_equal(text, "set\n");
    complete("scissorctl limits set p");
    assert_string_equal(text, "pool\n");
    complete("scissorctl limits set session 3 max-rows = 5 pr");
    assert_string_equal(text, "priority=\n");
    assert_int_equal(harness_start(&d, NULL), 0);
    harness_open_default(&open);
    int fd = harness_hello(&d);
    assert_int_equal(harness_open(fd, &open, &one, NULL), 0);
    assert_int_equal(harness_open(fd, &open, &two, NULL), 0);
    snprintf(words, sizeof words, "scissorctl --dir %s close \"\"", d.dir);
    complete(words);
    snprintf(expected, sizeof expected, "%llu %llu\n", (unsigned long long)one.session,
             (unsigned long long)two.session);
    assert_string_equal(text, expected);
    snprintf(words, sizeof words, "scissorctl --dir = %s session %llu", d.dir, (unsigned long long)two.session);
    complete(words);
    snprintf(expected, sizeof expected, "%llu\n", (unsigned long long)two.session);
    assert_string_equal(text, expected);
    snprintf(words, sizeof words, "scissorctl --dir %s --json positions --layer 1 --head 0 %llu", d.dir,
             (unsigned long long)two.session);
    complete(words);
    assert_string_equal(text, expected);
    snprintf(words, sizeof words, "scissorctl --dir %s limits set session %llu", d.dir,
             (unsigned long long)two.session);
    complete(words);
    assert_string_equal(text, expected);
    snprintf(words, sizeof words, "scissorctl --dir %s policies stream", d.dir);
    complete(words);
    assert_string_equal(text, "streaming\n");
    /* One that does not answer is left alone, silently. */
    kill(d.pid, SIGSTOP);
    kill(harness_front_pid(&d), SIGSTOP);
    snprintf(words, sizeof words, "scissorctl --dir %s close \"\"", d.dir);
    complete(words);
    assert_string_equal(text, "\n");
    kill(harness_front_pid(&d), SIGCONT);
    kill(d.pid, SIGCONT);
    close(fd);
    assert_int_equal(harness_stop(&d), 0);
}

static void make(const char *target) {
    char command[160];
    snprintf(command, sizeof command, "make --no-print-directory %s BUILD=\"$B\" DESTDIR=\"$D\" PREFIX=/opt/kv",
             target);
    must(command);
}

/* An unchanged configuration follows the default; a changed one stays, and the new default goes beside it. */
static void test_configuration(void **state) {
    (void)state;
    static const char examples[] = "/opt/kv/share/scissord/scissord.conf";
    char expected[256];
    must("cmp \"$B/scissord.conf\" \"$D/etc/scissord.conf\" && \"$P/bin/scissord\" --config \"$D/etc/scissord.conf\" "
         "--check | grep -c '; default$'");
    assert_true(atoi(text) >= 4);
    snprintf(expected, sizeof expected, "echo '; of an older version' | tee \"$D/etc/scissord.conf\" >\"$D%s\"",
             examples);
    must(expected);
    make("install");
    assert_null(strstr(text, "has been changed"));
    must("cmp \"$B/scissord.conf\" \"$D/etc/scissord.conf\"");
    must("echo 'pool = 1GiB' >\"$D/etc/scissord.conf\"");
    make("install");
    snprintf(expected, sizeof expected, "install: %s/etc/scissord.conf has been changed and stays as it is",
             getenv("D"));
    assert_non_null(strstr(text, expected));
    must("cmp \"$B/scissord.conf\" \"$D/etc/scissord.conf.new\" && cat \"$D/etc/scissord.conf\"");
    assert_string_equal(text, "pool = 1GiB\n");
}

/* The last one: what install put there goes, what was somebody else's stays. */
static void test_uninstall(void **state) {
    (void)state;
    must("echo 'pool = 1GiB' >\"$D/etc/scissord.conf\" && : >\"$P/bin/other\"");
    make("uninstall");
    assert_non_null(strstr(text, "/etc/scissord.conf has been changed and stays\n"));
    must("cd \"$D\" && find . ! -type d | sort");
    assert_string_equal(text, "./etc/scissord.conf\n./opt/kv/bin/other\n");
    must("rm \"$D/etc/scissord.conf\" \"$P/bin/other\"");
    make("install");
    make("uninstall");
    assert_null(strstr(text, "has been changed"));
    must("cd \"$D\" && find . -mindepth 1");
    assert_string_equal(text, "");
}

int main(void) {
    harness_init(280);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files),         cmocka_unit_test(test_units),     cmocka_unit_test(test_exposure),
        cmocka_unit_test(test_symbols),       cmocka_unit_test(test_example),   cmocka_unit_test(test_completion),
        cmocka_unit_test(test_configuration), cmocka_unit_test(test_uninstall),
    };
    return cmocka_run_group_tests_name("install", tests, set_up, NULL);
}
