/* fake_store.c - see fake_store.h. */
#include "fake_store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int copy_of(int fd) {
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        abort();
    return copy;
}

static int put(struct broker_store *base, const char *name, const int *fds, uint32_t count) {
    struct fake_store *s = (struct fake_store *)base;
    if (strlen(name) > 8 || s->count + count > s->base.max)
        abort(); /* the broker counts */
    if (s->puts_left < count)
        return -ENOBUFS;
    s->puts_left -= s->puts_left == UINT64_MAX ? 0 : count;
    for (uint32_t i = 0; i < count; i++) {
        strcpy(s->kept[s->count].name, name);
        s->kept[s->count++].fd = copy_of(fds[i]);
    }
    s->puts++;
    return 0;
}

static void drop(struct broker_store *base, const char *name) {
    struct fake_store *s = (struct fake_store *)base;
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        if (strcmp(s->kept[i].name, name) == 0)
            close(s->kept[i].fd);
        else
            s->kept[n++] = s->kept[i];
    }
    s->count = n;
    s->drops++;
}

void fake_store_init(struct fake_store *s, uint32_t max) {
    *s = (struct fake_store){.base = {.max = max, .put = put, .drop = drop}, .puts_left = UINT64_MAX};
}

void fake_store_deinit(struct fake_store *s) {
    while (s->count)
        close(s->kept[--s->count].fd);
}

size_t fake_store_give(const struct fake_store *s, struct broker_kept *ret_kept) {
    for (uint32_t i = 0; i < s->count; i++) {
        ret_kept[i] = s->kept[i];
        ret_kept[i].fd = copy_of(s->kept[i].fd);
    }
    return s->count;
}

int fake_store_find(const struct fake_store *s, const char *name) {
    for (uint32_t i = 0; i < s->count; i++)
        if (strcmp(s->kept[i].name, name) == 0)
            return s->kept[i].fd;
    return -1;
}
