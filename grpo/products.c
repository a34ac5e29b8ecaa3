/* Products with a weight small enough for a processor's own cache, in fp32; see `products.py`. Every sum is in the order
 * of its index, however many rows are multiplied. Columns are in whole vectors. */
#include "products.h"

#define CHUNK 96 /* rows that are multiplied by one block of columns after another, while both are in the nearest cache */
#define SHARE (4 * NR) /* rows of a result that one thread computes, */
#define TOKENS 288 /* from so many tokens at a time */
#define LEAST 262144 /* multiplications from which on several threads pay */

/* y [m, n] = x [m, k] b, where b [k, n] has its rows `ldb` apart and its vectors of columns `apart` */
void multiply(const float *x, const float *b, float *y, int64_t m, int64_t k, int64_t n, int64_t ldb, int64_t apart) {
#pragma omp parallel for schedule(static) if (m * k * n > LEAST)
    for (int64_t from = 0; from < m; from += CHUNK) {
        int64_t to = m < from + CHUNK ? m : from + CHUNK;
#define CALL(r, v) product_block(r, v, x + row * k, k, b + at / W * apart, ldb, apart, k, y + row * n + at, n)
#define BODY(v)                                                                                                      \
    for (int64_t row = from; row < to; row += NR) {                                                                  \
        int nr = to - row < NR ? (int)(to - row) : NR;                                                               \
        BY_ROWS(CALL, v)                                                                                             \
    }
        BY_COLUMNS(n, BODY)
#undef BODY
#undef CALL
    }
}

/* out[r, :] += sum_i g[i, r] x[i, :] for i < m, of nv vectors */
INLINE void outer_block(const int nr, const int nv, const float *g, int64_t ldg, const float *x, int64_t ldx, int64_t m,
                        float *out, int64_t ldo) {
    vec sum[NR][NV];
    for (int r = 0; r < nr; r++)
        for (int v = 0; v < nv; v++) sum[r][v] = load(out + r * ldo + v * W);
    for (int64_t i = 0; i < m; i++) {
        vec row[NV];
        for (int v = 0; v < nv; v++) row[v] = load(x + i * ldx + v * W);
        for (int r = 0; r < nr; r++)
            for (int v = 0; v < nv; v++) sum[r][v] = fused(all(g[i * ldg + r]), row[v], sum[r][v]);
    }
    for (int r = 0; r < nr; r++)
        for (int v = 0; v < nv; v++) store(out + r * ldo + v * W, sum[r][v]);
}

/* out [k, n] = g^T x, g [m, k], x [m, n]: neither has to be transposed for it */
void outer(const float *g, const float *x, float *out, int64_t m, int64_t k, int64_t n) {
    memset(out, 0, sizeof(float) * k * n);
#pragma omp parallel for schedule(static) if (m * k * n > LEAST)
    for (int64_t first = 0; first < k; first += SHARE)
        for (int64_t from = 0; from < m; from += TOKENS) {
            int64_t some = m - from < TOKENS ? m - from : TOKENS, end = k < first + SHARE ? k : first + SHARE;
#define CALL(r, v) outer_block(r, v, g + from * k + row, k, x + from * n + at, n, some, out + row * n + at, n)
#define BODY(v)                                                                                                      \
    for (int64_t row = first; row < end; row += NR) {                                                                \
        int nr = end - row < NR ? (int)(end - row) : NR;                                                             \
        BY_ROWS(CALL, v)                                                                                             \
    }
            BY_COLUMNS(n, BODY)
#undef BODY
#undef CALL
        }
}
