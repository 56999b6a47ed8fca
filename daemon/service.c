/* service.c - see service.h. What must be heard waits until the manager reads; sd_notify() does that. What is said over
 * and over is not worth it that the loop stands still while the manager does. */
#include "daemon/service.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include "alloc.h"

/* Linux limits one environment string to 32 pages; names have 8 bytes at most, and a colon. */
#define SERVICE_ENVIRONMENT_BYTES (32u * 4096u - 256u)
#define SERVICE_NAME_BYTES 9u

static void service_passed_add(struct service_passed *p, int fd, const char *name) {
    struct broker_kept *kept = &p->kept[p->count];
    if (p->attach_fd < 0 && strcmp(name, SERVICE_ATTACH_NAME) == 0) {
        p->attach_fd = fd;
    } else if (strlen(name) < sizeof kept->name) {
        *kept = (struct broker_kept){.fd = fd};
        memcpy(kept->name, name, strlen(name) + 1);
        p->count++;
    } else {
        /* No name of ours: it would come back at each start. */
        sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%s", name);
        close(fd);
    }
}

int service_take_passed(struct service_passed *ret) {
    struct service_passed passed = {.attach_fd = -1};
    char **names = NULL;
    int n = sd_listen_fds_with_names(1, &names); /* closes all of them on exec, too */
    if (n < 0)
        return n;
    passed.kept = scissor_calloc((size_t)n + 1, sizeof *passed.kept);
    for (int i = 0; i < n; i++) {
        if (passed.kept)
            service_passed_add(&passed, SD_LISTEN_FDS_START + i, names[i]);
        free(names[i]);
    }
    free(names);
    if (!passed.kept)
        return -ENOMEM;
    *ret = passed;
    return 0;
}

void service_passed_deinit(struct service_passed *passed) {
    if (passed->attach_fd >= 0)
        close(passed->attach_fd);
    for (size_t i = 0; i < passed->count; i++)
        if (passed->kept[i].fd >= 0)
            close(passed->kept[i].fd);
    scissor_free(passed->kept);
    *passed = (struct service_passed){.attach_fd = -1};
}

uint32_t service_store_max(uint64_t wanted) {
    const char *told = getenv("FDSTORE");
    uint64_t most = SERVICE_ENVIRONMENT_BYTES / SERVICE_NAME_BYTES;
    if (told && strtoull(told, NULL, 10) < most)
        most = strtoull(told, NULL, 10);
    return (uint32_t)(wanted < most ? wanted : most);
}

bool service_is_managed(void) {
    const char *socket = getenv("NOTIFY_SOCKET");
    return socket && *socket;
}

void service_ready(void) {
    sd_notify(0, "READY=1");
}

void service_reloading(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64, (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u);
}

void service_stopping(void) {
    sd_notify(0, "STOPPING=1");
}

void service_extend(uint64_t ns) {
    sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%" PRIu64, ns / 1000u);
}

/* Without waiting for room in the socket; false if there is none. */
static bool service_mention(const char *message) {
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = path ? strlen(path) : 0;
    if (length == 0)
        return true; /* nobody is to hear it */
    if ((*path != '/' && *path != '@') || length >= sizeof address.sun_path)
        return sd_notify(0, message) > 0; /* of a kind that is not known here */
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    memcpy(address.sun_path, path, length);
    if (*path == '@')
        address.sun_path[0] = 0; /* an abstract name */
    ssize_t n = sendto(fd, message, strlen(message), MSG_NOSIGNAL | MSG_DONTWAIT, (struct sockaddr *)&address,
                       (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length));
    close(fd);
    return n >= 0;
}

void service_status(const char *text) {
    static char last[256];
    char message[sizeof last + 8];
    if (strcmp(text, last) == 0)
        return;
    snprintf(message, sizeof message, "STATUS=%s", text);
    if (service_mention(message))
        snprintf(last, sizeof last, "%s", text);
}

uint64_t service_watchdog_ns(void) {
    uint64_t us;
    return sd_watchdog_enabled(0, &us) > 0 ? us * 1000u : 0;
}

bool service_alive(void) {
    return service_mention("WATCHDOG=1");
}
