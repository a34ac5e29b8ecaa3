/* Products with a weight small enough for a processor's own cache, in fp32; see `products.py`. Every sum is in the
 * order of its index, however many rows are multiplied. Columns are in whole vectors. */
#include "products.h"

#define CHUNK 96 /* rows multiplied by one block of columns after another, while both are in the nearest cache */
#define SHARE (4 * NR) /* rows of a result that one thread computes, */
#define TOKENS 288 /* from so many tokens at a time */
#define LEAST 262144 /* multiplications from which on several threads pay */

/* y [m, n] = x [m, k] b, where b [k, n] has its rows `ldb` apart and its vectors of columns `apart` */
void multiply(const float *x, const float *b, float *y, int64_t m, int64_t k, int64_t n, int64_t ldb, int64_t apart) {
#pragma omp parallel for schedule(static) if (m * k * n > LEAST)
    for (int64_t from = 0; from < m; from += CHUNK) {
        int64_t to = m < from + CHUNK ? m : from + CHUNK;
#define CALL(r, v) product_block(r, v, 0, x + row * k, k, 1, b + at / W * apart, ldb, apart, k, y + row * n + at, n)
#define BODY(v) OVER_ROWS(from, to, CALL, v)
        BY_COLUMNS(n, BODY)
#undef BODY
#undef CALL
    }
}

/* out [k, n] = g^T x, g [m, k], x [m, n]: neither has to be transposed for it */
void outer(const float *g, const float *x, float *out, int64_t m, int64_t k, int64_t n) {
    memset(out, 0, sizeof(float) * k * n);
#pragma omp parallel for schedule(static) if (m * k * n > LEAST)
    for (int64_t first = 0; first < k; first += SHARE)
        for (int64_t from = 0; from < m; from += TOKENS) {
            int64_t some = m - from < TOKENS ? m - from : TOKENS, end = k < first + SHARE ? k : first + SHARE;
            const float *part = g + from * k, *rows = x + from * n;
#define CALL(r, v) product_block(r, v, 1, part + row, 1, k, rows + at, n, W, some, out + row * n + at, n)
#define BODY(v) OVER_ROWS(first, end, CALL, v)
            BY_COLUMNS(n, BODY)
#undef BODY
#undef CALL
        }
}
