/* generate.c - see generate.h. */
#include "generate.h"

#include <string.h>

#include "alloc.h"
#include "chat.h"
#include "input.h"
#include "logits_file.h"
#include "report.h"
#include "sampler.h"
#include "text_output.h"

struct generate {
    struct engine *engine;
    struct sampler *sampler;
    struct token_list prompt;
    struct text_output output;
    FILE *logits_file;
    uint32_t next; /* the token that was picked last */
    size_t written;
};

/* ---------- the prompt ---------- */

/* The tokens of --file, cut to --max-tokens. */
static int generate_encode_file(struct generate *generate, struct token_list *list, size_t *lost,
                                struct failure *failure) {
    const struct options *options = generate->engine->options;
    char *text;
    size_t size;
    if (!options->file)
        return 0;
    int r = input_read(options->file, &text, &size, failure);
    if (r != 0)
        return r;
    r = tokenizer_encode(generate->engine->tokenizer, text, size, list, lost, failure);
    scissor_free(text);
    if (r == 0 && options->max_tokens && list->count > options->max_tokens)
        list->count = options->max_tokens;
    return r;
}

/* The user's turn is the cut file as text, an empty line, and the prompt; the template's tokens go around it. */
static int generate_encode_chat(struct generate *generate, const struct token_list *file, size_t *lost,
                                struct failure *failure) {
    const struct options *options = generate->engine->options;
    const struct tokenizer *tokenizer = generate->engine->tokenizer;
    struct text_output user = {0};
    int r = 0;
    for (size_t i = 0; i < file->count && r == 0; i++) {
        struct gguf_string bytes = tokenizer_bytes(tokenizer, file->ids[i]);
        r = text_output_append(&user, bytes.bytes, bytes.size, failure);
    }
    if (r == 0 && file->count > 0 && options->prompt)
        r = text_output_append(&user, "\n\n", 2, failure);
    if (r == 0 && options->prompt)
        r = text_output_append(&user, options->prompt, strlen(options->prompt), failure);
    if (r == 0)
        r = chat_encode(tokenizer, options->system, user.text ? user.text : "", user.size, &generate->prompt, lost,
                        failure);
    text_output_deinit(&user);
    return r;
}

static int generate_encode_plain(struct generate *generate, const struct token_list *file, size_t *lost,
                                 struct failure *failure) {
    const struct options *options = generate->engine->options;
    const struct tokenizer *tokenizer = generate->engine->tokenizer;
    int r = 0;
    if (tokenizer->begin != VOCABULARY_NONE)
        r = token_list_append(&generate->prompt, tokenizer->begin, failure);
    for (size_t i = 0; i < file->count && r == 0; i++)
        r = token_list_append(&generate->prompt, file->ids[i], failure);
    if (r == 0 && options->prompt)
        r = tokenizer_encode(tokenizer, options->prompt, strlen(options->prompt), &generate->prompt, lost, failure);
    return r;
}

static int generate_encode(struct generate *generate, struct failure *failure) {
    struct token_list file = {0};
    size_t lost = 0, lost_prompt = 0;
    int r = generate_encode_file(generate, &file, &lost, failure);
    if (r == 0)
        r = generate->engine->options->chat ? generate_encode_chat(generate, &file, &lost_prompt, failure)
                                            : generate_encode_plain(generate, &file, &lost_prompt, failure);
    token_list_deinit(&file);
    if (r == 0 && generate->prompt.count == 0)
        return failure_set(failure, SCISSOR_EINVAL, "the text is empty; there is nothing to go on with");
    if (r == 0 && lost + lost_prompt > 0)
        fprintf(stderr, "scissor-run: %zu bytes of the text have no token in this model and are left out\n",
                lost + lost_prompt);
    return r;
}

/* ---------- new text ---------- */

static int generate_pick(void *context, size_t position, const float *logits, struct failure *failure) {
    struct generate *generate = context;
    (void)position;
    (void)failure;
    generate->next = sampler_pick(generate->sampler, logits);
    return 0;
}

static int generate_pick_first(void *context, size_t position, const float *logits, struct failure *failure) {
    struct generate *generate = context;
    int r = logits_file_append(generate->logits_file, logits, generate->engine->model->shape.vocabulary, failure);
    return r == 0 ? generate_pick(context, position, logits, failure) : r;
}

static int generate_write(struct generate *generate, struct failure *failure) {
    const struct engine *engine = generate->engine;
    int r = 0;
    while (r == 0 && generate->written < engine->options->new_tokens &&
           !tokenizer_is_end(engine->tokenizer, generate->next)) {
        struct gguf_string bytes = tokenizer_bytes(engine->tokenizer, generate->next);
        r = text_output_append(&generate->output, bytes.bytes, bytes.size, failure);
        generate->written++;
        if (r == 0 && generate->written < engine->options->new_tokens)
            r = engine_read(generate->engine, &generate->next, 1, 0, generate_pick, generate, failure);
    }
    int finished = text_output_finish(&generate->output, failure);
    return r == 0 ? finished : r;
}

static int generate_both(struct generate *generate, struct failure *failure) {
    struct engine *engine = generate->engine;
    const struct token_list *prompt = &generate->prompt;
    size_t tokens = prompt->count + engine->options->new_tokens;
    if (tokens > engine->model->shape.context)
        fprintf(stderr, "scissor-run: %zu tokens are more than the %u that the model was trained for\n", tokens,
                engine->model->shape.context);
    int r = engine_attach(engine, tokens, 1, failure);
    if (r == 0)
        r = sampler_new(engine->model->shape.vocabulary, engine->options->temperature, engine->options->top_p,
                        engine->options->seed, &generate->sampler, failure);
    if (r == 0)
        r = logits_file_open(engine->options->logits_out, &generate->logits_file, failure);
    if (r == 0)
        r = engine_read(engine, prompt->ids, prompt->count, prompt->count - 1, generate_pick_first, generate, failure);
    int closed = logits_file_close(generate->logits_file, failure);
    if (r == 0)
        r = closed;
    return r == 0 ? generate_write(generate, failure) : r;
}

int generate_run(struct engine *engine, struct failure *failure) {
    struct generate generate = {.engine = engine, .output.stream = engine->options->json ? NULL : stdout};
    int r = generate_encode(&generate, failure);
    if (r == 0)
        r = generate_both(&generate, failure);
    if (r == 0 && generate.output.stream && generate.output.size > 0)
        putchar('\n');
    if (r == 0) {
        const struct report report = {.tokens_read = generate.prompt.count,
                                      .tokens_written = generate.written,
                                      .text = generate.output.text ? generate.output.text : "",
                                      .text_size = generate.output.size};
        r = report_write(&report, engine, failure);
    }
    sampler_free(generate.sampler);
    token_list_deinit(&generate.prompt);
    text_output_deinit(&generate.output);
    return r;
}
