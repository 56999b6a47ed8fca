/* config.c - see config.h. */
#include "config.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "layout.h"
#include "llama/option_table.h"

#define CONFIG_MAX_DIVISOR 1e6
#define CONFIG_LEAST_SETTLED 16 /* the daemon's */

/* ---------- reading ---------- */

int config_read_budget(struct eval_config *config, const char *text) {
    char number[32];
    size_t size = strlen(text);
    uint64_t rows = 0;
    double divisor = 0;
    if (size == 0 || size >= sizeof(number))
        return SCISSOR_EINVAL;
    memcpy(number, text, size + 1);
    if (number[size - 1] == 'x') {
        number[size - 1] = '\0';
        if (!isdigit((unsigned char)*number) || option_read_real(number, 1, CONFIG_MAX_DIVISOR, &divisor) != 0)
            return SCISSOR_EINVAL;
    } else if (strcmp(text, "all") != 0 && option_read_integer(text, 32, 1u << 30, &rows) != 0) {
        return SCISSOR_EINVAL;
    }
    config->rows = (uint32_t)rows;
    config->divisor = divisor;
    config->budget_given = true;
    return 0;
}

static int config_read_policy(struct eval_config *config, const char *word) {
    size_t size = strspn(word, "abcdefghijklmnopqrstuvwxyz0123456789_-");
    if (!islower((unsigned char)*word) || word[size] != '\0' || size >= sizeof(config->policy))
        return SCISSOR_EINVAL;
    memcpy(config->policy, word, size + 1);
    return 0;
}

static int config_read_fresh(struct eval_config *config, const char *number) {
    uint64_t rows;
    if (option_read_integer(number, 16, CONFIG_MOST_FRESH, &rows) != 0 || rows % 16 != 0)
        return SCISSOR_EINVAL;
    config->fresh = (uint32_t)rows;
    return 0;
}

static int config_read_word(struct eval_config *config, const char *word) {
    if (strncmp(word, "fresh=", 6) == 0)
        return config_read_fresh(config, word + 6);
    if (strchr(word, '='))
        return option_read_param(word, config->params, &config->param_count);
    if (option_read_dtype(word, SCISSOR_FADE + 1, &config->cache) == 0 || config_read_budget(config, word) == 0)
        return 0;
    return config_read_policy(config, word);
}

int config_read(struct eval_config *config, const char *text) {
    struct eval_config read = *config;
    for (const char *at = text;; at++) {
        char word[64];
        size_t size = strcspn(at, ",");
        if (size >= sizeof(word))
            return SCISSOR_EINVAL;
        memcpy(word, at, size);
        word[size] = '\0';
        if (config_read_word(&read, word) != 0)
            return SCISSOR_EINVAL;
        at += size;
        if (*at == '\0')
            break;
    }
    *config = read;
    return 0;
}

/* ---------- naming ---------- */

void config_budget_name(const struct eval_config *config, char ret_name[32]) {
    if (config->divisor > 0)
        snprintf(ret_name, 32, "%gx", config->divisor);
    else if (config->rows > 0)
        snprintf(ret_name, 32, "%u", config->rows);
    else
        snprintf(ret_name, 32, "all");
}

void config_name(const struct eval_config *config, char ret_name[CONFIG_NAME_BYTES]) {
    char budget[32];
    config_budget_name(config, budget);
    int size =
        snprintf(ret_name, CONFIG_NAME_BYTES, "%s %s %s", config->policy, kernel_dtype_name(config->cache), budget);
    for (uint32_t i = 0; i < config->param_count && size < CONFIG_NAME_BYTES; i++)
        size += snprintf(ret_name + size, (size_t)(CONFIG_NAME_BYTES - size), " %.12s=%g", config->params[i].name,
                         config->params[i].value);
    if (config->fresh != CONFIG_FRESH && size < CONFIG_NAME_BYTES)
        snprintf(ret_name + size, (size_t)(CONFIG_NAME_BYTES - size), " fresh=%u", config->fresh);
}

/* ---------- bytes ---------- */

uint32_t config_compute(const struct eval_config *config) {
    return config->cache < KERNEL_ELEMENT_DTYPES ? config->cache : SCISSOR_F16;
}

static uint64_t config_row_bytes(const struct eval_config *config, const struct model_shape *shape) {
    return layout_page_bytes(config->cache, shape->head_dim) / SCISSOR_PAGE_ROWS;
}

static uint64_t config_fresh_bytes(const struct eval_config *config, const struct model_shape *shape) {
    return layout_area_bytes((uint32_t)kernel_dtype_size(config_compute(config)), config->fresh, shape->head_dim);
}

static uint64_t config_head_bytes(const struct eval_config *config, const struct model_shape *shape, uint64_t most,
                                  uint64_t settled) {
    uint64_t bytes = settled * config_row_bytes(config, shape);
    /* Each row has a detail until there are too many, and is lent the pages for that with all of their slots. */
    if (layout_has_details(config->cache)) {
        uint64_t a_detail = SCISSOR_PAGE_ROWS / LAYOUT_PAGE_DETAILS;
        uint64_t detail = layout_detail_bytes(shape->head_dim) / LAYOUT_PAGE_DETAILS;
        uint64_t slot = layout_page_bytes(config->cache, shape->head_dim) / SCISSOR_PAGE_ROWS - detail / a_detail;
        uint64_t details = (uint64_t)layout_pages_of_rows((uint32_t)most) * LAYOUT_PAGE_DETAILS;
        uint64_t slots = settled * a_detail < most ? settled * a_detail : most;
        bytes = slots * slot + (settled < details ? settled : details) * detail;
    }
    return config_fresh_bytes(config, shape) + bytes;
}

uint32_t config_rows(const struct eval_config *config, const struct model_shape *shape, uint32_t tokens) {
    uint32_t least = config->fresh + CONFIG_LEAST_SETTLED;
    uint64_t rows = config->rows ? config->rows : tokens;
    if (config->divisor > 0) {
        double bytes = 4.0 * shape->head_dim * tokens / config->divisor; /* K and V in f16, of one head */
        double settled = bytes - (double)config_fresh_bytes(config, shape);
        if (settled < 0)
            return 0;
        rows = config->fresh + (uint64_t)(settled / (double)config_row_bytes(config, shape));
        rows = rows < tokens ? rows : tokens;
        /* Details come by the page, which the last one may have too many of. */
        while (rows > config->fresh &&
               config_head_bytes(config, shape, rows - config->fresh, rows - config->fresh) > bytes)
            rows--;
    }
    if (rows >= least)
        return (uint32_t)rows;
    return rows == tokens ? least : 0; /* of a text so short every row is kept */
}

uint64_t config_bytes(const struct eval_config *config, const struct model_shape *shape, uint32_t most,
                      uint64_t settled) {
    uint64_t heads = (uint64_t)shape->layers * shape->kv_heads;
    return heads * config_head_bytes(config, shape, most, settled);
}

uint64_t config_full_bytes(const struct model_shape *shape, uint32_t tokens) {
    return (uint64_t)shape->layers * shape->kv_heads * layout_area_bytes(2, tokens, shape->head_dim);
}
