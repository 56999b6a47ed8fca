/* chat.h - puts a user's words into the chat template of SmolLM2 (ChatML):
 *
 *     <|im_start|>system NEWLINE system text <|im_end|> NEWLINE
 *     <|im_start|>user NEWLINE user text <|im_end|> NEWLINE
 *     <|im_start|>assistant NEWLINE
 *
 * Only the template's own markers become control tokens; the same characters in the texts stay text. */
#pragma once

#include "tokenizer.h"

/* Appends the turn; system NULL: the template's own words. EINVAL: the model has no such markers. */
int chat_encode(const struct tokenizer *tokenizer, const char *system, const char *user, size_t user_size,
                struct token_list *list, size_t *ret_lost, struct failure *failure);
