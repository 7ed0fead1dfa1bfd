/* base/pool: every element once, lanes of their own, loops inside loops, many short jobs in a row. */
#include "test.h"

#include "base/pool.h"

#include <stdatomic.h>

struct marks {
	struct st_pool *pool;
	atomic_uint *seen, *busy;
	atomic_uint calls;
	uint64_t piece;
};

static void mark(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	struct marks *m = ctx;
	assert_true(lane < st_pool_threads(m->pool));
	assert_int_equal(atomic_fetch_add(&m->busy[lane], 1), 0); /* nobody else has this lane */
	assert_true(begin < end);
	for (uint64_t i = begin; i < end; i++)
		atomic_fetch_add(&m->seen[i], 1);
	atomic_fetch_add(&m->calls, 1);
	atomic_fetch_sub(&m->busy[lane], 1);
}

static void test_every_element_once(void **state)
{
	(void)state;
	const uint64_t sizes[] = { 1, 2, 3, 7, 64, 1000, 4099 }, pieces[] = { 0, 1, 3, 64, 5000 };
	static atomic_uint seen[4099], busy[8];
	for (unsigned threads = 1; threads <= 8; threads++) {
		struct st_error err = ST_ERROR_INIT;
		struct st_pool *p;
		assert_ok(st_pool_open(threads, &p, &err), &err);
		assert_int_equal(st_pool_threads(p), threads);
		for (size_t s = 0; s < 7; s++)
			for (size_t k = 0; k < 5; k++) {
				struct marks m = { .pool = p, .seen = seen, .busy = busy };
				st_pool_run(p, sizes[s], pieces[k], mark, &m);
				for (uint64_t i = 0; i < sizes[s]; i++)
					assert_int_equal(atomic_exchange(&seen[i], 0), 1);
				uint64_t piece = pieces[k] ? pieces[k] : 1;
				assert_true(m.calls <= (sizes[s] + piece - 1) / piece && m.calls >= 1);
			}
		st_pool_close(p);
	}
}

static void test_no_pool_is_the_caller(void **state)
{
	(void)state;
	static atomic_uint seen[100], busy[1];
	struct marks m = { .seen = seen, .busy = busy };
	st_pool_run(NULL, 100, 7, mark, &m);
	assert_int_equal(m.calls, 1);
	st_pool_run(NULL, 0, 7, mark, &m);
	assert_int_equal(m.calls, 1);
	assert_int_equal(st_pool_threads(NULL), 1);
	st_pool_close(NULL);
}

/* Thousands of short jobs: a wake-up that is lost, or a worker that joins the wrong job, shows here. */
static void add(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	(void)lane;
	atomic_fetch_add((atomic_ullong *)ctx, end - begin);
}

static void test_many_short_jobs(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	for (unsigned threads = 2; threads <= 5; threads++) {
		struct st_pool *p;
		assert_ok(st_pool_open(threads, &p, &err), &err);
		atomic_ullong sum = 0;
		for (int i = 0; i < 5000; i++) {
			st_pool_run(p, 17, 2, add, &sum);
			assert_true(sum == 17ull * (unsigned)(i + 1));
			if (i % 1000 == 0)
				usleep(300); /* the workers go to sleep */
		}
		st_pool_close(p);
	}
}

static void inner(void *ctx, unsigned lane, uint64_t begin, uint64_t end)
{
	struct marks *m = ctx;
	(void)lane;
	for (uint64_t i = begin; i < end; i++) {
		static _Thread_local atomic_ullong sum;
		sum = 0;
		st_pool_run(m->pool, 10, 1, add, &sum);
		assert_true(sum == 10);
		atomic_fetch_add(&m->seen[i], 1);
	}
}

static void test_a_loop_inside_a_loop(void **state)
{
	(void)state;
	static atomic_uint seen[50];
	struct st_error err = ST_ERROR_INIT;
	struct st_pool *p;
	assert_ok(st_pool_open(3, &p, &err), &err);
	struct marks m = { .pool = p, .seen = seen };
	st_pool_run(p, 50, 1, inner, &m);
	for (int i = 0; i < 50; i++)
		assert_int_equal(seen[i], 1);
	st_pool_close(p);
}

static void test_piece(void **state)
{
	(void)state;
	struct st_error err = ST_ERROR_INIT;
	struct st_pool *p;
	assert_ok(st_pool_open(4, &p, &err), &err);
#ifndef ST_PIECE_OPERATIONS /* the build under the thread sanitizer cuts smaller */
	assert_true(st_pool_piece(p, 100, 1) >= 100); /* not worth a second thread */
#endif
	assert_true(st_pool_piece(p, 1 << 20, 1 << 20) < 1 << 18);
	assert_int_equal(st_pool_piece(NULL, 0, 0) > 0, 1);
	st_pool_close(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_element_once),
		cmocka_unit_test(test_no_pool_is_the_caller),
		cmocka_unit_test(test_many_short_jobs),
		cmocka_unit_test(test_a_loop_inside_a_loop),
		cmocka_unit_test(test_piece),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
