/* config.c - reads the configuration file with inih, line by line, and stops at the first line that is wrong.
 *
 * inih cuts long lines in pieces, joins indented ones to the line before and says only the number of a line that it
 * cannot read; so it gets its lines from here, one at a time, checked and without their indentation. */
#include "daemon/config.h"

#include <errno.h>
#include <ini.h>
#include <string.h>

#include "broker/policy.h"
#include "scissor_error.h"

struct config_reader {
    FILE *file;
    struct daemon_options *options;
    const char *path;
    unsigned line;
    bool wrong; /* `why` is written */
    char *why;
    size_t why_bytes;
};

static void config_refuse(struct config_reader *r, const char *text) {
    if (!r->wrong)
        snprintf(r->why, r->why_bytes, "%s:%u: %s", r->path, r->line, text);
    r->wrong = true;
}

/* inih's fgets: the next line without its indentation, or NULL at the end and after a line that is wrong. */
static char *config_next_line(char *line, int capacity, void *stream) {
    struct config_reader *r = stream;
    size_t used = 0, most = (size_t)capacity - 2; /* without line feed and NUL */
    char message[96];
    int c = r->wrong ? EOF : getc(r->file);
    if (c == EOF)
        return NULL;
    r->line++;
    for (; c != EOF && c != '\n'; c = getc(r->file)) {
        if (used == 0 && (c == ' ' || c == '\t'))
            continue;
        if (c == 0) {
            config_refuse(r, "the line has a zero byte; expected a text file");
            return NULL;
        }
        if (used == most) {
            snprintf(message, sizeof message, "the line is too long; expected at most %zu characters", most);
            config_refuse(r, message);
            return NULL;
        }
        line[used++] = (char)c;
    }
    line[used++] = '\n';
    line[used] = 0;
    return line;
}

int daemon_config_reclaim(const char *rule, enum broker_reclaim *ret) {
    bool lru = strcmp(rule, "lru") == 0;
    if (!lru && strcmp(rule, "attention") != 0)
        return SCISSOR_EINVAL;
    *ret = lru ? BROKER_RECLAIM_LRU : BROKER_RECLAIM_ATTENTION;
    return 0;
}

/* `option` is how the policy was given. */
static int config_check_policy(const char *option, const char *name, char *why, size_t why_bytes) {
    if (policy_lookup(name))
        return 0;
    size_t used = (size_t)snprintf(why, why_bytes, "%s: there is no policy '%s'; there are:", option, name);
    for (size_t i = 0; policy_class_at(i) && used < why_bytes; i++)
        used += (size_t)snprintf(why + used, why_bytes - used, " %s", policy_class_at(i)->name);
    return SCISSOR_EINVAL;
}

/* `option` is how the rule was given. */
static int config_check_reclaim(const char *option, const char *rule, char *why, size_t why_bytes) {
    enum broker_reclaim reclaim;
    if (daemon_config_reclaim(rule, &reclaim) == 0)
        return 0;
    snprintf(why, why_bytes, "%s: there is no rule '%s'; there are: attention lru", option, rule);
    return SCISSOR_EINVAL;
}

static int config_check_word(const char *name, const char *value, char *why, size_t why_bytes) {
    if (strcmp(name, "policy") == 0)
        return config_check_policy(name, value, why, why_bytes);
    return strcmp(name, "reclaim") == 0 ? config_check_reclaim(name, value, why, why_bytes) : 0;
}

static int config_take(void *data, const char *section, const char *name, const char *value) {
    struct config_reader *r = data;
    char why[512];
    if (*section) {
        snprintf(why, sizeof why, "%s stands in a section [%s]; expected no sections", name, section);
        config_refuse(r, why);
    } else if (daemon_options_set_from_file(r->options, name, value, why, sizeof why) < 0 ||
               config_check_word(name, value, why, sizeof why) < 0)
        config_refuse(r, why);
    return !r->wrong;
}

int daemon_config_read(struct daemon_options *options, char *why, size_t why_bytes) {
    bool named = *options->config;
    const char *path = named ? options->config : DAEMON_CONFIG_FILE;
    FILE *file = fopen(path, "re");
    if (!file) {
        if (!named && errno == ENOENT)
            return 0;
        snprintf(why, why_bytes, "cannot read %s: %s", path, strerror(errno));
        return SCISSOR_EINVAL;
    }
    struct config_reader reader = {.file = file, .options = options, .path = path, .why = why, .why_bytes = why_bytes};
    int r = ini_parse_stream(config_next_line, &reader, config_take, &reader);
    if (r > 0 && (!reader.wrong || (unsigned)r < reader.line)) {
        reader.line = (unsigned)r; /* not a "name = value", and inih went on after it */
        reader.wrong = false;
        config_refuse(&reader, "expected NAME = VALUE");
    } else if (!reader.wrong && (r < 0 || ferror(file))) {
        snprintf(why, why_bytes, "cannot read %s: %s", path, strerror(errno));
        reader.wrong = true;
    }
    fclose(file);
    if (!named)
        snprintf(options->config, sizeof options->config, "%s", DAEMON_CONFIG_FILE);
    return reader.wrong ? SCISSOR_EINVAL : 0;
}

int daemon_config_load(int argc, char **argv, struct daemon_options *ret, char *why, size_t why_bytes) {
    struct daemon_options options;
    int r = daemon_options_parse(argc, argv, &options, why, why_bytes);
    if (r == 0)
        r = config_check_policy("--policy", options.policy, why, why_bytes);
    if (r == 0)
        r = config_check_reclaim("--reclaim", options.reclaim, why, why_bytes);
    if (r == 0 && !options.help && !options.version && !*options.man)
        r = daemon_config_read(&options, why, why_bytes);
    if (r == 0)
        *ret = options;
    return r;
}
