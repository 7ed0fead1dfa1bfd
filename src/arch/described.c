/* described.c - opening a container by a description of its family. */
#include "arch/described.h"

#include "base/error.h"

#include <stdlib.h>

static enum st_status bind(struct st_described *d, const struct st_family *family, struct st_error *err)
{
	d->family = family;
	if (!family)
		ST_TRY(st_described_family(d->c, &d->owned, err));
	if (!family && !d->owned)
		return st_fail(err, ST_ERR_UNSUPPORTED, "is of no family that is built in");
	if (!family)
		d->family = d->owned;
	ST_TRY(st_described_settings(d, err));
	ST_TRY(st_described_weights(d, err));
	return st_described_graph(d, err);
}

enum st_status st_described_open(const struct st_container *c, const struct st_family *family,
                                 struct st_described **out, struct st_error *err)
{
	struct st_described *d = st_alloc_zeroed(1, sizeof *d);
	ST_NEED(d);
	st_arena_init(&d->arena);
	d->c = c;
	enum st_status st = bind(d, family, err);
	if (st != ST_OK) {
		st_error_in(err, c->path);
		st_described_close(d);
		return st;
	}
	*out = d;
	return ST_OK;
}

void st_described_close(struct st_described *d)
{
	if (!d)
		return;
	st_family_close(d->owned);
	st_arena_release(&d->arena);
	free(d);
}
