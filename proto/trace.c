/* trace.c - see trace.h: what a record may hold, and files of them. */
#include "trace.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "alloc.h"
#include "scissor_error.h"

/* ---------- what a record may hold ---------- */

static const char *check_shape(const void *bytes, size_t size) {
    struct trace_shape s;
    uint64_t layers = 0, heads = 0;
    if (size != sizeof s)
        return "a shape of the wrong size";
    memcpy(&s, bytes, sizeof s);
    if (!proto_text_valid(s.name, sizeof s.name))
        return "a shape without a name that ends";
    if (s.fresh_rows < 1 || s.fresh_rows > PROTO_MAX_FRESH || s.group_count < 1 || s.group_count > PROTO_MAX_GROUPS)
        return "a shape whose fresh rows or groups are out of range";
    for (uint32_t i = 0; i < s.group_count; i++) {
        const struct trace_group *g = &s.groups[i];
        if (g->layers < 1 || g->layers > PROTO_MAX_LAYERS || g->kv_heads < 1 || g->kv_heads > PROTO_MAX_HEADS)
            return "a shape whose layers or KV heads are out of range";
        if (g->planes >= 1u << PROTO_PLANE_COUNT || g->max_rows > PROTO_MAX_ROWS ||
            !proto_text_valid(g->policy, sizeof g->policy))
            return "a shape whose planes, rows or policy are out of range";
        layers += g->layers;
        heads += (uint64_t)g->layers * g->kv_heads;
    }
    return layers > PROTO_MAX_LAYERS || heads > PROTO_MAX_HEADS ? "a shape of too many layers or heads" : NULL;
}

static const char *check_rows(const struct trace_state *state, const struct trace_head *head, const char *rows) {
    for (uint32_t i = 0; i < head->count; i++) {
        struct trace_row row;
        memcpy(&row, rows + i * sizeof row, sizeof row);
        if (row.slot >= head->settled || row.position >= state->tokens_seen || !isfinite(row.norm) || row.norm < 0)
            return "a state with a row that cannot be";
        if (state->whole && row.slot != i)
            return "a whole state whose slots are not in order";
    }
    return NULL;
}

static const char *check_state(const char *bytes, size_t size, const struct trace_shape *shape) {
    struct trace_state state;
    struct trace_head head;
    if (size < sizeof state)
        return "a state that is too short";
    memcpy(&state, bytes, sizeof state);
    if (state.heads != trace_shape_heads(shape) || state.whole > 1 || state.rows > shape->fresh_rows ||
        state.tokens_seen > UINT32_MAX || state.tokens_seen < state.rows)
        return "a state that does not fit the shape";
    size_t at = sizeof state;
    for (uint32_t h = 0; h < state.heads; h++) {
        if (size - at < sizeof head)
            return "a state that is too short";
        memcpy(&head, bytes + at, sizeof head);
        at += sizeof head;
        if (head.settled > PROTO_MAX_ROWS || head.count > head.settled || (state.whole && head.count != head.settled))
            return "a state whose counts are out of range";
        if ((size - at) / sizeof(struct trace_row) < head.count)
            return "a state that is too short";
        const char *why = check_rows(&state, &head, bytes + at);
        if (why)
            return why;
        at += head.count * sizeof(struct trace_row);
    }
    return at != size ? "a state that is too long" : NULL;
}

int trace_check(uint32_t type, const void *bytes, size_t size, const struct trace_shape *shape, const char **ret_why) {
    const char *why = NULL;
    switch (type) {
    case TRACE_SHAPE:
        why = check_shape(bytes, size);
        break;
    case TRACE_STATE:
        why = check_state(bytes, size, shape);
        break;
    case TRACE_FRAME:
        if (proto_score_check(bytes, size, &why) == 0)
            why = NULL;
        break;
    case TRACE_END:
        why = size == sizeof(struct trace_end) ? NULL : "an end of the wrong size";
        break;
    default:
        why = "a record of an unknown type";
    }
    if (!why)
        return 0;
    *ret_why = why;
    return SCISSOR_EPROTO;
}

/* ---------- files ---------- */

static uint32_t crc32_add(uint32_t crc, const void *bytes, size_t size) {
    static uint32_t table[256];
    const uint8_t *from = bytes;
    if (!table[1])
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t value = i;
            for (int bit = 0; bit < 8; bit++)
                value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
            table[i] = value;
        }
    crc = ~crc;
    for (size_t i = 0; i < size; i++)
        crc = crc >> 8 ^ table[(crc ^ from[i]) & 255];
    return ~crc;
}

static uint32_t record_sum(const struct trace_record *record, const void *bytes) {
    return crc32_add(crc32_add(0, record, offsetof(struct trace_record, sum)), bytes, record->bytes);
}

static size_t padding(size_t size) {
    return -size & 7;
}

static int put(FILE *file, const void *bytes, size_t size) {
    return size == 0 || fwrite(bytes, size, 1, file) == 1 ? 0 : SCISSOR_ESYSTEM;
}

int trace_write_begin(FILE *file) {
    const struct trace_file head = {.magic = TRACE_MAGIC, .version = TRACE_VERSION};
    return put(file, &head, sizeof head);
}

int trace_write(FILE *file, uint32_t type, uint64_t number, const void *bytes, size_t size) {
    struct trace_record record = {.type = type, .bytes = (uint32_t)size, .number = number};
    record.sum = record_sum(&record, bytes);
    if (put(file, &record, sizeof record) || put(file, bytes, size))
        return SCISSOR_ESYSTEM;
    return put(file, (const char[8]){0}, padding(size));
}

/* Says what is wrong, and where. */
static int spoilt(struct trace_reader *reader, const char *what) {
    snprintf(reader->why, sizeof reader->why, "record %llu: %s", (unsigned long long)reader->next, what);
    return SCISSOR_EPROTO;
}

static int get(struct trace_reader *reader, void *bytes, size_t size) {
    errno = 0;
    if (size == 0 || fread(bytes, size, 1, reader->file) == 1)
        return 0;
    if (!ferror(reader->file))
        return spoilt(reader, "the file ends in the middle; it was cut off");
    snprintf(reader->why, sizeof reader->why, "%s", strerror(errno));
    return SCISSOR_ESYSTEM;
}

static int read_record(struct trace_reader *reader, struct trace_record *record) {
    char rest[8];
    int code = get(reader, record, sizeof *record);
    if (code)
        return code;
    if (record->bytes > TRACE_RECORD_MAX)
        return spoilt(reader, "longer than a record may be; the file is damaged");
    code = get(reader, reader->bytes, record->bytes);
    if (code == 0)
        code = get(reader, rest, padding(record->bytes));
    if (code)
        return code;
    if (record->sum != record_sum(record, reader->bytes))
        return spoilt(reader, "its sum is wrong; the file is damaged");
    if (record->number < reader->next)
        return spoilt(reader, "its number was there before; the file is damaged");
    return 0;
}

int trace_read(struct trace_reader *reader, struct trace_record *ret_record) {
    struct trace_record record;
    const char *why;
    if (reader->ended)
        return TRACE_DONE;
    int code = read_record(reader, &record);
    if (code)
        return code;
    if ((record.type == TRACE_SHAPE) != (reader->next == 0))
        return spoilt(reader, reader->next ? "a second shape" : "the first record is not the shape");
    if (trace_check(record.type, reader->bytes, record.bytes, &reader->shape, &why))
        return spoilt(reader, why);
    reader->lost += record.number - reader->next;
    reader->next = record.number + 1;
    reader->ended = record.type == TRACE_END;
    *ret_record = record;
    return 0;
}

static int read_head(struct trace_reader *reader) {
    struct trace_file head;
    const char *what = NULL;
    if (fread(&head, sizeof head, 1, reader->file) != 1 || head.magic != TRACE_MAGIC)
        what = "it does not begin as a trace of `scissorctl record` does";
    else if (head.version != TRACE_VERSION)
        what = "a trace of another version";
    if (!what)
        return 0;
    snprintf(reader->why, sizeof reader->why, "%s", what);
    return SCISSOR_EPROTO;
}

int trace_reader_init(struct trace_reader *reader, FILE *file) {
    struct trace_record record;
    *reader = (struct trace_reader){.file = file, .bytes = scissor_malloc(TRACE_RECORD_MAX)};
    if (!reader->bytes) {
        snprintf(reader->why, sizeof reader->why, "out of memory");
        return SCISSOR_ENOMEM;
    }
    int code = read_head(reader);
    if (code == 0)
        code = trace_read(reader, &record);
    if (code == 0)
        memcpy(&reader->shape, reader->bytes, sizeof reader->shape);
    return code;
}

void trace_reader_deinit(struct trace_reader *reader) {
    reader->bytes = scissor_free(reader->bytes);
}
