/* test_row_cost.c - what a pool is charged for a settled row of one KV head, beside the row itself: the README's table,
 * in bytes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "daemon/broker/internal.h"
#include "sim/rig.h"

struct cost {
    uint32_t dtype, head_dim;
    double row, charged, charged_with_store;
};

static const struct cost table[] = {{KERNEL_F16, 64, 256, 272, 313},   {KERNEL_INT8, 64, 136, 153, 194},
                                    {KERNEL_K5V4, 64, 80, 96, 137},    {KERNEL_INT4, 64, 72, 88, 129},
                                    {KERNEL_FADE, 64, 57, 77, 134},    {KERNEL_F16, 128, 512, 528, 569},
                                    {KERNEL_INT8, 128, 272, 289, 330}, {KERNEL_K5V4, 128, 160, 177, 218},
                                    {KERNEL_INT4, 128, 144, 161, 201}, {KERNEL_FADE, 128, 113, 134, 191}};

static struct rig rig;
static struct fake_store store;

/* Bytes of a row that the backend has, and those that a pool is charged for it. */
static void cost_of(const struct cost *cost, bool with_store, double *ret_row, double *ret_charged) {
    if (with_store) {
        fake_store_init(&store, FAKE_STORE_MAX);
        rig_init_kept(&rig, 1ull << 30, &store, true);
    } else {
        rig_init(&rig, 1ull << 30, true);
    }
    struct proto_open spec = rig_spec(30, 3, cost->head_dim, 64, 1024, 4096, "pivotal");
    spec.compute_dtype = KERNEL_F16;
    spec.storage_dtype = cost->dtype;
    rig.device.base.storage_dtypes = (1u << KERNEL_DTYPE_COUNT) - 1; /* nothing is stored */
    assert_true(rig_open_now(&rig, rig_connect(&rig), &spec) >= 0);
    const struct session_group *g = &rig.broker->sessions->groups[0];
    *ret_row = (double)g->page_bytes / SCISSOR_PAGE_ROWS;
    *ret_charged = (double)g->segment_cost / g->pages_per_segment / SCISSOR_PAGE_ROWS;
    rig_deinit(&rig);
    if (with_store)
        fake_store_deinit(&store);
}

static void test_as_the_readme_says(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        double row, charged, stored;
        cost_of(&table[i], false, &row, &charged);
        cost_of(&table[i], true, &row, &stored);
        if (fabs(row - table[i].row) >= 1 || fabs(charged - table[i].charged) >= 1 ||
            fabs(stored - table[i].charged_with_store) >= 1)
            fail_msg("%s of head_dim %u: %.1f bytes, %.1f, with a store %.1f", kernel_dtype_name(table[i].dtype),
                     table[i].head_dim, row, charged, stored);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_as_the_readme_says)};
    return cmocka_run_group_tests_name("row cost", tests, NULL, NULL);
}
