/* described.c - opening a container by a description of its family. */
#include "arch/described.h"

#include "base/error.h"

#include <stdlib.h>

/* The numbers of all names of stages, in the order of the page. */
static enum st_status number_stages(struct st_described *d, struct st_error *err)
{
	const struct st_family *f = d->family;
	enum st_stage before = ST_STAGE_COUNT;
	d->stage = st_arena_alloc(&d->arena, f->n_stage_names, sizeof *d->stage);
	ST_NEED(d->stage);
	for (uint32_t i = 0; i < f->n_stages; i++) {
		const struct st_family_stage *s = &f->stages[i];
		struct st_error why = ST_ERROR_INIT;
		enum st_stage *number = &d->stage[s->name];
		if (st_stage_of(f->stage_names[s->name], s->scope == ST_SCOPE_LAYER, before, number, &why) != ST_OK)
			return st_described_fail(d, s->line, err, "%s", why.message);
		before = *number;
	}
	return ST_OK;
}

static enum st_status bind(struct st_described *d, const struct st_family *family, struct st_error *err)
{
	d->family = family;
	if (!family)
		ST_TRY(st_described_family(d->c, &d->owned, err));
	if (!family && !d->owned)
		return st_fail(err, ST_ERR_UNSUPPORTED, "is of no family that is built in");
	if (!family)
		d->family = d->owned;
	ST_TRY(number_stages(d, err));
	ST_TRY(st_described_settings(d, err));
	ST_TRY(st_described_weights(d, err));
	d->bound = true;
	if (d->problem.code != ST_OK)
		return ST_OK;
	st_described_rotation(d);
	enum st_status st = st_described_graph(d, &d->problem);
	if (st != ST_ERR_FORMAT && st != ST_OK)
		*err = d->problem;
	return st == ST_ERR_FORMAT ? ST_OK : st;
}

enum st_status st_described_try(const struct st_container *c, const struct st_family *family, struct st_described **out,
                                struct st_error *err)
{
	struct st_described *d = st_alloc_zeroed(1, sizeof *d);
	struct st_error why = ST_ERROR_INIT;
	ST_NEED(d);
	st_arena_init(&d->arena);
	st_error_clear(&d->problem);
	d->c = c;
	enum st_status st = bind(d, family, &why);
	if (st != ST_OK && (st == ST_ERR_NOMEM || !d->family)) {
		*err = why;
		st_error_in(err, c->path);
		st_described_close(d);
		return st;
	}
	if (st != ST_OK)
		d->problem = why;
	*out = d;
	return ST_OK;
}

enum st_status st_described_open_partial(const struct st_container *c, const struct st_family *family,
                                         struct st_described **out, struct st_error *err)
{
	struct st_described *d;
	ST_TRY(st_described_try(c, family, &d, err));
	if (d->bound) {
		*out = d;
		return ST_OK;
	}
	*err = d->problem;
	st_error_in(err, c->path);
	st_described_close(d);
	return err->code;
}

enum st_status st_described_open(const struct st_container *c, const struct st_family *family,
                                 struct st_described **out, struct st_error *err)
{
	struct st_described *d;
	ST_TRY(st_described_open_partial(c, family, &d, err));
	if (d->problem.code == ST_OK) {
		*out = d;
		return ST_OK;
	}
	*err = d->problem;
	st_error_in(err, c->path);
	st_described_close(d);
	return err->code;
}

void st_described_close(struct st_described *d)
{
	if (!d)
		return;
	st_family_close(d->owned);
	st_arena_release(&d->arena);
	free(d);
}
