/* fuzz_config.c - configuration files. What is accepted can be printed and read again, and says the same then. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int read_config(const void *data, size_t size, struct daemon_options *ret, char *why, size_t why_bytes) {
    char *argv[] = {"scissord", NULL};
    int fd = memfd_create("config", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size || daemon_options_parse(1, argv, ret, why, why_bytes) < 0)
        abort();
    snprintf(ret->config, sizeof ret->config, "/proc/self/fd/%d", fd);
    int r = daemon_config_read(ret, why, why_bytes);
    close(fd);
    return r;
}

static void not_changed(void *data, const char *name, const char *was, const char *is, bool live) {
    (void)data, (void)name, (void)was, (void)is, (void)live;
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct daemon_options options, again;
    char why[512] = "", *text = NULL;
    size_t bytes;
    if (read_config(data, size, &options, why, sizeof why) < 0) {
        if (!strstr(why, "/proc/self/fd/"))
            abort(); /* it does not say which file */
        return 0;
    }
    FILE *f = open_memstream(&text, &bytes);
    daemon_options_print(f, &options);
    fclose(f);
    if (read_config(text, bytes, &again, why, sizeof why) == 0)
        daemon_options_compare(&options, &again, not_changed, NULL);
    else if (!strstr(why, "dir") && !strstr(why, "too long"))
        abort();
    free(text);
    return 0;
}
