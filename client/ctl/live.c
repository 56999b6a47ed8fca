/* live.c - a flag set by signals. Handlers are set without SA_RESTART, so that nanomsg and nanosleep() return. The flag
 * may be set just before a wait begins; every wait here ends within about a second by itself, and looks again. */
#include "live.h"

#include <signal.h>
#include <stddef.h>
#include <time.h>

static volatile sig_atomic_t live_over;

static void stop(int signal) {
    (void)signal;
    live_over = 1;
}

void ctl_live_begin(void) {
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

bool ctl_live_over(void) {
    return live_over;
}

bool ctl_live_sleep(unsigned ms) {
    struct timespec wait = {ms / 1000, (long)(ms % 1000) * 1000000};
    if (!live_over)
        nanosleep(&wait, NULL);
    return !live_over;
}
