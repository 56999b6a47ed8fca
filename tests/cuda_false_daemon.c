/* cuda_false_daemon.c - see cuda_false_daemon.h.
 *
 * The daemon is the fake one (fake_daemon.h) in a thread; a hook forges its packets. What it says of memory and events
 * are another process's, so that some of it can be opened. */
#include "cuda_false_daemon.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client_set_up.h"
#include "cuda_attackers.h"
#include "cuda_roles.h"
#include "fake_device.h"
#include "harness.h"

static struct fake fake;

/* What the hook puts into the packets. */
static struct lie {
    char device[PROTO_DEVICE_BYTES];
    uint8_t events[2][64], memory[64];
    uint64_t bytes;
} lie, truth;

static enum fake_verdict forge(struct fake *f, uint16_t type, struct fake_packet *p) {
    struct proto_opened opened;
    (void)f;
    EDIT_SEGMENT(bytes, lie.bytes)
    if (type == PROTO_GROW)
        memcpy(p->bytes + 24 + offsetof(struct proto_segment, handle), lie.memory, sizeof lie.memory);
    if (type != PROTO_OPENED)
        return FAKE_SEND;
    memcpy(&opened, p->bytes + sizeof(struct proto_header), sizeof opened);
    memcpy(opened.device, lie.device, sizeof lie.device);
    memcpy(opened.events, lie.events, sizeof lie.events);
    memcpy(p->bytes + sizeof(struct proto_header), &opened, sizeof opened);
    return FAKE_SEND;
}

/* ---------- the other process, which has some memory ---------- */

static void exporter(void) {
    cuda_stream stream;
    const struct cuda_driver *driver = role_driver(&stream);
    cuda_address memory = role_memory(driver, SCISSOR_SEGMENT_BYTES);
    role_say_memory(driver, memory);
    for (int i = 0; i < 2; i++) {
        cuda_event event;
        cuda_event_handle handle;
        REQUIRE(driver->event_new(&event, CUDA_EVENT_INTERPROCESS | CUDA_EVENT_DISABLE_TIMING) == 0);
        REQUIRE(driver->event_export(&handle, event) == 0);
        role_say(&handle, sizeof handle);
    }
    for (;;)
        pause();
}

static void learn_truth(void) {
    char why[256];
    cuda_memory_handle memory;
    cuda_event_handle event;
    role_hear(&memory, sizeof memory);
    memcpy(truth.memory, memory.reserved, sizeof truth.memory);
    for (int i = 0; i < 2; i++) {
        role_hear(&event, sizeof event);
        memcpy(truth.events[i], event.reserved, sizeof event.reserved);
    }
    struct kernel_backend *b = kernel_backend_open("cuda", why, sizeof why);
    REQUIRE(b);
    proto_text_set(truth.device, sizeof truth.device, b->device);
    kernel_backend_close(b);
    truth.bytes = SCISSOR_SEGMENT_BYTES;
}

/* ---------- lies ---------- */

static struct scissor_client *connected(void) {
    struct scissor_client *client;
    REQUIRE(scissor_connect(fake.dir, &client) == 0);
    return client;
}

static int open_one(struct scissor_client *client, struct scissor_session **ret) {
    struct scissor_session_spec spec = client_spec();
    return scissor_open(client, &spec, ret);
}

/* A client of its own hears the lie, and says what it is. */
static void tell(int code) {
    struct scissor_session *s = NULL;
    struct scissor_client *client = connected();
    int r = open_one(client, &s);
    if (r != code || s)
        fprintf(stderr, "device %.40s, %llu bytes: %s, %s\n", lie.device, (unsigned long long)lie.bytes,
                scissor_errname(r), scissor_last_text(client));
    REQUIRE(r == code && !s);
    REQUIRE(r == SCISSOR_EPROTO || *scissor_last_text(client));
    scissor_disconnect(client);
    lie = truth;
}

static void lie_of_devices(void) {
    static const struct {
        const char *name;
        int code;
    } names[] = {{"", SCISSOR_EPROTO},
                 {"host", SCISSOR_EPROTO}, /* but there are no descriptors */
                 {"cuda", SCISSOR_EPROTO},
                 {"cuda:", SCISSOR_EDEVICE},
                 {"cuda:0", SCISSOR_EPROTO}, /* it is there, and that is not the whole name */
                 {"cuda:99", SCISSOR_EDEVICE},
                 {"cuda:-1", SCISSOR_EDEVICE},
                 {"cuda:99999999999999999999", SCISSOR_EDEVICE},
                 {"cuda:GPU-", SCISSOR_EPROTO},
                 {"cuda:GPU-00000000-0000-0000-0000-000000000000", SCISSOR_EDEVICE},
                 {"cuda:../../etc/passwd", SCISSOR_EDEVICE}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        memset(lie.device, 0, sizeof lie.device);
        strcpy(lie.device, names[i].name);
        tell(names[i].code);
    }
    memset(lie.device, 'x', sizeof lie.device);
    tell(SCISSOR_EPROTO);
    memset(lie.device + strlen(truth.device), '0', sizeof lie.device - strlen(truth.device));
    tell(SCISSOR_EPROTO);
}

static void lie_of_handles(void) {
    static const uint64_t sizes[] = {0, 1, 4096, SCISSOR_SEGMENT_BYTES - 1, 2 * SCISSOR_SEGMENT_BYTES, UINT64_MAX};
    for (int byte = 0; byte < 64; byte += 63) {
        memset(lie.memory, byte, sizeof lie.memory);
        tell(SCISSOR_EDEVICE);
        memset(lie.events[1], byte, sizeof lie.events[1]); /* the first can be opened, and is closed again */
        tell(SCISSOR_EDEVICE);
    }
    memcpy(lie.memory, truth.events[0], sizeof lie.memory);
    tell(SCISSOR_EDEVICE);
    memcpy(lie.events, truth.memory, sizeof truth.memory);
    tell(SCISSOR_EDEVICE);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        lie.bytes = sizes[i];
        tell(SCISSOR_EPROTO);
    }
}

/* One client hears of the same memory for two sessions: it opens it once, and the first session keeps it. */
static void lie_of_two(void) {
    struct scissor_session *first = NULL, *second = NULL;
    struct scissor_client *client = connected();
    for (int i = 0; i < 3; i++) {
        REQUIRE(open_one(client, &first) == 0);
        REQUIRE(open_one(client, &second) == SCISSOR_EDEVICE && !second);
        REQUIRE(strstr(scissor_last_text(client), "open in this process"));
        REQUIRE(scissor_step_begin(first, 1) == 0);
        REQUIRE(scissor_step_end(first) == 0);
        REQUIRE(scissor_close(first) == 0);
    }
    scissor_disconnect(client);
}

static void all_lies(void) {
    lie_of_devices();
    lie_of_handles();
    lie_of_two();
}

void false_daemon_play(void) {
    cuda_stream stream;
    if (role_divide() == 0)
        exporter();
    fake_device_reset();
    REQUIRE(fake_start(&fake) == 0);
    fake.device = fake_device_daemon();
    fake_set_hook(&fake, forge);
    const struct cuda_driver *driver = role_driver(&stream);
    learn_truth();
    lie = truth;
    all_lies(); /* so that all is there that stays for good */
    unsigned events = attackers_events(driver), descriptors = attackers_files("/proc/self/fd"),
             files = attackers_files(getenv("FAKECUDA_DIR"));
    all_lies();
    REQUIRE(attackers_events(driver) == events);
    REQUIRE(attackers_files("/proc/self/fd") == descriptors);
    REQUIRE(attackers_files(getenv("FAKECUDA_DIR")) == files);
    fake_stop(&fake);
    _exit(0);
}
