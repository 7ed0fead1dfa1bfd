/*
 * stele/dtype.h - what a number looks like in a file, and views of stored tensors.
 */
#ifndef STELE_DTYPE_H
#define STELE_DTYPE_H

#include <stele/status.h>

enum st_dtype {
	ST_DTYPE_F32,
	ST_DTYPE_F16,
	ST_DTYPE_BF16,
	ST_DTYPE_F64,
	ST_DTYPE_F8_E4M3,
	ST_DTYPE_F8_E5M2,
	ST_DTYPE_BOOL,
	ST_DTYPE_I8,
	ST_DTYPE_U8,
	ST_DTYPE_I16,
	ST_DTYPE_U16,
	ST_DTYPE_I32,
	ST_DTYPE_U32,
	ST_DTYPE_I64,
	ST_DTYPE_U64,
	ST_DTYPE_Q4_0,
	ST_DTYPE_Q4_1,
	ST_DTYPE_Q5_0,
	ST_DTYPE_Q5_1,
	ST_DTYPE_Q8_0,
	ST_DTYPE_Q8_1,
	ST_DTYPE_Q2_K,
	ST_DTYPE_Q3_K,
	ST_DTYPE_Q4_K,
	ST_DTYPE_Q5_K,
	ST_DTYPE_Q6_K,
	ST_DTYPE_Q8_K,
	ST_DTYPE_IQ4_NL,
	ST_DTYPE_IQ4_XS,
	ST_DTYPE_MXFP4,
	ST_DTYPE_APR_Q4,
	ST_DTYPE_APR_Q8,
	ST_DTYPE_NVFP4,
	ST_DTYPE_IQ1_S,
	ST_DTYPE_IQ1_M,
	ST_DTYPE_IQ2_XXS,
	ST_DTYPE_IQ2_XS,
	ST_DTYPE_IQ2_S,
	ST_DTYPE_IQ3_XXS,
	ST_DTYPE_IQ3_S,
	ST_DTYPE_TQ1_0,
	ST_DTYPE_TQ2_0,
	/* Of other programs: codes and factors in several tensors (ST_LAYOUT_APART). */
	ST_DTYPE_GPTQ,
	ST_DTYPE_AWQ,
	ST_DTYPE_MLX,
	ST_DTYPE_CT_PACK,   /* compressed-tensors, pack-quantized */
	ST_DTYPE_BNB4,      /* bitsandbytes: NF4, FP4 */
	ST_DTYPE_F8_SCALED, /* FP8 under factors */
	ST_DTYPE_I8_SCALED, /* int8 under factors */
	ST_DTYPE_COUNT
};

enum st_dtype_kind { ST_KIND_FLOAT, ST_KIND_INT, ST_KIND_QUANT };

struct st_dtype_info {
	const char *name; /* "Q4_K": as printed and as accepted by --type */
	enum st_dtype_kind kind;
	uint32_t block_elems; /* elements per block; 1 for plain types */
	uint32_t block_bytes;
	/* Decode n elements (a multiple of block_elems) to f32; exact for every type whose
	 * values f32 holds. ints and F64 round to nearest even. Never NULL. */
	void (*decode)(const void *src, float *dst, size_t n);
	/* Encode n elements (a multiple of block_elems); NULL where Stele does not write the type. */
	void (*encode)(const float *src, void *dst, size_t n);
	/* RMS relative error of storing N(0,1) data this way; 0 for F32, F64 and integers.
	 * Used as the predicted size of storage noise. */
	double storage_rel_rms;
};

/* Row of the table; t < ST_DTYPE_COUNT. */
const struct st_dtype_info *st_dtype_info(enum st_dtype t);
/* Case-insensitive; returns false for an unknown name. */
bool st_dtype_parse(const char *name, enum st_dtype *out);

#define ST_MAX_DIMS 8

enum st_layout {
	ST_LAYOUT_ROWS,    /* each row (last dimension) begins at a block; rows are row_bytes apart */
	ST_LAYOUT_FLAT,    /* blocks run over the whole tensor; a row may begin inside one */
	ST_LAYOUT_STRIDED, /* plain types only; `strides` in elements */
	ST_LAYOUT_APART,   /* matrices whose codes (at `data`) and factors lie in several tensors: see `apart` */
};

struct st_apart;

/*
 * A view of one stored tensor. The bytes belong to the container's map and live until
 * the container is closed. Shapes are row-major, outermost dimension first: a weight
 * matrix is [out, in] whatever order the file lists its dimensions in.
 */
struct st_tensor {
	const char *name; /* as in the file */
	enum st_dtype dtype;
	enum st_layout layout;
	uint32_t ndim; /* 0 = scalar */
	uint64_t shape[ST_MAX_DIMS];
	uint64_t file_dims[ST_MAX_DIMS]; /* as the file lists them, for reports */
	int64_t strides[ST_MAX_DIMS];    /* ST_LAYOUT_STRIDED only */
	uint64_t n_elems;                /* product of shape; 1 for a scalar */
	uint64_t n_bytes;                /* bytes at data; checked against the file */
	uint64_t row_bytes;              /* ST_LAYOUT_ROWS only */
	float scale;                     /* one factor on every element; 1 except for ST_DTYPE_APR_Q8 */
	const uint8_t *data;             /* any alignment */
	const struct st_apart *apart;    /* ST_LAYOUT_APART only: the parts, which live as long as data */
	uint64_t offset;                 /* of data in its file */
	uint32_t file;                   /* index of that file in the container (shards) */
};

/* Rows are runs along the last dimension: cols = shape[ndim-1] (1 for a scalar). */
uint64_t st_tensor_cols(const struct st_tensor *t);
uint64_t st_tensor_rows(const struct st_tensor *t);

/* Decode rows [row0, row0 + n_rows) to dst, n_rows * cols floats. In range or it asserts. */
void st_tensor_decode(const struct st_tensor *t, uint64_t row0, uint64_t n_rows, float *dst);
/* The same in f64: exact for F64 and for integers up to 2^53. */
void st_tensor_decode_f64(const struct st_tensor *t, uint64_t row0, uint64_t n_rows, double *dst);

#endif
