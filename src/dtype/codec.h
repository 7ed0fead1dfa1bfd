/* codec.h - the decoders and encoders of all types, for the table in dtype.c.
 * Signatures and meaning as st_dtype_info.decode and .encode. */
#ifndef ST_DTYPE_CODEC_H
#define ST_DTYPE_CODEC_H

#include <stele/dtype.h>

#define ST_DECODER(type) void st_decode_##type(const void *src, float *dst, size_t n)
#define ST_ENCODER(type) void st_encode_##type(const float *src, void *dst, size_t n)
#define ST_WEIGHTED_ENCODER(type) \
	void st_encode_weighted_##type(const float *src, const float *importance, void *dst, size_t n)

/* plain.c */
ST_DECODER(f32);
ST_DECODER(f16);
ST_DECODER(bf16);
ST_DECODER(f64);
ST_DECODER(bool);
ST_DECODER(i8);
ST_DECODER(u8);
ST_DECODER(i16);
ST_DECODER(u16);
ST_DECODER(i32);
ST_DECODER(u32);
ST_DECODER(i64);
ST_DECODER(u64);
ST_DECODER(apart); /* NaN: see apart.h */
ST_ENCODER(f32);
ST_ENCODER(f16);
ST_ENCODER(bf16);
/* The types f32 cannot hold, to f64; false (and nothing done) for all others. */
bool st_decode_wide(enum st_dtype t, const void *src, double *dst, size_t n);

/* float8.c */
ST_DECODER(f8_e4m3);
ST_DECODER(f8_e5m2);

/* legacy.c */
ST_DECODER(q4_0);
ST_DECODER(q4_1);
ST_DECODER(q5_0);
ST_DECODER(q5_1);
ST_DECODER(q8_0);
ST_DECODER(q8_1);
ST_ENCODER(q4_0);
ST_ENCODER(q4_1);
ST_ENCODER(q5_0);
ST_ENCODER(q5_1);
ST_ENCODER(q8_0);

/* legacy_weighted.c */
ST_WEIGHTED_ENCODER(q4_0);
ST_WEIGHTED_ENCODER(q4_1);
ST_WEIGHTED_ENCODER(q5_0);
ST_WEIGHTED_ENCODER(q5_1);

/* kquants.c, kquants_encode.c */
ST_DECODER(q2_k);
ST_DECODER(q3_k);
ST_DECODER(q4_k);
ST_DECODER(q5_k);
ST_DECODER(q6_k);
ST_DECODER(q8_k);
ST_ENCODER(q2_k);
ST_ENCODER(q3_k);
ST_ENCODER(q4_k);
ST_ENCODER(q5_k);
ST_ENCODER(q6_k);
ST_ENCODER(iq4_nl);
ST_ENCODER(iq4_xs);
ST_WEIGHTED_ENCODER(q2_k);
ST_WEIGHTED_ENCODER(q3_k);
ST_WEIGHTED_ENCODER(q4_k);
ST_WEIGHTED_ENCODER(q5_k);
ST_WEIGHTED_ENCODER(q6_k);
ST_WEIGHTED_ENCODER(iq4_nl);
ST_WEIGHTED_ENCODER(iq4_xs);

/* iq4.c, mxfp4.c, aprq.c */
ST_ENCODER(mxfp4);
ST_WEIGHTED_ENCODER(mxfp4);
ST_DECODER(iq4_nl);
ST_DECODER(iq4_xs);
ST_DECODER(mxfp4);
ST_DECODER(nvfp4);
float st_nvfp4_step(uint8_t d); /* what the doubled code values are multiplied by */
/* iq1.c, iq2.c, iq3.c, ternary.c */
ST_DECODER(iq1_s);
ST_DECODER(iq1_m);
ST_DECODER(iq2_xxs);
ST_DECODER(iq2_xs);
ST_DECODER(iq2_s);
ST_DECODER(iq3_xxs);
ST_DECODER(iq3_s);
ST_DECODER(tq1_0);
ST_DECODER(tq2_0);
ST_DECODER(apr_q4);
ST_DECODER(apr_q8);
ST_ENCODER(apr_q4);
ST_ENCODER(apr_q8);

#endif
