/* fuzz_score.c - score frames: the check, and the vectors of one head after the other as the broker reads them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "score.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads vectors of settled + fresh values until the payload ends. */
static void read_vectors(const struct proto_score *s, const uint8_t *payload, uint32_t settled) {
    size_t slots = (size_t)settled + s->fresh, at = 0;
    float *values = malloc((slots + 1) * sizeof *values);
    uint64_t bad = 0;
    for (uint32_t p = 0; values; p = (p + 1) % PROTO_PLANE_COUNT) {
        if (!(s->planes >> p & 1))
            continue;
        size_t bytes = proto_score_vector_bytes(s->format[p], slots);
        if (bytes > s->payload_bytes - at)
            break;
        proto_score_decode(s->format[p], payload + at, slots, values, &bad);
        for (size_t i = 0; i < slots; i++)
            if (!(values[i] >= 0 && values[i] - values[i] == 0))
                abort();
        at += bytes;
    }
    free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct proto_score s;
    const char *why;
    if (proto_score_check(data, size, &why) < 0)
        return 0;
    memcpy(&s, data, sizeof s);
    read_vectors(&s, data + sizeof s, 0);
    read_vectors(&s, data + sizeof s, s.first_layer % 97);
    return 0;
}
