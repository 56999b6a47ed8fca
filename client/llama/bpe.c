/* bpe.c - see bpe.h.
 *
 * Starts with one symbol per byte and does the neighbours' merge of the lowest rank, the leftmost first, until none is
 * left. Symbols are a linked list, possible merges a heap, so a piece of n bytes takes n log n steps: text without
 * spaces must not make this quadratic. A candidate whose symbols have changed since it was found is skipped: merged
 * symbols only get longer, so equal tokens at the same place mean that it still holds. */
#include "bpe.h"

#include <limits.h>

#include "alloc.h"

#define BPE_NONE (-1)

struct bpe_symbol {
    uint32_t id;
    int previous, next; /* BPE_NONE at the ends */
};

struct bpe_candidate {
    uint32_t rank;
    int left;
    uint32_t left_id, right_id, merged;
};

void bpe_deinit(struct bpe *bpe) {
    scissor_free(bpe->symbols);
    scissor_free(bpe->heap);
    *bpe = (struct bpe){0};
}

static bool candidate_is_before(const struct bpe_candidate *a, const struct bpe_candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static void bpe_push(struct bpe *bpe, struct bpe_candidate candidate) {
    size_t at = bpe->heap_count++;
    while (at > 0 && candidate_is_before(&candidate, &bpe->heap[(at - 1) / 2])) {
        bpe->heap[at] = bpe->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    bpe->heap[at] = candidate;
}

static struct bpe_candidate bpe_pop(struct bpe *bpe) {
    struct bpe_candidate first = bpe->heap[0], last = bpe->heap[--bpe->heap_count];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child + 1 < bpe->heap_count && candidate_is_before(&bpe->heap[child + 1], &bpe->heap[child]))
            child++;
        if (child >= bpe->heap_count || !candidate_is_before(&bpe->heap[child], &last))
            break;
        bpe->heap[at] = bpe->heap[child];
        at = child;
    }
    bpe->heap[at] = last;
    return first;
}

/* Pushes the merge of symbol `left` with its right neighbour, if there is one. */
static void bpe_propose(struct bpe *bpe, const struct vocabulary *vocabulary, int left) {
    int right = left == BPE_NONE ? BPE_NONE : bpe->symbols[left].next;
    if (right == BPE_NONE)
        return;
    struct bpe_candidate candidate = {
        .left = left, .left_id = bpe->symbols[left].id, .right_id = bpe->symbols[right].id};
    if (vocabulary_merge(vocabulary, candidate.left_id, candidate.right_id, &candidate.rank, &candidate.merged))
        bpe_push(bpe, candidate);
}

/* A piece of n symbols has n - 1 candidates at first, and each of at most n - 1 merges brings two more. */
static int bpe_reserve(struct bpe *bpe, size_t size, struct failure *failure) {
    if (size <= bpe->symbol_capacity)
        return 0;
    if (size > INT_MAX / 4)
        return failure_set(failure, SCISSOR_EINVAL, "the text is too long");
    struct bpe_symbol *symbols = scissor_realloc(bpe->symbols, size * sizeof(*symbols));
    if (symbols)
        bpe->symbols = symbols;
    struct bpe_candidate *heap = scissor_realloc(bpe->heap, 3 * size * sizeof(*heap));
    if (heap)
        bpe->heap = heap;
    if (!symbols || !heap)
        return failure_set_memory(failure);
    bpe->symbol_capacity = size;
    return 0;
}

/* One symbol per byte that has a token; returns their number. */
static int bpe_start(struct bpe *bpe, const struct vocabulary *vocabulary, const char *piece, size_t size,
                     size_t *lost) {
    int count = 0;
    for (size_t i = 0; i < size; i++) {
        uint32_t id = vocabulary_find(vocabulary, piece + i, 1);
        if (id == VOCABULARY_NONE) {
            ++*lost;
            continue;
        }
        bpe->symbols[count] = (struct bpe_symbol){id, count - 1, count + 1};
        count++;
    }
    if (count > 0)
        bpe->symbols[count - 1].next = BPE_NONE;
    return count;
}

static void bpe_merge(struct bpe *bpe, const struct vocabulary *vocabulary, const struct bpe_candidate *candidate) {
    struct bpe_symbol *left = &bpe->symbols[candidate->left];
    if (left->id != candidate->left_id || left->next == BPE_NONE || bpe->symbols[left->next].id != candidate->right_id)
        return;
    struct bpe_symbol *right = &bpe->symbols[left->next];
    right->id = VOCABULARY_NONE;
    left->id = candidate->merged;
    left->next = right->next;
    if (left->next != BPE_NONE)
        bpe->symbols[left->next].previous = candidate->left;
    bpe_propose(bpe, vocabulary, left->previous);
    bpe_propose(bpe, vocabulary, candidate->left);
}

int bpe_encode(struct bpe *bpe, const struct vocabulary *vocabulary, const char *piece, size_t size,
               struct token_list *list, size_t *lost, struct failure *failure) {
    int r = bpe_reserve(bpe, size, failure);
    if (r != 0)
        return r;
    int count = bpe_start(bpe, vocabulary, piece, size, lost);
    if (count == 0)
        return 0;
    bpe->heap_count = 0;
    for (int i = 0; i < count; i++)
        bpe_propose(bpe, vocabulary, i);
    while (bpe->heap_count > 0) {
        struct bpe_candidate candidate = bpe_pop(bpe);
        bpe_merge(bpe, vocabulary, &candidate);
    }
    for (int at = 0; at != BPE_NONE && r == 0; at = bpe->symbols[at].next)
        r = token_list_append(list, bpe->symbols[at].id, failure);
    return r;
}
