/* eval_report.h - an evaluation's figures, as a table for people or as JSON.
 *
 * The JSON is one object: model, tokens, score_from, seconds and `configurations`, each with what it is, `texts` (one
 * object a text), `mean` (the same keys) and `interval` (95 % bootstrap intervals of the mean; null for one text). */
#pragma once

#include <stdio.h>

#include "evaluation.h"

/* Memory for the intervals may lack: they are left out then. */
void eval_report_json(const struct evaluation *evaluation, FILE *stream);
void eval_report_table(const struct evaluation *evaluation, FILE *stream);

/* Of --task passkey, either form as the options say. A configuration has `depths`, each with the numbers of texts of
 * which the full cache had the number (`full`) and the session had it, too (`solved`), and the sums of these. */
void eval_report_passkey(const struct evaluation *evaluation, FILE *stream);

/* Of --pool, either form as the options say: `ways`, each with `texts` (one object a session), their `mean`, and the
 * session that lost most (`worst`). */
void eval_report_pool(const struct evaluation *evaluation, FILE *stream);
