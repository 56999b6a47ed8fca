/* dying_backend.c - see dying_backend.h. */
#include "dying_backend.h"

#include <string.h>

struct dying_counts dying_counts;
static void (*point)(void);
static void (*copying)(void);

static int dying_settle(struct kernel_backend *b, const struct kernel_settle *heads, size_t count) {
    struct kernel_backend *host = kernel_host_backend("reference");
    (void)b;
    for (size_t i = 0; i < count; i++) {
        struct kernel_settle half = heads[i];
        half.move_count /= 2;
        host->settle(host, &half, 1);
        point();
        half.moves += half.move_count;
        half.details += half.details ? half.move_count : 0;
        half.move_count = heads[i].move_count - half.move_count;
        host->settle(host, &half, 1);
        point();
    }
    return 0;
}

static int dying_shrink(struct kernel_backend *b, const struct kernel_shrink *heads, size_t count) {
    struct kernel_backend *host = kernel_host_backend("reference");
    (void)b;
    for (size_t i = 0; i < count; i++) {
        struct kernel_shrink half = heads[i], rest = heads[i];
        dying_counts.tail_moves += half.move_count;
        dying_counts.detail_moves += half.detail_move_count + half.owner_count;
        half.move_count /= 2;
        half.detail_move_count = rest.move_count ? 0 : half.detail_move_count / 2;
        half.owner_count = rest.move_count || rest.detail_move_count ? 0 : half.owner_count / 2;
        host->shrink(host, &half, 1);
        point();
        rest.moves += half.move_count;
        rest.move_count -= half.move_count;
        rest.detail_moves += half.detail_move_count;
        rest.detail_move_count -= half.detail_move_count;
        rest.owners += half.owner_count;
        rest.owner_count -= half.owner_count;
        host->shrink(host, &rest, 1);
        point();
    }
    return 0;
}

static int dying_norms(struct kernel_backend *b, const struct kernel_norms *heads, size_t count) {
    b = kernel_host_backend("reference");
    return b->v_norms(b, heads, count);
}

static int dying_move_pages(struct kernel_backend *b, const struct kernel_page_move *moves, size_t count) {
    (void)b;
    for (; count; moves++, count--) {
        dying_counts.page_copies++;
        memcpy(moves->to, moves->from, moves->bytes / 2);
        point();
        copying();
        memcpy(moves->to, moves->from, moves->bytes);
        point();
    }
    return 0;
}

static int dying_new(struct kernel_backend *b, enum kernel_access access, size_t bytes, struct kernel_segment **ret) {
    struct kernel_backend *host = kernel_host_backend("reference");
    (void)b;
    int code = host->segment_new(host, access, bytes, ret);
    point();
    return code;
}

static struct kernel_segment *dying_free(struct kernel_backend *b, struct kernel_segment *s) {
    struct kernel_backend *host = kernel_host_backend("reference");
    (void)b;
    host->segment_free(host, s);
    point();
    return NULL;
}

void dying_backend_init(struct kernel_backend *b, void (*at_point)(void), void (*at_copy)(void)) {
    point = at_point;
    copying = at_copy;
    *b = *kernel_host_backend("reference");
    b->settle = dying_settle;
    b->shrink = dying_shrink;
    b->move_pages = dying_move_pages;
    b->v_norms = dying_norms;
    b->segment_new = dying_new;
    b->segment_free = dying_free;
}
