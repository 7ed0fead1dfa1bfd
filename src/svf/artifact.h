/* artifact.h - an adapted model on disk: a manifest, one checkpoint per tensor in the target's orientation, the head.
 */
#ifndef ST_SVF_ARTIFACT_H
#define ST_SVF_ARTIFACT_H

#include "svf/inputs.h"

#define ST_SVF_MANIFEST "manifest.json"
#define ST_SVF_HEAD_FILE "router_head.safetensors"
#define ST_SVF_CHECKPOINTS "checkpoints"

struct st_svf_checkpoint {
	const char *source_name, *target_name;
	uint64_t rows, cols; /* of the source, [out, in] */
	bool turned;         /* stored [in, out] */
	struct st_container *c;
	const struct st_tensor *t;
};

struct st_svf_artifact {
	const char *dir;
	json_t *manifest;
	char manifest_sha256[65];
	struct st_svf_checkpoint *tensors;
	size_t n;
	struct st_container *head_file;
	const struct st_tensor *head; /* [agents + roles, hidden] */
	struct st_arena arena;
};
/* Reads the manifest and verifies every digest, shape and type; an incomplete artifact is refused. */
ST_MUST_CHECK enum st_status st_svf_artifact_open(const char *dir, struct st_svf_artifact *a, struct st_error *err);
void st_svf_artifact_close(struct st_svf_artifact *a);

#endif
