/* fake_control.c - see fake_control.h. */
#include "fake_control.h"

#include <nanomsg/nn.h>
#include <nanomsg/reqrep.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "scissor_error.h"

static void die(const char *what) {
    perror(what);
    abort();
}

static void answer(struct fake_control *f, const struct proto_request *request) {
    static char packet[PROTO_ANSWER_MAX];
    struct fake_control_list *list = &f->list[request->op % 16];
    struct proto_answer head = {.magic = PROTO_ANSWER_MAGIC, .op = request->op, .code = list->code, .epoch = 1};
    size_t entry = proto_control_entry_bytes(request->op), size = sizeof head;
    if (list->busy) {
        list->busy--;
        head.code = SCISSOR_ESTATE;
    }
    if (head.code)
        proto_text_set(head.text, sizeof head.text, "not today");
    if (!head.code && list->count) {
        head.total = list->count;
        head.first = request->first < list->count ? request->first : list->count;
        head.count = list->count - head.first;
        if (list->page && head.count > list->page)
            head.count = list->page;
        memcpy(packet + size, (const char *)list->entries + head.first * entry, head.count * entry);
        size += head.count * entry;
    }
    memcpy(packet, &head, sizeof head);
    nn_send(f->socket, packet, size, 0);
}

static void *run(void *data) {
    struct fake_control *f = data;
    while (!f->over) {
        struct proto_request request;
        if (nn_recv(f->socket, &request, sizeof request, 0) != sizeof request)
            continue; /* the time-out, to look at `over` */
        f->last = request;
        f->requests++;
        answer(f, &request);
    }
    return NULL;
}

void fake_control_start(struct fake_control *f, const char *directory) {
    char url[256];
    int patience = 20;
    snprintf(url, sizeof url, "ipc://%s/%s", directory, PROTO_CONTROL_SOCKET);
    f->over = false;
    f->requests = 0;
    f->socket = nn_socket(AF_SP, NN_REP);
    if (f->socket < 0 || nn_setsockopt(f->socket, NN_SOL_SOCKET, NN_RCVTIMEO, &patience, sizeof patience) < 0 ||
        nn_bind(f->socket, url) < 0 || pthread_create(&f->thread, NULL, run, f) != 0)
        die("fake_control");
}

void fake_control_stop(struct fake_control *f) {
    f->over = true;
    pthread_join(f->thread, NULL);
    nn_close(f->socket);
}

int fake_control_capture(int (*call)(void *data), void *data, char *text, size_t size) {
    FILE *file = tmpfile();
    fflush(stdout);
    int before = dup(STDOUT_FILENO);
    if (!file || before < 0 || dup2(fileno(file), STDOUT_FILENO) < 0)
        die("capture");
    int result = call(data);
    fflush(stdout);
    dup2(before, STDOUT_FILENO);
    close(before);
    ssize_t got = pread(fileno(file), text, size - 1, 0);
    text[got > 0 ? got : 0] = 0;
    fclose(file);
    return result;
}
