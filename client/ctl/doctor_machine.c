/* doctor_machine.c - findings about the machine, and reading what the kernel tells of it and of the daemon's process.
 *
 * Which process it is: the one that listens on the control socket is the daemon's front (SO_PEERCRED), its parent the
 * daemon. Everything here is a bonus: what cannot be read is not known, and not found fault with. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <sys/un.h>
#include <unistd.h>

#include "doctor.h"
#include "layout.h"
#include "view.h"

void doctor_examine_machine(const struct doctor_state *state, struct doctor_findings *ret) {
    uint64_t limit = 0;
    for (size_t i = 0; i < state->pool_count; i++)
        limit += ctl_on_host(&state->pools[i]) ? state->pools[i].limit_bytes : 0;
    bool confined = state->cgroup_bytes && (!state->machine_bytes || state->cgroup_bytes < state->machine_bytes);
    uint64_t memory = confined ? state->cgroup_bytes : state->machine_bytes;
    double share = doctor_percent((double)limit, (double)memory);
    struct doctor_finding *f = doctor_find(ret, DOCTOR_MACHINE_MOST, share);
    if (!f)
        f = doctor_find(ret, DOCTOR_MACHINE, share);
    if (f && confined) {
        doctor_say(
            f,
            "The limit is %s, and the daemon's cgroup may have %s (%.1f %%, threshold %g %%): the kernel will kill "
            "the daemon before the limit is reached.",
            BYTES(limit), BYTES(memory), share, f->threshold);
        doctor_advise(f, "Lower it (`scissorctl limits set pool SIZE`, and `pool` in the configuration), or raise "
                         "MemoryMax= in the unit.");
    } else if (f) {
        doctor_say(f,
                   "The limit is %s on a machine with %s of memory (%.1f %%, threshold %g %%): it will swap or kill "
                   "before the limit is reached.",
                   BYTES(limit), BYTES(memory), share, f->threshold);
        doctor_advise(f, "Lower it (`scissorctl limits set pool SIZE`, and `pool` in the configuration).");
    }
    uint64_t segments = limit / SCISSOR_SEGMENT_BYTES;
    f = doctor_find(ret, DOCTOR_FILES, doctor_percent((double)segments, (double)state->descriptors));
    if (f) {
        doctor_say(
            f,
            "A full pool has %s segments, a descriptor each, and the daemon may open %s files (%.1f %%, threshold "
            "%g %%).",
            COUNT(segments), COUNT(state->descriptors), f->value, f->threshold);
        doctor_advise(f, "Raise LimitNOFILE= in the unit, or `ulimit -n` before it is started.");
    }
    bool none = strstr(state->shmem_enabled, "[never]") || strstr(state->shmem_enabled, "[deny]");
    f = doctor_find(ret, DOCTOR_HUGE_PAGES, none);
    if (f) {
        doctor_say(f, "The kernel gives shared memory no huge pages, which makes attention over large caches slower.");
        doctor_advise(f, "As root: `echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled`; segments that are "
                         "made from then on have them.");
    }
}

/* ---------- reading ---------- */

static void read_text(const char *path, char *text, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, size - 1);
    text[got > 0 ? got : 0] = 0;
    if (fd >= 0)
        close(fd);
}

static void read_of(pid_t pid, const char *name, char *text, size_t size) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    read_text(path, text, size);
}

uint64_t doctor_parse_limits(const char *text) {
    static const char title[] = "Max open files";
    const char *line = strstr(text, title);
    return line ? strtoull(line + sizeof title - 1, NULL, 10) : 0;
}

bool doctor_parse_cgroup(const char *text) {
    const char *line = strstr(text, "0::"); /* the unified hierarchy; a shell's unit may be in the middle of the path */
    if (!line)
        return false;
    size_t length = strcspn(line, "\n");
    const char *last = memrchr(line, '/', length);
    if (!last)
        return false;
    length -= (size_t)(last - line);
    return length > 8 && strncmp(last + 1, "scissord", 8) == 0 && memmem(last, length, ".service", 8);
}

uint64_t doctor_cgroup_limit(const char *mount, const char *text) {
    const char *line = strstr(text, "0::/");
    char path[4096], figure[64];
    uint64_t least = 0;
    if (!line)
        return 0;
    line += strlen("0::");
    int root = snprintf(path, sizeof path, "%s", mount);
    int length = snprintf(path, sizeof path, "%s%.*s", mount, (int)strcspn(line, "\n"), line);
    if (length >= (int)sizeof path - 16)
        return 0;
    for (;;) {
        path[length] = 0;
        strcpy(path + length, "/memory.max");
        read_text(path, figure, sizeof figure);
        path[length] = 0;
        uint64_t bytes = figure[0] >= '0' && figure[0] <= '9' ? strtoull(figure, NULL, 10) : 0; /* or "max" */
        if (bytes && (!least || bytes < least))
            least = bytes;
        if (length <= root) /* a container has one there, too */
            break;
        length = (int)(strrchr(path, '/') - path);
    }
    return least;
}

/* The process that listens on the control socket; 0 if it cannot be told. */
static pid_t listener(const char *directory) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    struct ucred peer = {.pid = 0};
    socklen_t size = sizeof peer;
    if ((size_t)snprintf(at.sun_path, sizeof at.sun_path, "%s/%s", directory, PROTO_CONTROL_SOCKET) >=
        sizeof at.sun_path)
        return 0;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && (connect(fd, (struct sockaddr *)&at, sizeof at) < 0 ||
                    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0))
        peer.pid = 0;
    if (fd >= 0)
        close(fd);
    return peer.pid;
}

void doctor_look_at_machine(const char *directory, struct doctor_state *ret) {
    static char text[4096];
    struct sysinfo machine;
    read_text("/sys/kernel/mm/transparent_hugepage/shmem_enabled", ret->shmem_enabled, sizeof ret->shmem_enabled);
    if (sysinfo(&machine) == 0)
        ret->machine_bytes = (uint64_t)machine.totalram * machine.mem_unit;
    pid_t front = listener(directory);
    if (front <= 0)
        return;
    read_of(front, "status", text, sizeof text);
    const char *parent = strstr(text, "\nPPid:");
    pid_t daemon = parent ? (pid_t)strtol(parent + 6, NULL, 10) : 0;
    if (daemon <= 1)
        return;
    read_of(daemon, "limits", text, sizeof text);
    ret->descriptors = doctor_parse_limits(text);
    read_of(daemon, "cgroup", text, sizeof text);
    ret->service = doctor_parse_cgroup(text);
    ret->cgroup_bytes = doctor_cgroup_limit("/sys/fs/cgroup", text);
}
