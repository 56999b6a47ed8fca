/* input.c - see input.h. */
#include "input.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "alloc.h"

#define INPUT_MAX_BYTES ((size_t)1 << 30)

static int input_read_stream(FILE *stream, const char *path, char **ret_text, size_t *ret_size,
                             struct failure *failure) {
    size_t size = 0, capacity = 0;
    char *text = NULL;
    do {
        capacity = capacity ? 2 * capacity : 65536;
        char *larger = capacity <= INPUT_MAX_BYTES ? scissor_realloc(text, capacity) : NULL;
        if (!larger) {
            scissor_free(text);
            return failure_set(failure, SCISSOR_ENOMEM, "%.160s is too long for memory", path);
        }
        text = larger;
        size += fread(text + size, 1, capacity - size, stream);
    } while (size == capacity);
    if (ferror(stream)) {
        scissor_free(text);
        return failure_set(failure, SCISSOR_ESYSTEM, "cannot read %.160s: %s", path, strerror(errno));
    }
    *ret_text = text;
    *ret_size = size;
    return 0;
}

int input_read(const char *path, char **ret_text, size_t *ret_size, struct failure *failure) {
    bool standard = strcmp(path, "-") == 0;
    FILE *stream = standard ? stdin : fopen(path, "re");
    if (!stream)
        return failure_set(failure, SCISSOR_ESYSTEM, "cannot open %.160s: %s", path, strerror(errno));
    int r = input_read_stream(stream, path, ret_text, ret_size, failure);
    if (!standard)
        fclose(stream);
    return r;
}
