/* error.c - texts and names of the codes, straight from the table. */
#include "scissor_error.h"

#define EXPORTED __attribute__((visibility("default")))

EXPORTED const char *scissor_strerror(int code) {
    switch (code) {
#define SCISSOR_ERROR_TEXT(name, number, text) \
    case number:                               \
        return text;
        SCISSOR_ERROR_MAP(SCISSOR_ERROR_TEXT)
#undef SCISSOR_ERROR_TEXT
    }
    return "unknown code";
}

EXPORTED const char *scissor_errname(int code) {
    switch (code) {
#define SCISSOR_ERROR_NAME(name, number, text) \
    case number:                               \
        return #name;
        SCISSOR_ERROR_MAP(SCISSOR_ERROR_NAME)
#undef SCISSOR_ERROR_NAME
    }
    return "unknown";
}
