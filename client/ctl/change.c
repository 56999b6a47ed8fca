/* change.c - the commands that change something: close, drain. They ask for a pass first. */
#include <stdio.h>

#include "change.h"
#include "json.h"
#include "read.h"

int ctl_change_open(struct ctl *ctl, struct ctl_link *link, struct ctl_pass *pass) {
    int status = ctl_link_open(link, ctl->directory);
    if (status)
        return status;
    status = ctl_pass_open(pass, ctl->directory);
    if (status)
        ctl_link_close(link);
    return status;
}

void ctl_change_close(struct ctl_link *link, struct ctl_pass *pass) {
    ctl_pass_close(pass);
    ctl_link_close(link);
}

int ctl_close(struct ctl *ctl) {
    struct ctl_link link;
    struct ctl_pass pass;
    struct proto_session_stat session;
    struct ctl_answer answer;
    int status = ctl_change_open(ctl, &link, &pass);
    if (status)
        return status;
    status = ctl_session_ask(&link, ctl->argument, &session);
    if (status == CTL_DONE)
        status = ctl_link_change(&link, PROTO_OP_CLOSE_SESSION, session.session, pass.is.pass, &answer);
    ctl_change_close(&link, &pass);
    if (status)
        return status;
    ctl_answer_deinit(&answer);
    if (ctl->json)
        return ctl_json_print(json_pack("{s:I}", "closed_session", (json_int_t)session.session), false);
    printf("session %llu is closed\n", (unsigned long long)session.session);
    return CTL_DONE;
}

int ctl_drain(struct ctl *ctl) {
    struct ctl_link link;
    struct ctl_pass pass;
    struct ctl_answer answer;
    int status = ctl_change_open(ctl, &link, &pass);
    if (status)
        return status;
    status = ctl_link_change(&link, PROTO_OP_DRAIN, 0, pass.is.pass, &answer);
    ctl_change_close(&link, &pass);
    if (status)
        return status;
    ctl_answer_deinit(&answer);
    if (ctl->json)
        return ctl_json_print(json_pack("{s:b}", "draining", 1), false);
    printf("scissord takes no new sessions from now on\n");
    return CTL_DONE;
}
