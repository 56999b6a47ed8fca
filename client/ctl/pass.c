/* pass.c - HELLO and PASS on the attach socket; see pass.h. */
#include "pass.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "command.h"
#include "link.h"
#include "place.h"
#include "scissor_error.h"

static int pass_connect(const char *directory) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    struct timeval patience = {CTL_TIMEOUT_MS / 1000, CTL_TIMEOUT_MS % 1000 * 1000};
    if ((size_t)snprintf(at.sun_path, sizeof at.sun_path, "%s/%s", directory, PROTO_ATTACH_SOCKET) >=
        sizeof at.sun_path)
        return -ENAMETOOLONG;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0 ||
        connect(fd, (struct sockaddr *)&at, sizeof at) < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

int ctl_pass_failed(const void *packet) {
    struct proto_failed failed;
    memcpy(&failed, proto_attach_body(packet), sizeof failed);
    bool text = failed.text[0] && proto_text_valid(failed.text, sizeof failed.text);
    return ctl_fail(CTL_REFUSED, "%s", text ? failed.text : scissor_strerror(failed.code));
}

/* Reads one packet that must be of `type`; what the daemon says instead goes to standard error. */
static int pass_receive(int fd, uint16_t type, void *ret_body, size_t bytes) {
    uint64_t packet[1024 / sizeof(uint64_t)]; /* as long as any that may come */
    struct proto_header header;
    const char *why;
    ssize_t n;
    bool reset = false; /* a daemon that hangs up unread: told once, before its last words */
    do
        n = recv(fd, packet, sizeof packet, 0);
    while (n < 0 && (errno == EINTR || (errno == ECONNRESET && !reset && (reset = true))));
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return ctl_fail(CTL_REFUSED, "scissord gave no answer within %d ms (%s)", CTL_TIMEOUT_MS, PROTO_ATTACH_SOCKET);
    if (n <= 0)
        return ctl_fail(CTL_REFUSED, "scissord hung up");
    if (proto_attach_check(packet, (size_t)n, 'D', &why) < 0)
        return ctl_fail(CTL_REFUSED, "scissord's answer is not understood: %s", why);
    memcpy(&header, packet, sizeof header);
    if (header.type == PROTO_FAILED)
        return ctl_pass_failed(packet);
    if (header.type != type)
        return ctl_fail(CTL_REFUSED, "scissord's answer is not understood: not the message that was asked for");
    memcpy(ret_body, proto_attach_body(packet), bytes);
    return CTL_DONE;
}

/* Nothing is said about a request that could not be sent: why is in what the daemon has sent before. */
static int pass_ask(int fd, uint16_t type, uint32_t request, const void *body, uint16_t answer, void *ret_body,
                    size_t bytes) {
    char packet[128];
    size_t size = proto_attach_write(packet, sizeof packet, type, request, body, NULL, 0);
    while (send(fd, packet, size, MSG_NOSIGNAL) < 0 && errno == EINTR)
        ;
    return pass_receive(fd, answer, ret_body, bytes);
}

int ctl_pass_open(struct ctl_pass *pass, const char *directory) {
    struct proto_hello hello = {.major = PROTO_VERSION_MAJOR,
                                .minor = PROTO_VERSION_MINOR,
                                .capabilities = PROTO_CAP_HOST,
                                .name = "scissorctl"};
    struct proto_welcome welcome;
    struct proto_pass ask = {0};
    pass->socket = -1;
    int fd = pass_connect(directory);
    if (fd < 0)
        return ctl_place_tell(directory, PROTO_ATTACH_SOCKET, -fd);
    int status = pass_ask(fd, PROTO_HELLO, 1, &hello, PROTO_WELCOME, &welcome, sizeof welcome);
    if (status == CTL_DONE)
        status = pass_ask(fd, PROTO_PASS, 2, &ask, PROTO_PASS_IS, &pass->is, sizeof pass->is);
    if (status)
        close(fd);
    else
        pass->socket = fd;
    return status;
}

void ctl_pass_close(struct ctl_pass *pass) {
    if (pass->socket >= 0)
        close(pass->socket);
    pass->socket = -1;
    explicit_bzero(&pass->is, sizeof pass->is);
}
