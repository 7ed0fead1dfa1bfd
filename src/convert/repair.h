/*
 * repair.h - undoing what a report of rosetta found.
 */
#ifndef ST_CONVERT_REPAIR_H
#define ST_CONVERT_REPAIR_H

#include "convert/convert.h"

struct st_repair;
/* Read the report and find out which input it is; change v->dst.cfg, open v->src.other. Before st_plan_jobs. */
ST_MUST_CHECK enum st_status st_repair_open(struct st_conversion *v, struct st_repair **out, struct st_error *err);
/* Change the jobs of the tensors at fault. */
ST_MUST_CHECK enum st_status st_repair_apply(struct st_repair *r, struct st_conversion *v, struct st_error *err);
void st_repair_close(struct st_repair *r);

#endif
