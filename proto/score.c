/* score.c - checks score frames and turns vectors of values into bytes and back. */
#include "score.h"

#include <math.h>
#include <string.h>

#include "scissor_error.h"

static const uint8_t format_bits[PROTO_FORMAT_COUNT] = {
#define ROW(name, number, bits) [number] = bits,
    PROTO_FORMAT_MAP(ROW)
#undef ROW
};

size_t proto_score_vector_bytes(uint32_t format, size_t slots) {
    return (slots * format_bits[format] + 31) / 32 * 4;
}

static const char *score_check_planes(const struct proto_score *s) {
    if (s->planes == 0 || s->planes >= 1u << PROTO_PLANE_COUNT)
        return "unknown planes";
    for (uint32_t p = 0; p < PROTO_PLANE_COUNT; p++) {
        if (s->format[p] >= PROTO_FORMAT_COUNT || (!(s->planes >> p & 1) && s->format[p] != 0))
            return "unknown format";
        /* One bit can say of one row whether it was hit, nothing else. */
        if ((s->planes >> p & 1) && s->format[p] == PROTO_FORMAT_BITS && (1u << p != PROTO_PLANE_HITS || s->rows != 1))
            return "bits are for hits of one row";
    }
    return NULL;
}

int proto_score_check(const void *frame, size_t size, const char **ret_why) {
    struct proto_score s;
    *ret_why = "shorter than a frame or longer than allowed";
    if (size < sizeof s || size > PROTO_SCORE_MAX)
        return SCISSOR_EPROTO;
    memcpy(&s, frame, sizeof s);
    const char *planes = score_check_planes(&s);
    if (s.magic != PROTO_SCORE_MAGIC)
        *ret_why = "wrong magic number";
    else if (s.version != PROTO_SCORE_VERSION)
        *ret_why = "unknown version";
    else if (planes)
        *ret_why = planes;
    else if (s.payload_bytes != size - sizeof s)
        *ret_why = "the payload's size is not the frame's";
    else if (s.layer_count == 0 || s.layer_count > PROTO_MAX_LAYERS || s.first_layer > PROTO_MAX_LAYERS - s.layer_count)
        *ret_why = "layers out of range";
    else if (s.fresh == 0 || s.fresh > PROTO_MAX_FRESH || s.rows == 0 || s.rows > s.fresh)
        *ret_why = "rows out of range";
    else
        return 0;
    return SCISSOR_EPROTO;
}

/* IEEE half precision, round to nearest even; dtype.c has it as well, but proto/ stands alone. */
static uint16_t score_to_f16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (rest >= 0x477ff000u) /* rounds to more than the largest half */
        return (uint16_t)(sign | 0x7c00u);
    if (rest < 0x38800000u) { /* subnormal half: let the addition of 0.5 round */
        float half;
        memcpy(&half, &rest, sizeof half);
        half += 0.5f;
        memcpy(&rest, &half, sizeof rest);
        return (uint16_t)(sign | (rest - 0x3f000000u));
    }
    return (uint16_t)(sign | (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1)) >> 13);
}

/* Multiplying by 2^112 moves the exponent from one bias to the other, subnormals included. */
static float score_from_f16(uint16_t bits) {
    uint32_t rest = (uint32_t)(bits & 0x7fffu) << 13, word;
    float value;
    memcpy(&value, &rest, sizeof value);
    value *= 0x1p112f;
    memcpy(&word, &value, sizeof word);
    if ((bits & 0x7c00u) == 0x7c00u)
        word = rest | 0x7f800000u;
    word |= (uint32_t)(bits & 0x8000u) << 16;
    memcpy(&value, &word, sizeof value);
    return value;
}

static uint8_t score_to_u8(float value) {
    return !(value > 0) ? 0 : value >= 255 ? 255 : (uint8_t)lrintf(value);
}

size_t proto_score_encode(uint32_t format, const float *values, size_t slots, void *vector) {
    size_t bytes = proto_score_vector_bytes(format, slots);
    uint8_t *to = vector;
    memset(to, 0, bytes);
    for (size_t i = 0; i < slots; i++) {
        uint16_t half;
        switch (format) {
        case PROTO_FORMAT_BITS:
            to[i / 8] |= (uint8_t)((values[i] != 0) << i % 8);
            break;
        case PROTO_FORMAT_U8:
            to[i] = score_to_u8(values[i]);
            break;
        case PROTO_FORMAT_F16:
            half = score_to_f16(values[i]);
            memcpy(to + 2 * i, &half, 2);
            break;
        default:
            memcpy(to + 4 * i, &values[i], 4);
        }
    }
    return bytes;
}

void proto_score_decode(uint32_t format, const void *vector, size_t slots, float *ret_values, uint64_t *ret_bad) {
    const uint8_t *from = vector;
    uint64_t bad = 0;
    for (size_t i = 0; i < slots; i++) {
        float value;
        uint16_t half;
        switch (format) {
        case PROTO_FORMAT_BITS:
            value = from[i / 8] >> i % 8 & 1;
            break;
        case PROTO_FORMAT_U8:
            value = from[i];
            break;
        case PROTO_FORMAT_F16:
            memcpy(&half, from + 2 * i, 2);
            value = score_from_f16(half);
            break;
        default:
            memcpy(&value, from + 4 * i, 4);
        }
        if (!(value >= 0 && value <= 3.402823466e38f)) {
            value = 0;
            bad++;
        }
        ret_values[i] = value;
    }
    *ret_bad += bad;
}
