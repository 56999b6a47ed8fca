/* log.c - lines for stderr; any thread may write one, as a line is one write(). */
#include "daemon/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int log_most = LOG_NOTICE;
static bool log_in_journal;

/* The variable may be inherited by a daemon whose stderr was redirected since: it holds device and inode. */
static bool log_stderr_is_journal(void) {
    const char *stream = getenv("JOURNAL_STREAM");
    uintmax_t device, inode;
    struct stat st;
    return stream && sscanf(stream, "%ju:%ju", &device, &inode) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
           device == (uintmax_t)st.st_dev && inode == (uintmax_t)st.st_ino;
}

void daemon_log_init(bool verbose) {
    log_most = verbose ? LOG_DEBUG : LOG_NOTICE;
    log_in_journal = log_stderr_is_journal();
}

static void log_line(int priority, const char *prefix, const char *format, va_list arguments) {
    int saved = errno;
    char line[1024];
    if (priority > log_most)
        return;
    size_t used = (size_t)(log_in_journal ? snprintf(line, sizeof line, "<%d>", priority)
                                          : snprintf(line, sizeof line, "%s", prefix));
    size_t room = sizeof line - used - 1;
    int wanted = vsnprintf(line + used, room, format, arguments);
    size_t begin = used;
    used += wanted < 0 ? 0 : (size_t)wanted < room ? (size_t)wanted : room - 1;
    /* Names come from clients: they must not make lines of their own, nor speak to a terminal. */
    for (size_t i = begin; i < used; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    line[used++] = '\n';
    /* Nothing can be done about a log that cannot be written. */
    ssize_t written = write(STDERR_FILENO, line, used);
    (void)written;
    errno = saved;
}

void daemon_log(int priority, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    log_line(priority, "scissord: ", format, arguments);
    va_end(arguments);
}

void daemon_log_bare(int priority, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    log_line(priority, "", format, arguments);
    va_end(arguments);
}
