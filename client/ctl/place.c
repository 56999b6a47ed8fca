/* place.c - finds the daemon's directory and looks into it.
 *
 * nanomsg connects in the background and for ever, so a socket that nobody listens on would show as a time-out only.
 * A plain connect(2) before it tells at once what is the matter. */
#include "place.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "command.h"
#include "control.h"

void ctl_place_default(char *ret_directory, size_t size) {
    const char *named = getenv("SCISSORD_DIR"), *runtime = getenv("XDG_RUNTIME_DIR");
    if (named && *named) {
        snprintf(ret_directory, size, "%s", named);
        return;
    }
    struct stat st;
    if (runtime && *runtime) {
        snprintf(ret_directory, size, "%s/scissord", runtime);
        if (stat(ret_directory, &st) == 0 && S_ISDIR(st.st_mode))
            return;
    }
    snprintf(ret_directory, size, "/run/scissord");
}

/* What somebody who was turned away can do: the directory's group may enter, if it is a service of the machine. */
static void tell_who_may(const char *directory, char *text, size_t size) {
    struct stat st;
    bool known = stat(directory, &st) == 0;
    struct group *group = known && st.st_mode & S_IXGRP ? getgrgid(st.st_gid) : NULL;
    struct passwd *owner = known ? getpwuid(st.st_uid) : NULL;
    if (group)
        snprintf(text, size, "run this as root, or as a member of the group %s", group->gr_name);
    else
        snprintf(text, size, "run this as root or as %s", owner ? owner->pw_name : "the daemon's user");
}

int ctl_place_tell(const char *directory, const char *socket, int error) {
    if (error == EACCES || error == EPERM) {
        char who[128];
        tell_who_may(directory, who, sizeof who);
        return ctl_fail(CTL_REFUSED, "you may not talk to the scissord in %s; %s", directory, who);
    }
    if (error == ENOENT || error == ENOTDIR)
        return ctl_fail(
            CTL_NOT_RUNNING,
            "scissord is not running (no socket at %s/%s); start it with `scissord --pool 1GiB` or name its "
            "directory with --dir",
            directory, socket);
    if (error == ECONNREFUSED)
        return ctl_fail(CTL_NOT_RUNNING,
                        "scissord is not running (nobody listens at %s/%s, a daemon that died may have left it); start "
                        "it with `scissord --pool 1GiB` or name its directory with --dir",
                        directory, socket);
    return ctl_fail(CTL_REFUSED, "cannot reach %s/%s: %s", directory, socket, strerror(error));
}

int ctl_place_check(const char *directory, const char *socket_name, int loud) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int error = 0;
    if ((size_t)snprintf(at.sun_path, sizeof at.sun_path, "%s/%s", directory, socket_name) >= sizeof at.sun_path) {
        error = ENAMETOOLONG;
    } else {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        /* EAGAIN: somebody listens, but has a full queue. */
        if (fd < 0 || (connect(fd, (struct sockaddr *)&at, sizeof at) < 0 && errno != EAGAIN))
            error = errno;
        if (fd >= 0)
            close(fd);
    }
    if (!error)
        return CTL_DONE;
    if (loud)
        return ctl_place_tell(directory, socket_name, error);
    return error == EACCES || error == EPERM ? CTL_REFUSED : CTL_NOT_RUNNING;
}
