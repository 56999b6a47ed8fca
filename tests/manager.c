/* manager.c - see manager.h; the protocols are those of sd_notify(3) and sd_listen_fds(3). */
#include "manager.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "attach.h"

#define FIRST_PASSED 3
#define ROUND "ROUND=1" /* our own: all before it was heard */
#define ASIDE 4096      /* descriptors are moved out of the way before they get their numbers */

/* ---------- hearing ---------- */

static void keep(struct manager *m, const char *name, int fd) {
    if (m->count == MANAGER_KEPT || m->count >= m->store_max) {
        close(fd);
        return;
    }
    snprintf(m->kept[m->count].name, sizeof m->kept[0].name, "%s", name);
    m->kept[m->count++].fd = fd;
}

static void forget(struct manager *m, const char *name) {
    for (uint32_t i = 0; i < m->count;) {
        if (strcmp(m->kept[i].name, name) != 0) {
            i++;
            continue;
        }
        close(m->kept[i].fd);
        m->kept[i] = m->kept[--m->count];
    }
}

static void hear(struct manager *m, char *text, const int *fds, size_t fd_count) {
    bool store = false, drop = false;
    bool dated = strstr(text, "\nMONOTONIC_USEC="); /* as Type=notify-reload asks for */
    char name[16] = "";
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n"));) {
        m->ready += strcmp(line, "READY=1") == 0;
        m->reloading += dated && strcmp(line, "RELOADING=1") == 0;
        m->rounds += strcmp(line, ROUND) == 0;
        m->stopping += strcmp(line, "STOPPING=1") == 0;
        m->alive += strcmp(line, "WATCHDOG=1") == 0;
        store |= strcmp(line, "FDSTORE=1") == 0;
        drop |= strcmp(line, "FDSTOREREMOVE=1") == 0;
        if (strncmp(line, "STATUS=", 7) == 0)
            snprintf(m->status, sizeof m->status, "%.200s", line + 7);
        if (strncmp(line, "FDNAME=", 7) == 0)
            snprintf(name, sizeof name, "%.15s", line + 7);
    }
    for (size_t i = 0; i < fd_count; i++) {
        if (store)
            keep(m, name, fds[i]);
        else
            close(fds[i]);
    }
    if (drop)
        forget(m, name);
}

static void *listen_to(void *data) {
    struct manager *m = data;
    for (;;) {
        union {
            struct cmsghdr align;
            char bytes[CMSG_SPACE(sizeof(int) * 64)];
        } control;
        char text[4096];
        struct iovec part = {text, sizeof text - 1};
        struct msghdr message = {
            .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t n = recvmsg(m->notify, &message, MSG_CMSG_CLOEXEC);
        if (n <= 0)
            return NULL;
        text[n] = 0;
        int fds[64];
        size_t count = 0;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
            if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
                count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                memcpy(fds, CMSG_DATA(c), count * sizeof(int));
            }
        pthread_mutex_lock(&m->lock);
        hear(m, text, fds, count);
        pthread_mutex_unlock(&m->lock);
    }
}

static int bound(const char *path, int type) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

int manager_init(struct manager *m, uint32_t store_max, bool activate) {
    char path[128];
    *m = (struct manager){.attach = -1, .store_max = store_max};
    pthread_mutex_init(&m->lock, NULL);
    if (harness_directory(m->daemon.base, sizeof m->daemon.base) < 0)
        return -1;
    snprintf(m->daemon.dir, sizeof m->daemon.dir, "%s/run", m->daemon.base);
    snprintf(m->daemon.log, sizeof m->daemon.log, "%s/log", m->daemon.base);
    snprintf(path, sizeof path, "%s/notify", m->daemon.base);
    m->notify = bound(path, SOCK_DGRAM);
    if (activate) {
        mkdir(m->daemon.dir, 0750);
        snprintf(path, sizeof path, "%s/" PROTO_ATTACH_SOCKET, m->daemon.dir);
        m->attach = bound(path, SOCK_SEQPACKET);
        if (m->attach < 0 || listen(m->attach, 16) < 0)
            return -1;
    }
    return m->notify < 0 || pthread_create(&m->thread, NULL, listen_to, m) ? -1 : 0;
}

/* ---------- starting ---------- */

/* In the new process. */
static void pass_on(void *data) {
    struct manager *m = data;
    char names[MANAGER_KEPT * 16] = "", number[32], path[128];
    int from[MANAGER_KEPT + 1], count = 0;
    if (m->attach >= 0) {
        from[count++] = m->attach;
        strcat(names, "attach:");
    }
    for (uint32_t i = 0; i < m->count; i++) {
        from[count++] = m->kept[i].fd;
        sprintf(names + strlen(names), "%s:", m->kept[i].name);
    }
    for (int i = 0; i < count; i++)
        from[i] = fcntl(from[i], F_DUPFD_CLOEXEC, ASIDE);
    for (int i = 0; i < count; i++)
        dup2(from[i], FIRST_PASSED + i);
    if (count) {
        names[strlen(names) - 1] = 0;
        snprintf(number, sizeof number, "%d", (int)getpid());
        setenv("LISTEN_PID", number, 1);
        snprintf(number, sizeof number, "%d", count);
        setenv("LISTEN_FDS", number, 1);
        setenv("LISTEN_FDNAMES", names, 1);
    }
    snprintf(path, sizeof path, "%s/notify", m->daemon.base);
    setenv("NOTIFY_SOCKET", path, 1);
    snprintf(number, sizeof number, "%llu", (unsigned long long)m->watchdog_us);
    if (m->watchdog_us)
        setenv("WATCHDOG_USEC", number, 1);
    if (m->descriptors)
        setrlimit(RLIMIT_NOFILE, &(struct rlimit){m->descriptors, m->descriptors});
}

/* What a process that has ended had said is heard before the next one begins. */
static int catch_up(struct manager *m) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/notify", m->daemon.base);
    uint32_t before = m->rounds;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ssize_t n = sendto(fd, ROUND, strlen(ROUND), 0, (struct sockaddr *)&address, sizeof address);
    close(fd);
    return n < 0 ? -1 : manager_wait(m, &m->rounds, before + 1);
}

int manager_spawn(struct manager *m, const char *const *args) {
    if (catch_up(m) < 0)
        return -1;
    char store[16];
    const char *argv[32] = {harness_program("scissord"), "--config", "/dev/null", "--dir", m->daemon.dir,
                            "--descriptor-store",        store,      "--pool",    "64MiB"};
    size_t argc = 9;
    snprintf(store, sizeof store, "%u", m->store_max);
    if (harness_device()) {
        argv[argc++] = "--device";
        argv[argc++] = harness_device();
    }
    for (; args && *args && argc < 31; args++)
        argv[argc++] = *args;
    pthread_mutex_lock(&m->lock); /* what is passed on must not change meanwhile */
    int r = harness_spawn_prepared(argv, m->daemon.log, pass_on, m, &m->daemon.pid);
    pthread_mutex_unlock(&m->lock);
    return r;
}

int manager_wait(struct manager *m, const uint32_t *counter, uint32_t least) {
    uint64_t end = harness_now_ns() + HARNESS_PATIENCE_MS * 1000000ull;
    for (;;) {
        pthread_mutex_lock(&m->lock);
        bool there = *counter >= least;
        pthread_mutex_unlock(&m->lock);
        if (there)
            return 0;
        if (harness_now_ns() >= end)
            return -1;
        harness_sleep_ms(1);
    }
}

int manager_start(struct manager *m, const char *const *args) {
    uint32_t before = m->ready;
    int r = manager_spawn(m, args);
    return r < 0 ? r : manager_wait(m, &m->ready, before + 1);
}

int manager_restart(struct manager *m, int signal, const char *const *args) {
    int status;
    kill(m->daemon.pid, signal);
    int r = harness_wait(m->daemon.pid, HARNESS_PATIENCE_MS, &status);
    if (r == 0 && status != (signal == SIGKILL ? -SIGKILL : 0))
        return -1;
    return r < 0 ? r : manager_start(m, args);
}

uint32_t manager_count(struct manager *m) {
    pthread_mutex_lock(&m->lock);
    uint32_t count = m->count;
    pthread_mutex_unlock(&m->lock);
    return count;
}

void manager_status(struct manager *m, char *text) {
    pthread_mutex_lock(&m->lock);
    memcpy(text, m->status, sizeof m->status);
    pthread_mutex_unlock(&m->lock);
}

void manager_deinit(struct manager *m) {
    shutdown(m->notify, SHUT_RDWR);
    pthread_join(m->thread, NULL);
    close(m->notify);
    if (m->attach >= 0)
        close(m->attach);
    for (uint32_t i = 0; i < m->count; i++)
        close(m->kept[i].fd);
    pthread_mutex_destroy(&m->lock);
}
