/* cuda_false_daemon.h - a daemon that lies about a device to libscissor, which has a real driver (tests/fakecuda). */
#pragma once

/* Tells all lies to a client in this process, which must hear an error of each, and have nothing more open afterwards.
 * Ends the process, whose driver must not be loaded yet. */
void false_daemon_play(void);
