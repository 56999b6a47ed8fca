/* attach.c - checks and writes the packets of the attach socket, by the table in attach.h. */
#include "attach.h"

#include <string.h>

#include "scissor_error.h"

static const struct proto_attach_info attach_table[] = {
#define PROTO_ROW(name, number, sender, body, entry, most) \
    {#name, #sender[0], (number), (most), sizeof(struct body), sizeof(struct entry)},
    PROTO_ATTACH_MAP(PROTO_ROW)
#undef PROTO_ROW
};

/* No packet of the table may be larger than what a receiver has room for. */
#define PROTO_FITS(name, number, sender, body, entry, most) \
    static_assert(                                          \
        sizeof(struct proto_header) + sizeof(struct body) + (most) * sizeof(struct entry) <= PROTO_ATTACH_MAX, #name);
PROTO_ATTACH_MAP(PROTO_FITS)
#undef PROTO_FITS

const struct proto_attach_info *proto_attach_lookup(uint16_t type) {
    for (size_t i = 0; i < sizeof attach_table / sizeof *attach_table; i++)
        if (attach_table[i].type == type)
            return &attach_table[i];
    return NULL;
}

int proto_attach_check(const void *packet, size_t size, char sender, const char **ret_why) {
    struct proto_header h;
    if (size < sizeof h) {
        *ret_why = "shorter than a header";
        return SCISSOR_EPROTO;
    }
    memcpy(&h, packet, sizeof h);
    const struct proto_attach_info *info = proto_attach_lookup(h.type);
    if (h.magic != PROTO_ATTACH_MAGIC)
        *ret_why = "wrong magic number";
    else if (h.size != size)
        *ret_why = "the size in the header is not the packet's";
    else if (!info)
        *ret_why = "unknown message type";
    else if (info->sender != sender)
        *ret_why = "a message type that this side does not send";
    else if (h.count > info->most_entries)
        *ret_why = "too many entries";
    else if (size != sizeof h + info->body_bytes + (size_t)h.count * info->entry_bytes)
        *ret_why = "the size does not fit the message type";
    else
        return 0;
    return SCISSOR_EPROTO;
}

size_t proto_attach_write(void *packet, size_t capacity, uint16_t type, uint32_t request, const void *body,
                          const void *entries, uint16_t count) {
    const struct proto_attach_info *info = proto_attach_lookup(type);
    assert(info && count <= info->most_entries);
    size_t entry_bytes = (size_t)count * info->entry_bytes;
    struct proto_header h = {.magic = PROTO_ATTACH_MAGIC,
                             .type = type,
                             .count = count,
                             .size = (uint32_t)(sizeof h + info->body_bytes + entry_bytes),
                             .request = request};
    assert(h.size <= capacity);
    char *at = packet;
    memcpy(at, &h, sizeof h);
    memcpy(at + sizeof h, body, info->body_bytes);
    if (entry_bytes)
        memcpy(at + sizeof h + info->body_bytes, entries, entry_bytes);
    return h.size;
}

const void *proto_attach_entries(const void *packet) {
    struct proto_header h;
    memcpy(&h, packet, sizeof h);
    return (const char *)packet + sizeof h + proto_attach_lookup(h.type)->body_bytes;
}

void proto_text_set(char *field, size_t bytes, const char *text) {
    size_t length = strnlen(text, bytes - 1);
    memset(field, 0, bytes);
    memcpy(field, text, length);
}

int proto_text_valid(const char *field, size_t bytes) {
    return memchr(field, 0, bytes) != NULL;
}
