/* Products of a few rows at a time, their sums in registers. */
#include "vector.h"

#define NV (W / 4) /* vectors side by side */
#define NR 6 /* rows side by side: NR * NV sums stay in registers, of which AVX512 has twice as many as AVX2 */

/* out[r, :] = sum_k a[r, k] b[k, :] (with `more` added to what is there) for r < nr, of nv vectors that lie `apart`; k in
 * its order. a[r, k] is at r * ar + k * ak, b's rows are ldb apart. */
INLINE void product_block(const int nr, const int nv, const int more, const float *a, int64_t ar, int64_t ak,
                          const float *b, int64_t ldb, int64_t apart, int64_t k, float *out, int64_t ldo) {
    vec sum[NR][NV];
    for (int r = 0; r < nr; r++)
        for (int v = 0; v < nv; v++) sum[r][v] = more ? load(out + r * ldo + v * W) : all(0);
    for (int64_t i = 0; i < k; i++) {
        vec row[NV];
        for (int v = 0; v < nv; v++) row[v] = load(b + i * ldb + v * apart);
        for (int r = 0; r < nr; r++)
            for (int v = 0; v < nv; v++) sum[r][v] = fused(all(a[r * ar + i * ak]), row[v], sum[r][v]);
    }
    for (int r = 0; r < nr; r++)
        for (int v = 0; v < nv; v++) store(out + r * ldo + v * W, sum[r][v]);
}

/* out[r, :] = sum_k a[r, k] b[k, :], where b is n rows and then `more` rows at `rest`, W rows and W rows `apart`. With
 * few vectors in a row, every 2nd or 4th k has a sum of its own, as one sum alone would wait for itself. */
INLINE void sum_block(const int nr, const int nv, const float *a, int64_t lda, const float *b, int64_t n,
                      const float *rest, int64_t more, int64_t apart, int64_t ldb, float *out, int64_t ldo) {
    const int parts = NV / nv;
    vec sum[NV][NR][NV];
    for (int p = 0; p < parts; p++)
        for (int r = 0; r < nr; r++)
            for (int v = 0; v < nv; v++) sum[p][r][v] = all(0);
    for (int64_t i = 0; i < n + more; i += parts)
        for (int p = 0; p < parts; p++) {
            if (i + p >= n + more) break;
            int64_t j = i + p - n; /* which of the rest */
            const float *from = j < 0 ? b + (i + p) * ldb : rest + j / W * apart + j % W * ldb;
            for (int v = 0; v < nv; v++) {
                vec row = load(from + v * W);
                for (int r = 0; r < nr; r++) sum[p][r][v] = fused(all(a[r * lda + i + p]), row, sum[p][r][v]);
            }
        }
    for (int r = 0; r < nr; r++)
        for (int v = 0; v < nv; v++) {
            for (int p = 1; p < parts; p++) sum[0][r][v] += sum[p][r][v];
            store(out + r * ldo + v * W, sum[0][r][v]);
        }
}

/* out[c, :] += sum_r a[r, c] b[r, :] for c < n, of nv vectors */
INLINE void rank_block(const int nr, const int nv, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t n,
                       float *out, int64_t ldo) {
    vec row[NR][NV];
    for (int r = 0; r < nr; r++)
        for (int v = 0; v < nv; v++) row[r][v] = load(b + r * ldb + v * W);
    for (int64_t c = 0; c < n; c++)
        for (int v = 0; v < nv; v++) {
            vec sum = load(out + c * ldo + v * W);
            for (int r = 0; r < nr; r++) sum = fused(all(a[r * lda + c]), row[r][v], sum);
            store(out + c * ldo + v * W, sum);
        }
}

#define BY_ROWS(call, nv)                                                                                            \
    switch (nr) {                                                                                                    \
        case 1: call(1, nv); break;                                                                                  \
        case 2: call(2, nv); break;                                                                                  \
        case 3: call(3, nv); break;                                                                                  \
        case 4: call(4, nv); break;                                                                                  \
        case 5: call(5, nv); break;                                                                                  \
        default: call(6, nv);                                                                                        \
    }
#define BY_COLUMNS(columns, body) /* body(vectors) for each block of columns, which begins at `at` */                 \
    for (int64_t at = 0; at < (columns);) {                                                                          \
        if ((columns) - at >= NV * W) { body(NV) at += NV * W; }                                                     \
        else if (NV > 2 && (columns) - at >= 2 * W) { body(2) at += 2 * W; }                                         \
        else { body(1) at += W; }                                                                                    \
    }
#define OVER_ROWS(from, to, call, nv) /* call(nr, nv) for each block of rows, which begins at `row` */               \
    for (int64_t row = (from); row < (to); row += NR) {                                                              \
        int nr = (to) - row < NR ? (int)((to) - row) : NR;                                                           \
        BY_ROWS(call, nv)                                                                                            \
    }

/* out [nr, columns] = a [nr, k] b, where b is columns / W blocks [k, W] that lie `apart`: keys or values, transposed */
static UNUSED void product(int nr, const float *a, int64_t lda, const float *b, int64_t k, int64_t apart,
                           int64_t columns, float *out, int64_t ldo) {
#define CALL(r, v) product_block(r, v, 0, a, lda, 1, b + at / W * apart, W, apart, k, out + at, ldo)
#define BODY(v) BY_ROWS(CALL, v)
    BY_COLUMNS(columns, BODY)
#undef BODY
#undef CALL
}

/* out [nr, columns] = a [nr, n + more] b, of which n rows [n, columns] are at b and `more` at `rest` */
static UNUSED void weighted_sum(int nr, const float *a, int64_t lda, const float *b, int64_t n, const float *rest,
                                int64_t more, int64_t apart, int64_t columns, float *out, int64_t ldo) {
#define CALL(r, v) sum_block(r, v, a, lda, b + at, n, rest + at, more, apart, columns, out + at, ldo)
#define BODY(v) BY_ROWS(CALL, v)
    BY_COLUMNS(columns, BODY)
#undef BODY
#undef CALL
}

/* out [n, columns] += a^T b, a [nr, n], b [nr, columns] */
static UNUSED void rank_update(int nr, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t n,
                               int64_t columns, float *out, int64_t ldo) {
#define CALL(r, v) rank_block(r, v, a, lda, b + at, ldb, n, out + at, ldo)
#define BODY(v) BY_ROWS(CALL, v)
    BY_COLUMNS(columns, BODY)
#undef BODY
#undef CALL
}
