/* utf8.c - see utf8.h. */
#include "utf8.h"

#include <stdint.h>

/* The first continuation byte is the one that tells overlong forms, surrogates and too large values apart. */
static int utf8_second_is_valid(uint8_t first, uint8_t second) {
    uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    return second >= low && second <= high;
}

int utf8_sequence(const char *bytes, size_t size) {
    const uint8_t *b = (const uint8_t *)bytes;
    if (b[0] < 0x80)
        return 1;
    if (b[0] < 0xc2 || b[0] > 0xf4)
        return UTF8_INVALID;
    int length = b[0] < 0xe0 ? 2 : b[0] < 0xf0 ? 3 : 4;
    for (int i = 1; i < length; i++) {
        if ((size_t)i == size)
            return UTF8_INCOMPLETE;
        if (i == 1 ? !utf8_second_is_valid(b[0], b[1]) : (b[i] & 0xc0) != 0x80)
            return UTF8_INVALID;
    }
    return length;
}

size_t utf8_valid_prefix(const char *bytes, size_t size) {
    size_t at = 0;
    while (at < size) {
        int length = utf8_sequence(bytes + at, size - at);
        if (length <= 0)
            break;
        at += (size_t)length;
    }
    return at;
}
