/* page.h - a model that is made up from its family's page. */
#ifndef ST_SYNTH_PAGE_H
#define ST_SYNTH_PAGE_H

#include "arch/described.h"
#include "base/mem.h"

/* A tensor of the file, in memory as F32. */
struct st_synth_image {
	const char *name;
	int32_t layer;
	uint32_t rank;
	uint64_t dims[ST_WEIGHT_RANK];
	uint32_t n_label; /* what files say of its shape; 0: that */
	uint64_t label[ST_SOURCE_LABEL];
	float *data;
	bool turned, less_one, paired; /* how it is stored: transposed, less 1, rotary pairs side by side */
	uint32_t heads;                /* that all lie in pairs; 0: none, or a part of each */
	bool matrix;                   /* of products, or rows that are looked up */
	const char *weight; /* the one weight that all of it is, as the page calls it; NULL: several share it */
};

/* The tensors of a container, and the page bound to them. */
struct st_synth_layout {
	struct st_synth_image *images;
	size_t n, cap;
	float *numbers;
	struct st_container c;
	bool last_names; /* of those that the page gives to a tensor */
	struct st_described *bound;
};

struct st_synth_page {
	struct st_arena arena;
	struct st_family *family;
	json_t *config; /* what config.json says of the model */
	char *path;
	struct st_container source; /* that, as a container without tensors... */
	struct st_described said;   /* ...and its settings */
	bool reading;
	bool stretched; /* its rotation is */
	struct st_synth_layout file;
};

/* p: zeroed. By the name of a page, or by a config.json; in the former case sizes are small. Close it whatever comes. */
ST_MUST_CHECK enum st_status st_synth_page_open(struct st_synth_page *p, const char *name, const char *config,
                                                struct st_error *err);
/* Have the file say another number for a key; false where the file has no such key. */
bool st_synth_page_say(struct st_synth_page *p, const char *key, double value);
/* A key's value as the model has it; false where it is no number. */
bool st_synth_page_number(const struct st_synth_page *p, const char *key, double *out);
/* Have config.json say of each key what it says of the other (`apply`); false where it does not say both. */
bool st_synth_page_exchange(struct st_synth_page *p, const char *one, const char *other, bool apply);
/* An element of a view of the model's numbers. */
float *st_synth_element(const struct st_tensor *t, uint64_t row, uint64_t col);
/* How GGUF calls the family; "" where it does not. */
const char *st_synth_page_gguf_name(const struct st_synth_page *p);
/* The tensors of the file with their numbers; keys: of a GGUF file. What that container cannot say is refused. */
ST_MUST_CHECK enum st_status st_synth_page_make(struct st_synth_page *p, enum st_format to,
                                                const struct st_kv_table *keys, uint64_t seed, struct st_error *err);
void st_synth_page_close(struct st_synth_page *p);

#endif
