#include "base/hash.h"

#include "base/error.h"

#include <openssl/evp.h>

#define PIECE ((uint64_t)64 << 20)

struct st_sha256 *st_sha256_new(void)
{
	EVP_MD_CTX *c = EVP_MD_CTX_new();
	if (c && EVP_DigestInit_ex(c, EVP_sha256(), NULL) != 1) {
		EVP_MD_CTX_free(c);
		c = NULL;
	}
	return (struct st_sha256 *)c;
}

void st_sha256_update(struct st_sha256 *h, const void *p, uint64_t n)
{
	EVP_DigestUpdate((EVP_MD_CTX *)h, p, (size_t)n);
}

void st_sha256_final(struct st_sha256 *h, uint8_t digest[32])
{
	EVP_DigestFinal_ex((EVP_MD_CTX *)h, digest, NULL);
	EVP_MD_CTX_free((EVP_MD_CTX *)h);
}

void st_hex(const uint8_t *bytes, size_t n, char *out)
{
	static const char digits[] = "0123456789abcdef";
	for (size_t i = 0; i < n; i++) {
		out[2 * i] = digits[bytes[i] >> 4];
		out[2 * i + 1] = digits[bytes[i] & 15];
	}
	out[2 * n] = '\0';
}

enum st_status st_sha256_hex(const void *p, uint64_t n, char hex[65], struct st_error *err)
{
	struct st_sha256 *h = st_sha256_new();
	if (!h)
		return st_fail(err, ST_ERR_NOMEM, "out of memory");
	enum st_status st = ST_OK;
	for (uint64_t at = 0; at < n && st == ST_OK; at += PIECE) {
		st_sha256_update(h, (const uint8_t *)p + at, n - at < PIECE ? n - at : PIECE);
		st = st_check_cancel(err);
	}
	uint8_t digest[32];
	st_sha256_final(h, digest);
	if (st == ST_OK)
		st_hex(digest, 32, hex);
	return st;
}
