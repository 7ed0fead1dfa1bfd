/* documents.c - the documents beside the weights of a Hugging Face folder, as they are read. */
#include "convert/documents.h"

#include "base/map.h"
#include "format/hf.h"

#include <string.h>
#include <unistd.h>

/* The folder of the input's weights, or "." */
static const char *source_folder(const struct st_input *from, struct st_arena *arena)
{
	const char *path = st_container_file_path(st_model_container(from->model), 0), *slash = strrchr(path, '/');
	return slash ? st_arena_strndup(arena, path, (size_t)(slash - path)) : ".";
}

#define FIRST_OF_VOCABULARY 2

static bool listed(const char *name, size_t first)
{
	for (size_t i = first; i < ST_HF_DOCUMENTS; i++)
		if (strcmp(name, st_hf_names[i]) == 0)
			return true;
	return false;
}

bool st_document_is_kept(const char *name) { return listed(name, 0); }
bool st_document_is_vocabulary(const char *name) { return listed(name, FIRST_OF_VOCABULARY); }

enum st_status st_document_text(const struct st_input *from, struct st_arena *arena, const char *name,
                                const char **text, size_t *len, struct st_error *err)
{
	const char *folder = source_folder(from, arena),
		   *path = folder ? st_arena_printf(arena, "%s/%s", folder, name) : NULL;
	struct st_map m = { 0 };
	*text = NULL;
	*len = 0;
	if (!path)
		return st_no_memory(err);
	if (access(path, F_OK) != 0)
		return ST_OK;
	ST_TRY(st_map_open(&m, path, err));
	*len = (size_t)m.size;
	*text = st_arena_strndup(arena, m.data ? (const char *)m.data : "", *len);
	st_map_close(&m);
	return *text ? ST_OK : st_no_memory(err);
}
