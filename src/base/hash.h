/* hash.h - SHA-256 (OpenSSL) as the formats use it. */
#ifndef ST_BASE_HASH_H
#define ST_BASE_HASH_H

#include <stele/status.h>

struct st_sha256;

struct st_sha256 *st_sha256_new(void); /* NULL when out of memory */
void st_sha256_update(struct st_sha256 *h, const void *p, uint64_t n);
void st_sha256_final(struct st_sha256 *h, uint8_t digest[32]); /* frees h */
void st_hex(const uint8_t *bytes, size_t n, char *out);        /* 2n + 1 chars, lower case */
/* One range, hashed in pieces so that st_cancel() is heard. */
ST_MUST_CHECK enum st_status st_sha256_hex(const void *p, uint64_t n, char hex[65], struct st_error *err);

#endif
