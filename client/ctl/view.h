/* view.h - what the daemon tells, for people. */
#pragma once

#include "link.h"
#include "out.h"

void ctl_view_pool(struct out *o, const struct proto_pool_stat *p);
/* Two lines: what `top` has above its table. */
void ctl_view_pool_brief(struct out *o, const struct proto_pool_stat *p);

/* `rate`: tokens a second per session, or NULL. */
void ctl_view_sessions(struct out *o, const struct proto_session_stat *sessions, const double *rate, size_t count);
void ctl_view_session(struct out *o, const struct proto_session_stat *s);
/* One line for each head, or one for each layer. */
void ctl_view_heads(struct out *o, const struct proto_head_stat *heads, size_t count);
void ctl_view_layers(struct out *o, const struct proto_head_stat *heads, size_t count);

void ctl_view_event(struct out *o, const struct proto_event *e);
