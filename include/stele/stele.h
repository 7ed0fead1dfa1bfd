/*
 * stele.h - everything libstele offers.
 *
 * Stele evaluates, traces and compares transformer models: two files of one model, or a
 * model and what some engine computed with it. Start at st_rosetta (judge.h) to compare
 * two files, st_trace_run (trace.h) to capture stages, st_container_open (container.h) to look inside.
 */
#ifndef STELE_H
#define STELE_H

#include <stele/status.h>
#include <stele/pool.h>
#include <stele/dtype.h>
#include <stele/container.h>
#include <stele/token.h>
#include <stele/model.h>
#include <stele/trace.h>
#include <stele/compare.h>
#include <stele/judge.h>
#include <stele/explain.h>
#include <stele/family.h>
#include <stele/inspect.h>
#include <stele/diff.h>
#include <stele/replay.h>

#endif
