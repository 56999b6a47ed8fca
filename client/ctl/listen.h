/* listen.h - a listening socket for `scissorctl metrics`, which nobody on another machine can reach. */
#pragma once

struct ctl_listener {
    int socket;
    char path[108];  /* of a Unix socket that was made here, removed by ctl_listener_close(); or empty */
    char shown[160]; /* the address with the port that it got */
};

/* ADDR as in `scissorctl help metrics`. An enum ctl_exit, having said what is wrong. */
int ctl_listener_open(const char *address, struct ctl_listener *ret);
void ctl_listener_close(struct ctl_listener *l);
