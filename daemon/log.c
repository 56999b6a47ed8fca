/* log.c - lines for stderr; any thread may write one, as a line is one write(). */
#include "daemon/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>
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
    log_in_journal = log_stderr_is_journal();
    log_most = verbose ? LOG_DEBUG : log_in_journal ? LOG_INFO : LOG_NOTICE;
}

/* Names come from clients: they must not make lines of their own, nor speak to a terminal. */
static void log_clean(char *text) {
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
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
    line[used] = 0;
    log_clean(line + begin);
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

/* Sends a line with fields to the journal itself; false if it is not there. */
static bool log_fields(int priority, uint64_t session, pid_t pid, const char *text) {
    if (!log_in_journal || access("/run/systemd/journal/socket", W_OK) < 0)
        return false;
    char number[32] = "", client[32] = "";
    int fields = 0;
    struct iovec parts[5];
    char line[1100], level[16];
    parts[fields++] = (struct iovec){line, (size_t)snprintf(line, sizeof line, "MESSAGE=%s", text)};
    parts[fields++] = (struct iovec){level, (size_t)snprintf(level, sizeof level, "PRIORITY=%d", priority)};
    parts[fields++] = (struct iovec){"SYSLOG_IDENTIFIER=scissord", sizeof "SYSLOG_IDENTIFIER=scissord" - 1};
    if (session)
        parts[fields++] = (struct iovec){number, (size_t)snprintf(number, sizeof number, "SESSION=%" PRIu64, session)};
    if (pid)
        parts[fields++] = (struct iovec){client, (size_t)snprintf(client, sizeof client, "CLIENT_PID=%d", (int)pid)};
    return sd_journal_sendv(parts, fields) == 0;
}

void daemon_log_session(int priority, uint64_t session, pid_t pid, const char *format, ...) {
    char text[1024];
    int saved = errno;
    va_list arguments;
    if (priority > log_most)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    log_clean(text);
    if (!log_fields(priority, session, pid, text))
        daemon_log(priority, "%s", text);
    errno = saved;
}

void daemon_log_bare(int priority, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    log_line(priority, "", format, arguments);
    va_end(arguments);
}
