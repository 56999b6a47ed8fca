/* main.c - scissord: options, limits of the process, the broker, and the loop. */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include "backend.h"
#include "broker/broker.h"
#include "daemon/config.h"
#include "daemon/front.h"
#include "daemon/log.h"
#include "daemon/loop.h"
#include "daemon/options.h"
#include "daemon/rundir.h"
#include "daemon/service.h"
#include "daemon/store.h"
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

/* A pool on a device takes no memory of the machine but for what is written down about it; its driver takes some. */
#define MAIN_DRIVER_BYTES (1ull << 30)

/* What a job works with while it runs: some 40 bytes for each slot of one head, of a million of them. */
#define MAIN_JOB_BYTES (48u << 20)

/* Threads that run jobs: libuv's, as many as it is told, or else one per core. */
static long main_workers(void) {
    const char *told = getenv("UV_THREADPOOL_SIZE");
    long workers = told ? atol(told) : sysconf(_SC_NPROCESSORS_ONLN);
    return workers < 2 ? 2 : workers > 1024 ? 1024 : workers;
}

/* The pool, all that is charged to it included; and what is not: programs, libraries, packets on their way, the front
 * with its ring, running jobs. */
static uint64_t main_memory_max(const struct daemon_options *options, const struct kernel_backend *backend) {
    uint64_t pool = options->pool_bytes, jobs = (uint64_t)main_workers() * MAIN_JOB_BYTES;
    return pool / 16 + (256u << 20) + jobs + (backend->streams ? MAIN_DRIVER_BYTES : pool);
}

/* ---------- the device ---------- */

/* Never closed: what is in quarantine at the end must stay until the process is gone. */
static struct kernel_backend *main_backend;

/* Opens the device that the options name, and works the pool out if they name none. 0, or -1 with the reason. */
static int main_open_device(struct daemon_options *options, char *why, size_t why_bytes) {
    char text[256], wanted[32], has[32];
    main_backend = kernel_backend_open(options->device, text, sizeof text);
    if (!main_backend) {
        snprintf(why, why_bytes, "%s%s", text, strcmp(options->device, "host") == 0 ? "" : "; use --device host");
        return -1;
    }
    uint64_t most = main_backend->capacity ? main_backend->capacity(main_backend) : UINT64_MAX;
    if (options->pool_bytes > most) {
        snprintf(why, why_bytes, "a pool of %s is more than %s has, which is %s",
                 daemon_size_text(options->pool_bytes, " ", wanted, sizeof wanted), main_backend->device,
                 daemon_size_text(most, " ", has, sizeof has));
        return -1;
    }
    if (options->pool_bytes == 0)
        options->pool_bytes =
            main_backend->capacity ? most / 4 / SCISSOR_SEGMENT_BYTES * SCISSOR_SEGMENT_BYTES : main_default_pool();
    return 0;
}

/* Of a process whose user is another one it can be told that it lives, but no more. */
static bool main_process_gone(pid_t pid, int pidfd) {
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    if (pidfd >= 0)
        return poll(&p, 1, 0) == 1;
    return pid > 0 && kill(pid, 0) < 0 && errno == ESRCH;
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
    snprintf(threads, sizeof threads, "%ld", main_workers());
    setenv("UV_THREADPOOL_SIZE", threads, 0);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN); /* until the loop listens to it */
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

static void main_fill_config(const struct daemon_options *options, struct broker_config *config) {
    broker_config_init(config);
    config->score_wait_ns = options->score_wait_ms * 1000000;
    config->sessions_max = (uint32_t)options->sessions_max;
    config->sessions_per_peer_max =
        (uint32_t)(options->client_sessions_max < options->sessions_max ? options->client_sessions_max
                                                                        : options->sessions_max);
    config->default_policy = options->policy;
    (void)daemon_config_reclaim(options->reclaim, &config->reclaim); /* checked when it was read */
    config->orphan_wait_ns = options->orphan_wait_s * 1000000000u;
}

static bool main_describe_option(void *data, uint32_t i, struct proto_option *ret) {
    return daemon_options_describe(data, i, ret);
}

/* One pool. Gives NULL when it has said why. */
static struct broker *main_make_broker(const struct daemon_options *options, bool pool_worked_out,
                                       struct broker_store *store) {
    struct kernel_backend *host = kernel_host_backend(NULL);
    struct broker_config config;
    struct broker *broker = NULL;
    if (!host) {
        daemon_log(LOG_ERR, "SCISSOR_HOST_PATH names a path that this processor cannot run: %s", strerror(errno));
        return NULL;
    }
    main_fill_config(options, &config);
    config.pools[0] = (struct broker_pool_config){.name = main_backend->name,
                                                  .backend = main_backend,
                                                  .host = host,
                                                  .limit_bytes = options->pool_bytes,
                                                  .worked_out = pool_worked_out && !main_backend->capacity};
    config.process_gone = main_process_gone;
    config.pool_count = 1;
    config.random = main_random;
    config.owner_uid = geteuid();
    config.store = store;
    config.option = main_describe_option;
    config.option_data = (void *)options;
    int r = broker_new(&config, &broker);
    if (r < 0)
        daemon_log(LOG_ERR, "cannot set up the pool: %s", scissor_strerror(r));
    return broker;
}

/* ---------- reload ---------- */

struct main_reload {
    int argc;
    char **argv;
    struct daemon_options *options; /* in force */
    bool pool_worked_out;           /* at the start */
};

static void main_log_change(void *data, const char *name, const char *was, const char *is, bool live) {
    (void)data;
    if (live)
        daemon_log(LOG_NOTICE, "reload: %s is %s now, was %s", name, is, was);
    else
        daemon_log(LOG_WARNING, "reload: %s stays as it is (%s) until the next start", name, *was ? was : "default");
}

/* At SIGHUP. A file that is wrong changes nothing. */
static void main_reload(void *data, struct broker *broker) {
    struct main_reload *reload = data;
    struct daemon_options *options = reload->options, next;
    struct broker_config config;
    char why[512];
    if (daemon_config_load(reload->argc, reload->argv, &next, why, sizeof why) < 0) {
        daemon_log(LOG_ERR, "reload: %s; all values stay as they were", why);
        return;
    }
    main_fill_config(&next, &config);
    int r = broker_reconfigure(broker, &config);
    if (r < 0) {
        daemon_log(LOG_ERR, "reload: %s; all values stay as they were", scissor_strerror(r));
        return;
    }
    if (next.pool_bytes == 0)
        next.pool_bytes = options->pool_bytes; /* the one that was worked out at the start still is right */
    daemon_log_init(next.verbose);
    daemon_options_compare(options, &next, main_log_change, NULL);
    daemon_log(LOG_NOTICE, "reload: %s is in force", *next.config ? next.config : "no configuration file");
    /* What takes a start stays, so that the next reload says so again. */
    next.pool_bytes = options->pool_bytes;
    memcpy(next.dir, options->dir, sizeof next.dir);
    memcpy(next.device, options->device, sizeof next.device);
    next.descriptor_store = options->descriptor_store;
    *options = next;
}

/* ---------- serving ---------- */

/* Sessions of the process before, and what has become of them. */
static void main_take_over(struct broker *broker, struct service_passed *passed) {
    struct proto_pool_stat stat;
    if (passed->count == 0)
        return;
    broker_take_over(broker, passed->kept, passed->count, server_now());
    broker_pool_stat(broker, 0, server_now(), &stat);
    if (stat.taken_over || stat.lost)
        daemon_log(stat.lost ? LOG_WARNING : LOG_NOTICE,
                   "took over %u sessions of the process before; %u could not be taken over", stat.taken_over,
                   stat.lost);
}

/* Whether the next process shall have the sessions. */
static bool main_keeps(const struct daemon_options *options, const struct broker_store *store) {
    bool keeps = service_is_managed() && store->max > 0;
    if (options->descriptor_store && !keeps)
        daemon_log(LOG_WARNING, "descriptor-store is set, but no service manager listens ($NOTIFY_SOCKET): sessions "
                                "end with this process");
    else if (options->descriptor_store && !main_backend->segment_adopt)
        daemon_log(LOG_WARNING,
                   "descriptor-store is set, but what is on %s cannot be kept: sessions end with this "
                   "process",
                   main_backend->device);
    return keeps && main_backend->segment_adopt;
}

static int main_serve(struct main_reload *reload, struct service_passed *passed) {
    const struct daemon_options *options = reload->options;
    char why[256], ready[384], size[32];
    struct rundir rundir;
    struct broker_store store;
    if (rundir_init(&rundir, *options->dir ? options->dir : NULL, passed->attach_fd, why, sizeof why) < 0) {
        daemon_log(LOG_ERR, "%s", why);
        return 1;
    }
    passed->attach_fd = -1; /* the directory's now */
    int status = 1;
    store_init(&store, service_store_max(options->descriptor_store));
    bool keeps = main_keeps(options, &store);
    struct broker *broker = main_make_broker(options, reload->pool_worked_out, service_is_managed() ? &store : NULL);
    if (broker) {
        main_take_over(broker, passed);
        snprintf(ready, sizeof ready, "scissord %s: ready; pool %s of %s memory (%s), sockets in %s", SCISSOR_VERSION,
                 daemon_size_text(options->pool_bytes, " ", size, sizeof size), main_backend->device,
                 main_backend->path, rundir.path);
        status = server_run(&rundir, broker, keeps, ready, main_reload, reload);
    }
    rundir_deinit(&rundir);
    if (status == 0)
        daemon_log(LOG_NOTICE, "ended");
    return status;
}

/* The exit status. */
static int main_print_memory_max(const struct daemon_options *options) {
    struct daemon_options o = *options;
    char why[512];
    if (main_open_device(&o, why, sizeof why) < 0) {
        fprintf(stderr, "scissord: %s\n", why);
        return 1;
    }
    printf("%" PRIu64 "\n", main_memory_max(&o, main_backend));
    return 0;
}

/* What is asked for instead of a daemon; true if it was. */
static bool main_print(const struct daemon_options *options) {
    char devices[128];
    if (options->help)
        daemon_options_help(stdout);
    else if (options->version)
        printf("scissord %s\ndevices: %s\n", SCISSOR_VERSION, kernel_backend_built(devices, sizeof devices));
    else if (*options->man == 'p')
        daemon_policies_man(stdout);
    else if (*options->man == 'c')
        daemon_options_template(stdout);
    else if (*options->man)
        daemon_options_man(stdout, *options->man == '5');
    else if (options->check)
        daemon_options_print(stdout, options);
    else
        return false;
    return true;
}

int main(int argc, char **argv) {
    struct daemon_options options;
    struct main_reload reload = {.argc = argc, .argv = argv, .options = &options};
    struct service_passed passed;
    char why[512], size[32];
    if (argc == 3 && strcmp(argv[1], FRONT_ARGUMENT) == 0)
        return front_main(argv[2]);
    if (daemon_config_load(argc, argv, &options, why, sizeof why) < 0) {
        fprintf(stderr, "scissord: %s\n", why);
        return 2;
    }
    if (main_print(&options))
        return 0;
    if (options.memory_max)
        return main_print_memory_max(&options);
    daemon_log_init(options.verbose);
    main_set_limits();
    int r = service_take_passed(&passed);
    if (r < 0) {
        daemon_log(LOG_ERR, "what $LISTEN_FDS says about descriptors is wrong: %s", strerror(-r));
        return 1;
    }
    reload.pool_worked_out = options.pool_bytes == 0;
    int status = 1;
    if (main_open_device(&options, why, sizeof why) < 0) {
        daemon_log(LOG_ERR, "%s", why);
    } else {
        if (reload.pool_worked_out)
            daemon_log(LOG_NOTICE, "no --pool: taking a quarter of %s memory, %s",
                       main_backend->capacity ? "the GPU's" : "the available",
                       daemon_size_text(options.pool_bytes, " ", size, sizeof size));
        status = main_serve(&reload, &passed);
    }
    service_passed_deinit(&passed);
    return status;
}
