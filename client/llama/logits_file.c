/* logits_file.c - see logits_file.h. */
#include "logits_file.h"

#include <errno.h>
#include <string.h>

int logits_file_open(const char *path, FILE **ret_stream, struct failure *failure) {
    FILE *stream = path ? fopen(path, "we") : NULL;
    if (path && !stream)
        return failure_set(failure, SCISSOR_ESYSTEM, "cannot write %.160s: %s", path, strerror(errno));
    *ret_stream = stream;
    return 0;
}

int logits_file_append(FILE *stream, const float *logits, size_t count, struct failure *failure) {
    if (stream && fwrite(logits, sizeof(*logits), count, stream) != count)
        return failure_set(failure, SCISSOR_ESYSTEM, "cannot write the logits: %s", strerror(errno));
    return 0;
}

int logits_file_close(FILE *stream, struct failure *failure) {
    if (stream && fclose(stream) != 0)
        return failure_set(failure, SCISSOR_ESYSTEM, "cannot write the logits: %s", strerror(errno));
    return 0;
}
