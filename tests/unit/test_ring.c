/* test_ring.c - the ring between front and daemon: order, wrap, room, waking, counts, and a producer that lies. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>
#include <pthread.h>

#include "daemon/ring.h"
#include "harness.h"
#include "score.h"

struct pair {
    struct ring consumer, producer;
    uint8_t *raw; /* the shared memory as a liar sees it */
    int fd;
    uint8_t *in, *out;
};

/* Where ring.c keeps its words. */
#define RAW_BYTES (4096 + RING_BYTES)
#define RAW_HEAD 0

static int pair_init(void **state) {
    struct pair *p = calloc(1, sizeof *p);
    assert_int_equal(ring_new(&p->consumer, &p->fd), 0);
    assert_int_equal(ring_attach(&p->producer, p->fd), 0);
    p->raw = mmap(NULL, RAW_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, 0);
    assert_ptr_not_equal(p->raw, MAP_FAILED);
    p->in = malloc(PROTO_SCORE_MAX);
    p->out = malloc(PROTO_SCORE_MAX);
    *state = p;
    return 0;
}

static int pair_deinit(void **state) {
    struct pair *p = *state;
    ring_deinit(&p->consumer);
    ring_deinit(&p->producer);
    munmap(p->raw, RAW_BYTES);
    close(p->fd);
    free(p->in);
    free(p->out);
    free(p);
    return 0;
}

static void fill(uint8_t *frame, size_t size, unsigned seed) {
    for (size_t i = 0; i < size; i++)
        frame[i] = (uint8_t)(seed * 31 + i * 7 + (i >> 8));
}

static void push(struct pair *p, size_t size, unsigned seed) {
    bool wake;
    fill(p->in, size, seed);
    assert_int_equal(ring_push(&p->producer, p->in, size, &wake), 0);
}

static void pop(struct pair *p, size_t size, unsigned seed) {
    size_t got = 0;
    bool wake;
    assert_int_equal(ring_pop(&p->consumer, p->out, &got, &wake), 0);
    assert_int_equal(got, size);
    fill(p->in, size, seed);
    assert_memory_equal(p->in, p->out, size);
}

static void test_order_and_wrap(void **state) {
    struct pair *p = *state;
    unsigned in = 0, out = 0;
    size_t got;
    bool wake;
    /* Sizes that do not divide the ring, several times around. */
    static const size_t sizes[] = {1, 80, 4093, PROTO_SCORE_MAX, 7, 100001};
    for (int round = 0; round < 40; round++) {
        for (int i = 0; i < 3; i++, in++)
            push(p, sizes[in % 6], in);
        for (int i = 0; i < 3; i++, out++)
            pop(p, sizes[out % 6], out);
    }
    assert_int_equal(ring_pop(&p->consumer, p->out, &got, &wake), RING_EMPTY);
    assert_true(ring_is_empty(&p->consumer));
}

static void test_room(void **state) {
    struct pair *p = *state;
    bool wake;
    size_t got, pushed = 0;
    assert_int_equal(ring_push(&p->producer, p->in, 0, &wake), -EINVAL);
    assert_int_equal(ring_push(&p->producer, p->in, PROTO_SCORE_MAX + 1, &wake), -EINVAL);
    while (ring_push(&p->producer, p->in, PROTO_SCORE_MAX, &wake) == 0)
        pushed++;
    assert_in_range(pushed, 2, RING_BYTES / PROTO_SCORE_MAX);
    assert_true(ring_wait_for_room(&p->producer));
    assert_int_equal(ring_pop(&p->consumer, p->out, &got, &wake), 0);
    assert_true(wake);
    assert_false(ring_wait_for_room(&p->producer));
    assert_int_equal(ring_push(&p->producer, p->in, PROTO_SCORE_MAX, &wake), 0);
}

/* Small frames are bounded by their number, and the producer is woken when half of them are gone. */
static void test_records(void **state) {
    struct pair *p = *state;
    bool wake;
    size_t got;
    for (unsigned i = 0; i < RING_RECORDS_MAX; i++)
        push(p, 80, i);
    assert_int_equal(ring_push(&p->producer, p->in, 80, &wake), RING_FULL);
    assert_true(ring_wait_for_room(&p->producer));
    for (unsigned i = 0; i < RING_RECORDS_MAX; i++) {
        assert_int_equal(ring_pop(&p->consumer, p->out, &got, &wake), 0);
        assert_int_equal(wake, i == RING_RECORDS_MAX / 2 - 1);
    }
}

static void test_wake(void **state) {
    struct pair *p = *state;
    bool wake;
    assert_int_equal(ring_push(&p->producer, p->in, 80, &wake), 0);
    assert_true(wake); /* it was empty */
    assert_int_equal(ring_push(&p->producer, p->in, 80, &wake), 0);
    assert_false(wake);
}

static void test_counts(void **state) {
    struct pair *p = *state;
    ring_count_malformed(&p->producer);
    ring_count_malformed(&p->producer);
    ring_count_overrun(&p->producer);
    struct ring_counts counts = ring_take_counts(&p->consumer);
    assert_int_equal(counts.malformed, 2);
    assert_int_equal(counts.overrun, 1);
    counts = ring_take_counts(&p->consumer);
    assert_int_equal(counts.malformed + counts.overrun, 0);
}

/* Whatever a hostile front writes, the consumer stays inside of the ring and says so. */
static void test_liar(void **state) {
    struct pair *p = *state;
    static const uint64_t heads[] = {1, 7, RING_BYTES + 1, RING_BYTES + 8, UINT64_MAX, 1ull << 63};
    static const uint32_t sizes[] = {0, 5, 100, PROTO_SCORE_MAX + 1, UINT32_MAX, UINT32_MAX - 3};
    size_t got = 77;
    bool wake;
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        memcpy(p->raw + RAW_HEAD, &heads[i], sizeof heads[i]);
        assert_int_equal(ring_pop(&p->consumer, p->out, &got, &wake), -EBADMSG);
    }
    uint64_t head = 8; /* room for 4 bytes */
    memcpy(p->raw + RAW_HEAD, &head, sizeof head);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        memcpy(p->raw + 4096, &sizes[i], sizeof sizes[i]);
        assert_int_equal(ring_pop(&p->consumer, p->out, &got, &wake), -EBADMSG);
    }
    assert_int_equal(got, 77);
    assert_int_equal(ftruncate(p->fd, 4096), -1); /* sealed */
    assert_int_equal(ftruncate(p->fd, RAW_BYTES + 4096), -1);
}

static void test_random_bytes(void **state) {
    struct pair *p = *state;
    unsigned seed = 1;
    for (int round = 0; round < 2000; round++) {
        for (size_t i = 0; i < 64; i++)
            p->raw[i] = (uint8_t)rand_r(&seed);
        uint64_t head = p->consumer.cursor + (rand_r(&seed) & 0xffff) * 8;
        if (round % 2)
            memcpy(p->raw + RAW_HEAD, &head, sizeof head);
        uint32_t word = (uint32_t)rand_r(&seed) >> (rand_r(&seed) & 31);
        memcpy(p->raw + 4096 + (p->consumer.cursor & (RING_BYTES - 1)), &word, sizeof word);
        size_t got = 1;
        bool wake;
        int r = ring_pop(&p->consumer, p->out, &got, &wake);
        assert_true(r == -EBADMSG || r == RING_EMPTY || (r == 0 && got >= 1 && got <= PROTO_SCORE_MAX));
    }
}

/* ---------- two threads ---------- */

#define STREAM_FRAMES 20000u

static void *stream_produce(void *data) {
    struct pair *p = data;
    uint8_t frame[600];
    for (unsigned i = 0; i < STREAM_FRAMES;) {
        bool wake;
        fill(frame, 1 + i % 600, i);
        if (ring_push(&p->producer, frame, 1 + i % 600, &wake) == 0)
            i++;
        else
            sched_yield();
    }
    return NULL;
}

static void test_two_threads(void **state) {
    struct pair *p = *state;
    pthread_t thread;
    uint8_t expected[600];
    assert_int_equal(pthread_create(&thread, NULL, stream_produce, p), 0);
    for (unsigned i = 0; i < STREAM_FRAMES;) {
        size_t got;
        bool wake;
        int r = ring_pop(&p->consumer, p->out, &got, &wake);
        if (r == RING_EMPTY) {
            sched_yield();
            continue;
        }
        assert_int_equal(r, 0);
        assert_int_equal(got, 1 + i % 600);
        fill(expected, got, i);
        assert_memory_equal(p->out, expected, got);
        i++;
    }
    pthread_join(thread, NULL);
}

int main(void) {
    harness_init(120);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_order_and_wrap, pair_init, pair_deinit),
        cmocka_unit_test_setup_teardown(test_room, pair_init, pair_deinit),
        cmocka_unit_test_setup_teardown(test_records, pair_init, pair_deinit),
        cmocka_unit_test_setup_teardown(test_wake, pair_init, pair_deinit),
        cmocka_unit_test_setup_teardown(test_counts, pair_init, pair_deinit),
        cmocka_unit_test_setup_teardown(test_liar, pair_init, pair_deinit),
        cmocka_unit_test_setup_teardown(test_random_bytes, pair_init, pair_deinit),
        cmocka_unit_test_setup_teardown(test_two_threads, pair_init, pair_deinit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
