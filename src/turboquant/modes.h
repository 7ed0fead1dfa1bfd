/* modes.h - the modes of st_replay_run. Each fills the report; what is left to do before and after is replay.c's. */
#ifndef ST_TURBOQUANT_MODES_H
#define ST_TURBOQUANT_MODES_H

#include "turboquant/run.h"

typedef enum st_status (*st_mode_fn)(struct st_replay_run *r, struct st_error *err);

/* Whether the options that only this mode has make sense; before anything is read. */
ST_MUST_CHECK enum st_status st_singlestep_check(struct st_replay_run *r, struct st_error *err);
ST_MUST_CHECK enum st_status st_production_check(struct st_replay_run *r, struct st_error *err);
ST_MUST_CHECK enum st_status st_make_check(struct st_replay_run *r, struct st_error *err);

ST_MUST_CHECK enum st_status st_replay_singlestep(struct st_replay_run *r, struct st_error *err);
ST_MUST_CHECK enum st_status st_replay_against(struct st_replay_run *r, struct st_error *err);
ST_MUST_CHECK enum st_status st_replay_multistep(struct st_replay_run *r, struct st_error *err);
ST_MUST_CHECK enum st_status st_replay_production(struct st_replay_run *r, struct st_error *err);
ST_MUST_CHECK enum st_status st_replay_lint(struct st_replay_run *r, struct st_error *err);
ST_MUST_CHECK enum st_status st_replay_make(struct st_replay_run *r, struct st_error *err);
ST_MUST_CHECK enum st_status st_replay_gate(struct st_replay_run *r, struct st_error *err);

#endif
