/* fuzz_attach.c - packets of the attach socket, as either side receives them. What is accepted must be written back
 * bit for bit, and every byte that the table promises must be there. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "attach.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char again[PROTO_ATTACH_MAX];
    const char *why;
    if (size > PROTO_ATTACH_MAX)
        return 0;
    for (const char *sender = "CD"; *sender; sender++) {
        struct proto_header h;
        if (proto_attach_check(data, size, *sender, &why) < 0)
            continue;
        memcpy(&h, data, sizeof h);
        size_t written = proto_attach_write(again, sizeof again, h.type, h.request, proto_attach_body(data),
                                            proto_attach_entries(data), h.count);
        if (written != size || memcmp(again, data, size) != 0)
            abort();
    }
    return 0;
}
