/* scissor_error.h - every code that a function or a message of scissord can give, in one table.
 *
 * 0 is success. A positive code is an ordinary condition that the caller handles; a negative one is a failure of the
 * call. The numbers travel in messages and never change. */
#pragma once

/* X(name, number, text for people: what is wrong and, where it helps, what to do next) */
#define SCISSOR_ERROR_MAP(X)                                                                                      \
    X(OK, 0, "success")                                                                                           \
    X(BUSY, 1, "the memory is lent to other sessions and is being taken back; try again or ask to wait")          \
    X(FULL, 2, "the pool's memory is promised to other sessions; close one, ask for a smaller guarantee or wait") \
    X(DRAINING, 3, "the daemon is draining and takes no new sessions")                                            \
    X(SETTLE_NEEDED, 4, "the fresh buffer has no room for these rows; settle first")                              \
    X(SCORES_LOST, 5, "settled, but some scores of this period never arrived")                                    \
    X(EINVAL, -1, "an argument or a field is out of its range")                                                   \
    X(ENOMEM, -2, "out of memory")                                                                                \
    X(EPROTO, -3, "the peer sent something that the protocol does not allow")                                     \
    X(EVERSION, -4, "client and daemon speak different versions of the protocol")                                 \
    X(EGONE, -5, "the daemon has gone away; reconnect and open again")                                            \
    X(ENODAEMON, -6, "no daemon answers at this socket; start scissord or name its directory")                    \
    X(EPERM, -7, "not allowed")                                                                                   \
    X(ENOSESSION, -8, "there is no such session")                                                                 \
    X(ELIMIT, -9, "a limit of the daemon is reached")                                                             \
    X(ETIMEDOUT, -10, "not done within the time given")                                                           \
    X(ESTATE, -11, "not allowed in this state of the session")                                                    \
    X(ECLOSED, -12, "the session was closed by the operator")                                                     \
    X(ESYSTEM, -13, "a system call failed; errno has the reason")                                                 \
    X(ERESTARTED, -14, "the daemon was started anew and does not have the session any more; open another one")    \
    X(EDEVICE, -15, "this process cannot use the session's GPU")                                                  \
    X(EDEVICELOST, -16, "the GPU failed, and what was on it is lost; open another session when it works again")

#ifdef __cplusplus
extern "C" {
#endif

enum scissor_error {
#define SCISSOR_ERROR_ENUM(name, number, text) SCISSOR_##name = (number),
    SCISSOR_ERROR_MAP(SCISSOR_ERROR_ENUM)
#undef SCISSOR_ERROR_ENUM
};

/* The table's text and name ("EGONE"); of an unknown code, a text that says so. Never NULL; static. */
const char *scissor_strerror(int code);
const char *scissor_errname(int code);

#ifdef __cplusplus
}
#endif
