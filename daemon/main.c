/* main.c - scissord: options, limits of the process, the broker, and the loop. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include "backend.h"
#include "broker/broker.h"
#include "broker/policy.h"
#include "daemon/front.h"
#include "daemon/log.h"
#include "daemon/loop.h"
#include "daemon/options.h"
#include "daemon/rundir.h"
#include "scissor_error.h"

/* A quarter of what the kernel says is available, in whole MiB. */
static uint64_t main_default_pool(void) {
    FILE *f = fopen("/proc/meminfo", "re");
    unsigned long long kib = 0;
    char line[128];
    while (f && fgets(line, sizeof line, f) && sscanf(line, "MemAvailable: %llu kB", &kib) != 1)
        ;
    if (f)
        fclose(f);
    uint64_t mib = kib / 4 / 1024;
    return (mib ? mib : 1) << 20;
}

/* Each segment of memory is a descriptor; each running settle wants a thread. */
static void main_set_limits(void) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &files) < 0)
            daemon_log(LOG_WARNING, "cannot raise the limit of descriptors: %s", strerror(errno));
    }
    char threads[24];
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    snprintf(threads, sizeof threads, "%ld", cores < 2 ? 2 : cores);
    setenv("UV_THREADPOOL_SIZE", threads, 0);
    signal(SIGPIPE, SIG_IGN);
}

static int main_check_policy(const char *name, char *why, size_t why_bytes) {
    if (policy_lookup(name))
        return 0;
    size_t used = (size_t)snprintf(why, why_bytes, "--policy: there is no policy '%s'; there are:", name);
    for (size_t i = 0; policy_class_at(i) && used < why_bytes; i++)
        used += (size_t)snprintf(why + used, why_bytes - used, " %s", policy_class_at(i)->name);
    return SCISSOR_EINVAL;
}

static int main_random(void *bytes, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t n = getrandom((char *)bytes + done, size - done, 0);
        if (n < 0 && errno != EINTR)
            return -errno;
        done += n < 0 ? 0 : (size_t)n;
    }
    return 0;
}

/* One pool: the host's memory. Gives NULL when it has said why. */
static struct broker *main_make_broker(const struct daemon_options *options, struct kernel_backend *backend,
                                       const struct rundir *rundir) {
    struct broker_config config;
    struct broker *broker = NULL;
    broker_config_init(&config);
    config.pools[0] =
        (struct broker_pool_config){.name = backend->name, .backend = backend, .limit_bytes = options->pool_bytes};
    config.pool_count = 1;
    config.score_wait_ns = options->score_wait_ms * 1000000;
    config.sessions_max = (uint32_t)options->sessions_max;
    if (config.sessions_per_peer_max > config.sessions_max)
        config.sessions_per_peer_max = config.sessions_max;
    config.default_policy = options->policy;
    config.random = main_random;
    memcpy(config.admin_key, rundir->admin_key, sizeof config.admin_key);
    int r = broker_new(&config, &broker);
    explicit_bzero(config.admin_key, sizeof config.admin_key);
    if (r < 0)
        daemon_log(LOG_ERR, "cannot set up the pool: %s", scissor_strerror(r));
    return broker;
}

static int main_serve(const struct daemon_options *options) {
    char why[256], ready[256], size[32];
    struct rundir rundir;
    struct kernel_backend *backend = kernel_host_backend(NULL);
    if (!backend) {
        daemon_log(LOG_ERR, "SCISSOR_HOST_PATH names a path that this processor cannot run: %s", strerror(errno));
        return 1;
    }
    if (rundir_init(&rundir, options->dir, why, sizeof why) < 0) {
        daemon_log(LOG_ERR, "%s", why);
        return 1;
    }
    int status = 1;
    struct broker *broker = main_make_broker(options, backend, &rundir);
    if (broker) {
        snprintf(ready, sizeof ready, "scissord %s: ready; pool %s of %s memory (%s), sockets in %s", SCISSOR_VERSION,
                 daemon_size_text(options->pool_bytes, " ", size, sizeof size), backend->name, backend->path,
                 rundir.path);
        status = server_run(&rundir, broker, ready);
    }
    rundir_deinit(&rundir);
    if (status == 0)
        daemon_log(LOG_NOTICE, "ended");
    return status;
}

int main(int argc, char **argv) {
    struct daemon_options options;
    char why[256], size[32];
    if (argc == 3 && strcmp(argv[1], FRONT_ARGUMENT) == 0)
        return front_main(argv[2]);
    if (daemon_options_parse(argc, argv, &options, why, sizeof why) < 0 ||
        main_check_policy(options.policy, why, sizeof why) < 0) {
        fprintf(stderr, "scissord: %s\n", why);
        return 2;
    }
    if (options.help) {
        daemon_options_help(stdout);
        return 0;
    }
    if (options.version) {
        printf("scissord %s\n", SCISSOR_VERSION);
        return 0;
    }
    daemon_log_init(options.verbose);
    main_set_limits();
    if (options.pool_bytes == 0) {
        options.pool_bytes = main_default_pool();
        daemon_log(LOG_NOTICE, "no --pool: taking a quarter of the available memory, %s",
                   daemon_size_text(options.pool_bytes, " ", size, sizeof size));
    }
    return main_serve(&options);
}
