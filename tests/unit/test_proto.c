/* test_proto.c - tables, checks and encodings of proto/, and that PROTOCOL.md names everything with its number. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "alloc.h"
#include "attach.h"
#include "control.h"
#include "control_page.h"
#include "dtype.h"
#include "scissor_error.h"
#include "score.h"

/* ---------- PROTOCOL.md ---------- */

static char *document;

static int read_document(void **state) {
    (void)state;
    const char *path = getenv("PROTOCOL_MD") ? getenv("PROTOCOL_MD") : "proto/PROTOCOL.md";
    FILE *f = fopen(path, "r");
    if (!f)
        return -1;
    document = calloc(1, 1 << 20);
    size_t n = document ? fread(document, 1, (1 << 20) - 1, f) : 0;
    fclose(f);
    return n > 0 ? 0 : -1;
}

static int free_document(void **state) {
    (void)state;
    free(document);
    return 0;
}

static void assert_in_document(const char *text) {
    if (!strstr(document, text))
        fail_msg("PROTOCOL.md does not have \"%s\"", text);
}

__attribute__((format(printf, 1, 2))) static void assert_row(const char *format, ...) {
    char row[160];
    va_list args;
    va_start(args, format);
    vsnprintf(row, sizeof row, format, args);
    va_end(args);
    assert_in_document(row);
}

static void document_has_all_messages(void **state) {
    (void)state;
#define ROW(name, number, sender, body, entry, most)                                                            \
    if (most)                                                                                                   \
        assert_row("| %s | %d | %s | %zu | %zu | %u |", #name, number, #sender[0] == 'C' ? "client" : "daemon", \
                   sizeof(struct body), sizeof(struct entry), (unsigned)(most));                                \
    else                                                                                                        \
        assert_row("| %s | %d | %s | %zu | | |", #name, number, #sender[0] == 'C' ? "client" : "daemon",        \
                   sizeof(struct body));                                                                        \
    assert_row(" %s (%d)", #name, number);
    PROTO_ATTACH_MAP(ROW)
#undef ROW
}

static void document_has_all_tables(void **state) {
    (void)state;
#define OP(name, number, changes, entry) assert_row("| %s | %d | %s | ", #name, number, changes ? "yes" : "no");
    PROTO_CONTROL_MAP(OP)
#undef OP
#define ROW(name, number, text) assert_row("| %s | %d |", #name, number);
    PROTO_REASON_MAP(ROW)
    PROTO_FRAME_MAP(ROW)
    PROTO_SESSION_STATE_MAP(ROW)
    PROTO_EVENT_MAP(ROW)
    PROTO_FORMAT_MAP(ROW)
    SCISSOR_ERROR_MAP(ROW)
#undef ROW
    assert_row("| mass | %u |", PROTO_PLANE_MASS);
    assert_row("| hits | %u |", PROTO_PLANE_HITS);
    assert_row("| last | %u |", PROTO_PLANE_LAST);
}

static void document_has_sizes_and_magics(void **state) {
    (void)state;
    const uint32_t magics[] = {PROTO_ATTACH_MAGIC, PROTO_SCORE_MAGIC, PROTO_REQUEST_MAGIC,
                               PROTO_ANSWER_MAGIC, PROTO_EVENT_MAGIC, PROTO_CONTROL_MAGIC};
    for (size_t i = 0; i < sizeof magics / sizeof *magics; i++)
        assert_row("| magic | 0x%08x, ", magics[i]);
    assert_row("A pool, %zu bytes", sizeof(struct proto_pool_stat));
    assert_row("A session, %zu bytes", sizeof(struct proto_session_stat));
    assert_row("A head, %zu bytes", sizeof(struct proto_head_stat));
    assert_row("Of MEMORY, %zu bytes", sizeof(struct proto_memory_stat));
    assert_row("Of CONFIG, %zu bytes", sizeof(struct proto_option));
    assert_row("Of GROUPS, %zu bytes", sizeof(struct proto_group_stat));
    assert_row("Of POLICIES, %zu bytes", sizeof(struct proto_policy_param));
    assert_row("Request, %zu bytes", sizeof(struct proto_request));
    assert_row("Answer, %zu bytes", sizeof(struct proto_answer));
    assert_row("One message of %zu bytes is one event", sizeof(struct proto_event));
    assert_row("a header of %zu bytes and a payload", sizeof(struct proto_score));
#define OP(name, number, changes, entry)                                            \
    if (sizeof(struct entry)) { /* the row ends with the size of an entry */        \
        const char *row = strstr(document, "| " #name " | " #number " | ");         \
        char end[16];                                                               \
        assert_non_null(row);                                                       \
        snprintf(end, sizeof end, " | %zu |\n", sizeof(struct entry));              \
        assert_memory_equal(strchr(row, '\n') - strlen(end) + 1, end, strlen(end)); \
    }
    PROTO_CONTROL_MAP(OP)
#undef OP
    assert_row("version %d.%d", PROTO_VERSION_MAJOR, PROTO_VERSION_MINOR);
}

#define OFFSET(type, field, text, wire) assert_row("| %zu | %s | %s |", offsetof(struct type, field), text, #wire)
#define U16(type, field) OFFSET(type, field, "u16", field)
#define U32(type, field) OFFSET(type, field, "u32", field)
#define U64(type, field) OFFSET(type, field, "u64", field)

static void document_has_the_offsets_of_opening(void **state) {
    (void)state;
    U16(proto_header, type);
    U16(proto_header, count);
    U32(proto_header, size);
    U32(proto_header, request);
    U16(proto_hello, major);
    U16(proto_hello, minor);
    U32(proto_hello, capabilities);
    U64(proto_welcome, epoch);
    U32(proto_welcome, pool_count);
    U32(proto_welcome, score_frame_max);
    U32(proto_welcome, score_socket);
    U64(proto_failed, session);
    OFFSET(proto_failed, text, "text 192", text);
    U32(proto_open, compute_dtype);
    U32(proto_open, storage_dtype);
    U32(proto_open, fresh_rows);
    U32(proto_open, priority);
    U32(proto_open, wait_ms);
    U32(proto_open, pool);
    U32(proto_open, group_count);
    U32(proto_group, layers);
    U32(proto_group, kv_heads);
    U32(proto_group, q_heads);
    U32(proto_group, head_dim);
    U32(proto_group, guaranteed_rows);
    U32(proto_group, max_rows);
    OFFSET(proto_group, policy, "text 16", policy);
    OFFSET(proto_group, params, "8 x 24", params);
}

static void document_has_the_offsets_of_sessions(void **state) {
    (void)state;
    OFFSET(proto_opened, token, "16 bytes", token);
    U32(proto_opened, fresh_rows);
    U32(proto_opened, fresh_segments);
    U32(proto_opened, control_bytes);
    U32(proto_opened, lease_bytes);
    OFFSET(proto_opened, groups, "8 x 8", groups);
    U64(proto_settle, score_sequence);
    U32(proto_settle, rows);
    U64(proto_settled, generation);
    U64(proto_settled, evicted_rows);
    U32(proto_settled, scores_lost);
    U32(proto_segment, id);
    U32(proto_segment, kind);
    U64(proto_segment, bytes);
    OFFSET(proto_segment, handle, "64 bytes", handle);
    OFFSET(proto_closed, code, "i32", code);
    U32(proto_positions, layer);
    U32(proto_positions, kv_head);
    U32(proto_positions, first_slot);
    U32(proto_positions_are, total);
    U32(proto_positions_are, first_slot);
    OFFSET(proto_pass_is, pass, "16 bytes", pass);
    U32(proto_pass_is, uid);
    U32(proto_pass_is, operator);
    OFFSET(proto_reattach, token, "16 bytes", token);
    U64(proto_reattach, score_sequence);
    U64(proto_reattached, generation);
    U64(proto_reattached, tokens_seen);
    U64(proto_reattached, evicted_rows);
    U32(proto_reattached, scores_lost);
    U32(proto_reattached, segments);
}

static void document_has_the_offsets_of_pages_and_scores(void **state) {
    (void)state;
    U32(proto_control, head_count);
    U64(proto_control, generation);
    U32(proto_lease, word);
    U32(proto_lease, fresh_count);
    U16(proto_score, version);
    OFFSET(proto_score, planes, "u8", planes);
    U64(proto_score, session);
    OFFSET(proto_score, token, "16 bytes", token);
    U64(proto_score, sequence);
    U64(proto_score, generation);
    U32(proto_score, first_layer);
    U32(proto_score, layer_count);
    U32(proto_score, rows);
    U32(proto_score, fresh);
    OFFSET(proto_score, format, "3 x u8", format);
    U32(proto_score, payload_bytes);
}

static void document_has_the_offsets_of_control(void **state) {
    (void)state;
    U32(proto_request, op);
    U32(proto_request, first);
    U64(proto_request, id);
    U64(proto_request, session);
    OFFSET(proto_request, token, "16 bytes", token);
    OFFSET(proto_request, value, "3 x u64", value);
    OFFSET(proto_answer, code, "i32", code);
    U32(proto_answer, op);
    U32(proto_answer, count);
    U32(proto_answer, first);
    U32(proto_answer, total);
    U64(proto_answer, epoch);
    OFFSET(proto_answer, text, "text 192", text);
    U32(proto_event, type);
    U64(proto_event, sequence);
    U64(proto_event, time_ns);
    U64(proto_event, session);
    U64(proto_event, rows);
    U64(proto_event, bytes);
    OFFSET(proto_event, code, "i32", code);
    U32(proto_event, reason);
    OFFSET(proto_event, name, "text 32", name);
}

/* ---------- tables ---------- */

static void numbers_are_unique(void **state) {
    (void)state;
    uint64_t seen = 0;
#define ROW(name, number, sender, body, entry, most) \
    assert_false(seen >> (number)&1);                \
    seen |= 1ull << (number);
    PROTO_ATTACH_MAP(ROW)
#undef ROW
    uint64_t codes = 0;
#define ROW(name, number, text)                          \
    assert_false(codes >> ((number) + 32) & 1);          \
    codes |= 1ull << ((number) + 32);                    \
    assert_string_equal(scissor_strerror(number), text); \
    assert_string_equal(scissor_errname(number), #name);
    SCISSOR_ERROR_MAP(ROW)
#undef ROW
    assert_string_equal(scissor_strerror(-99), "unknown code");
    assert_string_equal(scissor_errname(99), "unknown");
}

static void names_and_lookups(void **state) {
    (void)state;
#define ROW(row, number, sender, body, entry, most)               \
    assert_string_equal(proto_attach_lookup(number)->name, #row); \
    assert_int_equal(proto_attach_lookup(number)->body_bytes, sizeof(struct body));
    PROTO_ATTACH_MAP(ROW)
#undef ROW
    assert_null(proto_attach_lookup(0));
    assert_null(proto_attach_lookup(999));
    assert_string_equal(proto_op_name(PROTO_OP_STAT), "STAT");
    assert_int_equal(proto_control_changes(PROTO_OP_DRAIN), 1);
    assert_int_equal(proto_control_changes(77), -1);
    assert_int_equal(proto_control_entry_bytes(77), 0);
    assert_string_equal(proto_op_name(77), "?");
    assert_string_equal(proto_reason_name(PROTO_REASON_DEATH), "death");
    assert_string_equal(proto_frame_name(PROTO_FRAME_COUNT), "?");
    assert_string_equal(proto_session_state_name(PROTO_SESSION_WAITING), "waiting for scores or memory");
    assert_string_equal(proto_event_name(PROTO_EVENT_REFUSED), "open refused");
}

/* ---------- attach packets ---------- */

static void attach_round_trip(void **state) {
    (void)state;
    char packet[256];
    const char *why;
    struct proto_grow grow = {.session = 9};
    struct proto_segment segments[2] = {{.id = 1, .bytes = 5}, {.id = 2, .bytes = 6}}, back[2];
    size_t size = proto_attach_write(packet, sizeof packet, PROTO_GROW, 77, &grow, segments, 2);
    assert_int_equal(size, 16 + 8 + 160);
    assert_int_equal(proto_attach_check(packet, size, 'D', &why), 0);
    struct proto_header header;
    memcpy(&header, packet, sizeof header);
    assert_int_equal(header.request, 77);
    assert_int_equal(header.count, 2);
    memcpy(back, proto_attach_entries(packet), sizeof back);
    assert_memory_equal(back, segments, sizeof back);
    assert_memory_equal(proto_attach_body(packet), &grow, sizeof grow);
    assert_int_equal(proto_attach_check(packet, size, 'C', &why), SCISSOR_EPROTO);
}

/* Every message, cut at every length and with every field of the header wrong. */
static void attach_check_refuses(void **state) {
    (void)state;
    static char packet[PROTO_ATTACH_MAX], body[4096], entries[PROTO_ATTACH_MAX];
    const char *why;
#define ROW(name, number, who, body_type, entry, most)                                                        \
    {                                                                                                         \
        char sender = #who[0];                                                                                \
        uint16_t count = (most) > 0;                                                                          \
        size_t size = proto_attach_write(packet, sizeof packet, number, 1, body, entries, count);             \
        assert_int_equal(proto_attach_check(packet, size, sender, &why), 0);                                  \
        assert_int_equal(proto_attach_check(packet, size, sender == 'C' ? 'D' : 'C', &why), SCISSOR_EPROTO);  \
        for (size_t cut = 0; cut < size; cut++) {                                                             \
            char *exact = malloc(cut + 1); /* so that a sanitizer sees a read beyond it */                    \
            memcpy(exact, packet, cut);                                                                       \
            assert_int_equal(proto_attach_check(exact, cut, sender, &why), SCISSOR_EPROTO);                   \
            assert_true(strlen(why) > 0);                                                                     \
            free(exact);                                                                                      \
        }                                                                                                     \
        struct proto_header h, bad;                                                                           \
        memcpy(&h, packet, sizeof h);                                                                         \
        const struct proto_header wrong[] = {                                                                 \
            {h.magic ^ 1, h.type, h.count, h.size, 1}, {h.magic, 0, h.count, h.size, 1},                      \
            {h.magic, 0xffff, h.count, h.size, 1},     {h.magic, h.type, (uint16_t)(h.count + 1), h.size, 1}, \
            {h.magic, h.type, 0xffff, h.size, 1},      {h.magic, h.type, h.count, h.size + 1, 1},             \
            {h.magic, h.type, h.count, 0xffffffffu, 1}};                                                      \
        for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {                                           \
            bad = wrong[i];                                                                                   \
            memcpy(packet, &bad, sizeof bad);                                                                 \
            assert_int_equal(proto_attach_check(packet, size, sender, &why), SCISSOR_EPROTO);                 \
        }                                                                                                     \
    }
    PROTO_ATTACH_MAP(ROW)
#undef ROW
}

static void texts(void **state) {
    (void)state;
    char field[8];
    proto_text_set(field, sizeof field, "a long text");
    assert_memory_equal(field, "a long ", 8);
    proto_text_set(field, sizeof field, "ab");
    assert_memory_equal(field, "ab\0\0\0\0\0\0", 8);
    assert_true(proto_text_valid(field, sizeof field));
    memset(field, 'x', sizeof field);
    assert_false(proto_text_valid(field, sizeof field));
}

/* ---------- control ---------- */

static void control_requests(void **state) {
    (void)state;
    const char *why;
    struct proto_request r = {.magic = PROTO_REQUEST_MAGIC, .major = PROTO_VERSION_MAJOR, .op = PROTO_OP_STAT}, bad;
    assert_int_equal(proto_request_check(&r, sizeof r, &why), 0);
    for (size_t size = 0; size < sizeof r; size++)
        assert_int_equal(proto_request_check(&r, size, &why), SCISSOR_EPROTO);
    bad = r;
    bad.magic++;
    assert_int_equal(proto_request_check(&bad, sizeof bad, &why), SCISSOR_EPROTO);
    bad = r;
    bad.major++;
    assert_int_equal(proto_request_check(&bad, sizeof bad, &why), SCISSOR_EVERSION);
    bad = r;
    bad.op = 0;
    assert_int_equal(proto_request_check(&bad, sizeof bad, &why), SCISSOR_EPROTO);
}

static void control_answers(void **state) {
    (void)state;
    const char *why;
    struct {
        struct proto_answer answer;
        struct proto_head_stat heads[3];
    } m = {.answer = {.magic = PROTO_ANSWER_MAGIC, .op = PROTO_OP_SESSION, .count = 3, .first = 2, .total = 5}}, bad;
    assert_int_equal(proto_answer_check(&m, sizeof m, PROTO_OP_SESSION, &why), 0);
    for (size_t size = 0; size < sizeof m; size++)
        assert_int_equal(proto_answer_check(&m, size, PROTO_OP_SESSION, &why), SCISSOR_EPROTO);
    assert_int_equal(proto_answer_check(&m, sizeof m, PROTO_OP_STAT, &why), SCISSOR_EPROTO);
#define BAD(field, value)       \
    bad = m;                    \
    bad.answer.field = (value); \
    assert_int_equal(proto_answer_check(&bad, sizeof bad, PROTO_OP_SESSION, &why), SCISSOR_EPROTO);
    BAD(magic, 0)
    BAD(count, 4)
    BAD(count, UINT32_MAX)
    BAD(count, UINT32_MAX / 40 + 4)
    BAD(first, 3)
    BAD(first, UINT32_MAX)
    BAD(total, 4)
#undef BAD
    bad = m;
    memset(bad.answer.text, 'x', sizeof bad.answer.text);
    assert_int_equal(proto_answer_check(&bad, sizeof bad, PROTO_OP_SESSION, &why), SCISSOR_EPROTO);
}

static void control_events(void **state) {
    (void)state;
    struct proto_event e = {.magic = PROTO_EVENT_MAGIC};
    assert_int_equal(proto_event_check(&e, sizeof e), 0);
    assert_int_equal(proto_event_check(&e, sizeof e - 1), SCISSOR_EPROTO);
    memset(e.name, 'x', sizeof e.name);
    assert_int_equal(proto_event_check(&e, sizeof e), SCISSOR_EPROTO);
}

static void tokens(void **state) {
    (void)state;
    uint8_t a[16] = {1, 2, 3}, b[16] = {1, 2, 3};
    assert_true(proto_token_equal(a, b));
    for (size_t i = 0; i < 16; i++) {
        b[i] ^= 0x80;
        assert_false(proto_token_equal(a, b));
        b[i] ^= 0x80;
    }
}

/* ---------- scores ---------- */

static void score_check_refuses(void **state) {
    (void)state;
    const char *why;
    struct proto_score good = {.magic = PROTO_SCORE_MAGIC,
                               .version = 1,
                               .planes = 7,
                               .layer_count = 1,
                               .rows = 2,
                               .fresh = 2,
                               .format = {PROTO_FORMAT_F32, PROTO_FORMAT_U8, PROTO_FORMAT_F16}};
    struct proto_score s;
    assert_int_equal(proto_score_check(&good, sizeof good, &why), 0);
    for (size_t size = 0; size < sizeof good; size++)
        assert_int_equal(proto_score_check(&good, size, &why), SCISSOR_EPROTO);
#define BAD(change) \
    s = good;       \
    change;         \
    assert_int_equal(proto_score_check(&s, sizeof s, &why), SCISSOR_EPROTO);
    BAD(s.magic = 0)
    BAD(s.version = 2)
    BAD(s.planes = 0)
    BAD(s.planes = 8)
    BAD(s.planes = 6) /* a format for a plane that is absent */
    BAD(s.format[0] = 4)
    BAD(s.format[1] = PROTO_FORMAT_BITS) /* of two rows */
    BAD(s.format[0] = PROTO_FORMAT_BITS)
    BAD(s.payload_bytes = 1)
    BAD(s.payload_bytes = UINT32_MAX)
    BAD(s.layer_count = 0)
    BAD(s.layer_count = PROTO_MAX_LAYERS + 1)
    BAD(s.first_layer = PROTO_MAX_LAYERS)
    BAD(s.first_layer = UINT32_MAX)
    BAD(s.rows = 0)
    BAD(s.rows = 3)
    BAD(s.fresh = 0)
    BAD(s.fresh = PROTO_MAX_FRESH + 1)
#undef BAD
    s = good;
    s.rows = 1;
    s.format[1] = PROTO_FORMAT_BITS;
    assert_int_equal(proto_score_check(&s, sizeof s, &why), 0);
}

static void score_round_trips(void **state) {
    (void)state;
    const size_t counts[] = {0, 1, 3, 4, 31, 32, 33, 100};
    float in[100], out[100];
    uint8_t vector[512];
    for (size_t i = 0; i < 100; i++)
        in[i] = (float)(i % 3);
    for (uint32_t format = 0; format < PROTO_FORMAT_COUNT; format++)
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            uint64_t bad = 0;
            memset(vector, 0xee, sizeof vector);
            size_t bytes = proto_score_encode(format, in, counts[c], vector);
            assert_int_equal(bytes, proto_score_vector_bytes(format, counts[c]));
            assert_int_equal(bytes % 4, 0);
            assert_int_equal(vector[bytes], 0xee);
            proto_score_decode(format, vector, counts[c], out, &bad);
            assert_int_equal(bad, 0);
            for (size_t i = 0; i < counts[c]; i++)
                assert_true(out[i] == (format == PROTO_FORMAT_BITS ? (float)(in[i] != 0) : in[i]));
        }
}

static void score_bad_values(void **state) {
    (void)state;
    float in[] = {1, __builtin_nanf(""), __builtin_inff(), -1, -__builtin_inff(), 3.402823466e38f}, out[6];
    uint8_t vector[24];
    uint64_t bad = 5;
    proto_score_encode(PROTO_FORMAT_F32, in, 6, vector);
    proto_score_decode(PROTO_FORMAT_F32, vector, 6, out, &bad);
    assert_int_equal(bad, 5 + 4);
    assert_true(out[0] == 1 && out[1] == 0 && out[2] == 0 && out[3] == 0 && out[4] == 0 && out[5] == in[5]);
    bad = 0;
    proto_score_encode(PROTO_FORMAT_F16, in, 6, vector);
    proto_score_decode(PROTO_FORMAT_F16, vector, 6, out, &bad);
    assert_int_equal(bad, 5); /* the largest float is infinite as a half */
    assert_true(out[0] == 1);
    float clamp[] = {-3, 254.6f, 300, __builtin_nanf("")};
    proto_score_encode(PROTO_FORMAT_U8, clamp, 4, vector);
    assert_memory_equal(vector, "\x00\xff\xff\x00", 4);
}

/* proto/ has its own half precision; it must be that of the kernels. */
static void score_halves_are_the_kernels(void **state) {
    (void)state;
    uint64_t bad = 0;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        uint16_t half[2] = {(uint16_t)h}, back[2]; /* a vector is padded to 4 bytes */
        float value;
        proto_score_decode(PROTO_FORMAT_F16, half, 1, &value, &bad);
        assert_true(value == kernel_f16_to_f32(half[0]));
        proto_score_encode(PROTO_FORMAT_F16, &value, 1, back);
        assert_int_equal(back[0], half[0]);
    }
    assert_int_equal(bad, 0);
    uint32_t random = 1;
    for (int i = 0; i < 200000; i++) {
        random = random * 1664525u + 1013904223u;
        float value;
        uint16_t pair[2];
        uint32_t bits = random & 0x7fffffffu;
        memcpy(&value, &bits, sizeof value);
        if (!(value == value))
            continue;
        proto_score_encode(PROTO_FORMAT_F16, &value, 1, pair);
        assert_int_equal(pair[0], kernel_f32_to_f16(value));
    }
}

/* ---------- allocation ---------- */

static void allocation_fails_on_demand(void **state) {
    (void)state;
    size_t live = alloc_live();
    void *kept = scissor_malloc(10);
    assert_int_equal(alloc_live(), live + 1);
    alloc_fail_after(1, 2);
    void *first = scissor_calloc(3, 3);
    assert_non_null(first);
    assert_null(scissor_malloc(1));
    assert_null(scissor_realloc(kept, 100)); /* and it is still there */
    kept = scissor_realloc(kept, 100);
    assert_non_null(kept);
    alloc_fail_after(0, SIZE_MAX);
    for (int i = 0; i < 10; i++)
        assert_null(scissor_malloc(1));
    alloc_fail_never();
    assert_null(scissor_free(kept));
    assert_null(scissor_free(first));
    assert_null(scissor_free(NULL));
    assert_int_equal(alloc_live(), live);
}

int main(void) {
    const struct CMUnitTest document_tests[] = {
        cmocka_unit_test(document_has_all_messages),
        cmocka_unit_test(document_has_all_tables),
        cmocka_unit_test(document_has_sizes_and_magics),
        cmocka_unit_test(document_has_the_offsets_of_opening),
        cmocka_unit_test(document_has_the_offsets_of_sessions),
        cmocka_unit_test(document_has_the_offsets_of_pages_and_scores),
        cmocka_unit_test(document_has_the_offsets_of_control),
    };
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_unique),
        cmocka_unit_test(names_and_lookups),
        cmocka_unit_test(attach_round_trip),
        cmocka_unit_test(attach_check_refuses),
        cmocka_unit_test(texts),
        cmocka_unit_test(control_requests),
        cmocka_unit_test(control_answers),
        cmocka_unit_test(control_events),
        cmocka_unit_test(tokens),
        cmocka_unit_test(score_check_refuses),
        cmocka_unit_test(score_round_trips),
        cmocka_unit_test(score_bad_values),
        cmocka_unit_test(score_halves_are_the_kernels),
        cmocka_unit_test(allocation_fails_on_demand),
    };
    int failed = cmocka_run_group_tests_name("PROTOCOL.md", document_tests, read_document, free_document);
    return failed + cmocka_run_group_tests_name("proto", tests, NULL, NULL);
}
