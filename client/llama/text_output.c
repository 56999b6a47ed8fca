/* text_output.c - see text_output.h. */
#include "text_output.h"

#include <errno.h>
#include <string.h>

#include "alloc.h"
#include "utf8.h"

void text_output_deinit(struct text_output *output) {
    scissor_free(output->text);
    *output = (struct text_output){0};
}

static int text_output_show(struct text_output *output, size_t end, struct failure *failure) {
    size_t size = end - output->shown;
    if (!output->stream || size == 0)
        return 0;
    if (fwrite(output->text + output->shown, 1, size, output->stream) != size || fflush(output->stream) != 0)
        return failure_set(failure, SCISSOR_ESYSTEM, "cannot write the text: %s", strerror(errno));
    output->shown = end;
    return 0;
}

/* The end of what can be shown: everything but a character that has only begun. */
static size_t text_output_complete(const struct text_output *output) {
    size_t at = output->shown;
    while (at < output->size) {
        int length = utf8_sequence(output->text + at, output->size - at);
        if (length == UTF8_INCOMPLETE)
            break;
        at += length > 0 ? (size_t)length : 1;
    }
    return at;
}

int text_output_append(struct text_output *output, const char *bytes, size_t size, struct failure *failure) {
    if (size > output->capacity - output->size) {
        size_t capacity = 2 * (output->capacity + size) + 256;
        char *text = scissor_realloc(output->text, capacity);
        if (!text)
            return failure_set_memory(failure);
        output->text = text;
        output->capacity = capacity;
    }
    if (size > 0)
        memcpy(output->text + output->size, bytes, size);
    output->size += size;
    /* Without a stream nothing is ever shown, and looking for what could be would begin at the start each time. */
    return output->stream ? text_output_show(output, text_output_complete(output), failure) : 0;
}

int text_output_finish(struct text_output *output, struct failure *failure) {
    return text_output_show(output, output->size, failure);
}

void json_write_string(FILE *stream, const char *text, size_t size) {
    fputc('"', stream);
    for (size_t at = 0; at < size;) {
        int length = utf8_sequence(text + at, size - at);
        unsigned char c = (unsigned char)text[at];
        if (length <= 0)
            fputs("\xef\xbf\xbd", stream);
        else if (c == '"' || c == '\\')
            fprintf(stream, "\\%c", c);
        else if (c == '\n' || c == '\t')
            fputs(c == '\n' ? "\\n" : "\\t", stream);
        else if (c < 0x20 || c == 0x7f)
            fprintf(stream, "\\u%04x", c);
        else
            fwrite(text + at, 1, (size_t)length, stream);
        at += length > 0 ? (size_t)length : 1;
    }
    fputc('"', stream);
}
