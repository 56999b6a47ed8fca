/* metrics_serve.c - the figures over HTTP, by libmicrohttpd.
 *
 * One thread of libmicrohttpd accepts, reads, asks the daemon and writes; the first thread waits for a signal. So what
 * is asked for at the same time is asked of the daemon once: an answer, a refusal, too, is good for a second. The
 * daemon is connected to anew each time, so it may go and come.
 *
 * Whoever reaches the socket can open connections and say next to nothing on them for ever. So there is always room for
 * one more: when as many are open as there may be, the oldest is closed. */
#include <microhttpd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <utlist.h>

#include "alloc.h"
#include "listen.h"
#include "metrics.h"

#define CONNECTIONS 32u            /* and those that are being closed */
#define SECONDS_IDLE 10u           /* a connection on which nothing happens is closed */
#define CONNECTION_BYTES (8 << 10) /* for the request; more than that is refused */
#define FRESH_NS 1000000000ull

#define PLAIN "text/plain; charset=utf-8"
#define FIGURES "text/plain; version=0.0.4; charset=utf-8"

struct visitor {
    int socket;
    struct visitor *prev, *next;
};

struct server {
    struct visitor *visitors; /* the oldest first, but for those that were told to go */
    unsigned visitor_count;
    const char *directory;
    struct out answer; /* the newest */
    unsigned code;     /* 0: there is none yet */
    uint64_t asked_ns;
};

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void server_ask(struct server *s) {
    struct ctl_metrics m;
    char why[512] = "";
    out_deinit(&s->answer);
    out_init(&s->answer, false);
    ctl_fail_capture(why, sizeof why);
    int status = ctl_metrics_gather(s->directory, &m);
    ctl_fail_capture(NULL, 0);
    if (status == CTL_DONE) {
        ctl_metrics_print(&s->answer, &m);
        ctl_metrics_deinit(&m);
    } else {
        out_printf(&s->answer, "%s\n", why);
    }
    s->code = status == CTL_DONE && !s->answer.failed ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE;
    s->asked_ns = now_ns();
}

static enum MHD_Result respond(struct MHD_Connection *connection, unsigned code, const char *type, const char *text,
                               size_t size) {
    struct MHD_Response *response =
        MHD_create_response_from_buffer(size, (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY);
    if (!response)
        return MHD_NO; /* closes the connection */
    enum MHD_Result done = MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    if (done == MHD_YES && code == MHD_HTTP_METHOD_NOT_ALLOWED)
        done = MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    if (done == MHD_YES)
        done = MHD_queue_response(connection, code, response);
    MHD_destroy_response(response);
    return done;
}

static void visitor_forget(struct server *s, struct visitor *v) {
    DL_DELETE(s->visitors, v);
    s->visitor_count--;
    v->socket = -1;
}

/* Without memory a visitor is not known, and closed by its silence alone. */
static void visitor_come(struct server *s, int socket, void **context) {
    struct visitor *v = scissor_malloc(sizeof *v);
    *context = v;
    if (!v)
        return;
    if (s->visitor_count == CONNECTIONS) {
        shutdown(s->visitors->socket, SHUT_RDWR);
        visitor_forget(s, s->visitors);
    }
    v->socket = socket;
    DL_APPEND(s->visitors, v);
    s->visitor_count++;
}

static void visit(void *data, struct MHD_Connection *connection, void **context,
                  enum MHD_ConnectionNotificationCode what) {
    struct visitor *v = *context;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        visitor_come(data, MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd, context);
        return;
    }
    if (v && v->socket >= 0)
        visitor_forget(data, v);
    *context = scissor_free(v);
}

static enum MHD_Result handle(void *data, struct MHD_Connection *connection, const char *url, const char *method,
                              const char *version, const char *upload, size_t *upload_size, void **request) {
    static const char elsewhere[] = "There is only /metrics here.\n", reading[] = "/metrics can only be read.\n";
    struct server *s = data;
    (void)version, (void)upload, (void)upload_size, (void)request;
    if (strcmp(url, "/metrics") != 0)
        return respond(connection, MHD_HTTP_NOT_FOUND, PLAIN, elsewhere, sizeof elsewhere - 1);
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return respond(connection, MHD_HTTP_METHOD_NOT_ALLOWED, PLAIN, reading, sizeof reading - 1);
    if (!s->code || now_ns() - s->asked_ns >= FRESH_NS)
        server_ask(s);
    return respond(connection, s->code, s->code == MHD_HTTP_OK ? FIGURES : PLAIN, s->answer.text ? s->answer.text : "",
                   s->answer.failed ? 0 : s->answer.size);
}

int ctl_metrics_serve(const struct ctl *ctl) {
    struct server server = {.directory = ctl->directory};
    struct ctl_listener listener;
    sigset_t ends;
    int signal;
    int status = ctl_listener_open(ctl->listen, &listener);
    if (status)
        return status;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGHUP);
    sigprocmask(SIG_BLOCK, &ends, NULL); /* in the threads that begin below, too */
    struct MHD_Daemon *http =
        MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL, 0, NULL, NULL, handle, &server,
                         MHD_OPTION_LISTEN_SOCKET, listener.socket, MHD_OPTION_CONNECTION_LIMIT, 2 * CONNECTIONS,
                         MHD_OPTION_NOTIFY_CONNECTION, visit, &server, MHD_OPTION_CONNECTION_TIMEOUT, SECONDS_IDLE,
                         MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES, MHD_OPTION_END);
    if (http) {
        printf("scissorctl: %s\n", listener.shown);
        fflush(stdout);
        sigwait(&ends, &signal);
        MHD_stop_daemon(http);
        listener.socket = -1; /* closed with it */
    } else {
        status = ctl_fail(CTL_REFUSED, "cannot begin to answer at %s", listener.shown);
    }
    out_deinit(&server.answer);
    ctl_listener_close(&listener);
    return status;
}
