/* Attention on a processor, in fp32: out = softmax(q k^T / sqrt D) v over the keys that a token may see.
 *
 * A query row sees the n keys of its prompt, then those of its own sequence up to itself. Every sum is over keys or
 * dimensions in their order, one fused multiply-add at a time, however many rows are computed side by side. So a token
 * gets the same bits alone, in a batch, while it is decoded and while it is trained on.
 *
 * q [M, H, D], k and v [M, HKV, D] are lists of tokens without padding. A segment is a sequence of `length` tokens from
 * `first` on, behind `prompt_length` tokens from `prompt_first` on. H / HKV query heads share a key-value head; a task is
 * one segment and one such head. Compiled by `kernels.py`. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
#define W 16 /* floats in a vector */
#else
#define W 8
#endif
#define NV 4 /* vectors side by side */
#define NR 6 /* query rows side by side: NR * NV sums stay in registers */
#define STEP (W * NV)
#define UP(n, to) (((n) + (to) - 1) / (to) * (to))
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(W * 4), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(W * 4), aligned(4)));
typedef struct { int64_t first, length, prompt_first, prompt_length; } segment;

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec x) { *(vec *)p = x; }
INLINE vec all(float x) { return x - (vec){0}; }
INLINE vec choose(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }

INLINE ivec below(int64_t n) { /* lanes 0 ... n-1 */
    ivec lane;
    for (int i = 0; i < W; i++) lane[i] = i;
    return lane < (ivec){0} + (int32_t)(n < W ? n : W);
}

INLINE vec exponential(vec x) { /* e^x for x <= 0, to 2 units in the last place; 0 below -87 */
    ivec tiny = x < all(-87.0f);
    x = choose(tiny, all(-87.0f), x);
    vec n = x * 1.44269504f + 12582912.0f; /* rounded to an integer: 1.5 * 2^23 leaves no bits behind the point */
    ivec power = (ivec)n << 23;
    n -= 12582912.0f;
    x = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = all(1.9875691500e-4f);
    p = p * x + 1.3981999507e-3f;
    p = p * x + 8.3334519073e-3f;
    p = p * x + 4.1665795894e-2f;
    p = p * x + 1.6666665459e-1f;
    p = p * x + 5.0000001201e-1f;
    p = p * x * x + x + 1.0f;
    return choose(tiny, all(0), (vec)((ivec)p + power));
}

static float *room(size_t floats) { /* memory of this thread's, kept from call to call */
    static _Thread_local float *kept;
    static _Thread_local size_t size;
    if (floats > size) free(kept), kept = malloc(sizeof(float) * floats), size = kept ? floats : 0;
    if (!kept) abort();
    return kept;
}

/* ---- products of a few rows ------------------------------------------------------------------------------ */

/* out[r, :] (+)= sum_k a[r, k] b[k, :] for r < nr, of nv vectors; k in its order */
INLINE void product_block(const int nr, const int nv, const float *a, int64_t lda, const float *b, int64_t ldb,
                          int64_t k, float *out, int64_t ldo, int add) {
    vec sum[NR][NV];
    for (int r = 0; r < nr; r++)
        for (int v = 0; v < nv; v++) sum[r][v] = add ? load(out + r * ldo + v * W) : all(0);
    for (int64_t i = 0; i < k; i++) {
        vec row[NV];
        for (int v = 0; v < nv; v++) row[v] = load(b + i * ldb + v * W);
        for (int r = 0; r < nr; r++)
            for (int v = 0; v < nv; v++) sum[r][v] += a[r * lda + i] * row[v];
    }
    for (int r = 0; r < nr; r++)
        for (int v = 0; v < nv; v++) store(out + r * ldo + v * W, sum[r][v]);
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
            for (int r = 0; r < nr; r++) sum += a[r * lda + c] * row[r][v];
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
#define BY_SHAPE(call)                                                                                               \
    for (int64_t at = 0; at < columns;) {                                                                            \
        if (columns - at >= 4 * W) { BY_ROWS(call, 4) at += 4 * W; }                                                 \
        else if (columns - at >= 2 * W) { BY_ROWS(call, 2) at += 2 * W; }                                            \
        else { BY_ROWS(call, 1) at += W; }                                                                           \
    }

/* out [nr, columns] (+)= a [nr, k] b [k, columns]; columns in whole vectors */
static void product(int nr, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t k, int64_t columns,
                    float *out, int64_t ldo, int add) {
#define CALL(r, v) product_block(r, v, a, lda, b + at, ldb, k, out + at, ldo, add)
    BY_SHAPE(CALL)
#undef CALL
}

/* out [n, columns] += a^T b, a [nr, n], b [nr, columns] */
static void rank_update(int nr, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t n, int64_t columns,
                        float *out, int64_t ldo) {
#define CALL(r, v) rank_block(r, v, a, lda, b + at, ldb, n, out + at, ldo)
    BY_SHAPE(CALL)
#undef CALL
}

/* in place: weights of the first n of `width` scores, 0 behind them */
static void softmax(float *s, int64_t n, int64_t width) {
    vec top = all(-INFINITY), sum = all(0);
    for (int64_t j = 0; j < n; j += W) top = choose((load(s + j) > top) & below(n - j), load(s + j), top);
    float most = top[0], total = 0;
    for (int i = 1; i < W; i++) most = top[i] > most ? top[i] : most;
    for (int64_t j = 0; j < n; j += W) {
        vec e = choose(below(n - j), exponential(load(s + j) - most), all(0));
        sum += e;
        store(s + j, e);
    }
    for (int i = 0; i < W; i++) total += sum[i];
    for (int64_t j = 0; j < n; j += W) store(s + j, load(s + j) * (1 / total));
    for (int64_t j = UP(n, W); j < width; j += W) store(s + j, all(0));
}

/* ---- training -------------------------------------------------------------------------------------------- */

typedef struct {
    int64_t keys, width; /* of prompt and sequence together; in whole steps */
    float *kt, *vt, *k, *v; /* [D, width] twice, [width, D] twice */
    float *q, *g, *s, *ds, *dk, *dv; /* [NR, D] twice, [NR, width] twice, [width, D] twice */
} scratch;

static scratch allocate(int64_t keys, int64_t d) {
    int64_t width = UP(keys, STEP), all = width * d;
    float *p = room(6 * all + 2 * NR * (d + width));
    scratch x = {.kt = p, .vt = p + all, .k = p + 2 * all, .v = p + 3 * all, .dk = p + 4 * all, .dv = p + 5 * all};
    p += 6 * all, x.q = p, x.g = p + NR * d, x.s = p + 2 * NR * d, x.ds = x.s + NR * width;
    return x;
}

/* keys and values of one head, of the prompt and then of the sequence, side by side and transposed */
static void gather(scratch *x, const float *k, const float *v, segment t, int64_t hkv, int64_t head, int64_t d,
                   int backward) {
    x->keys = t.prompt_length + t.length, x->width = UP(x->keys, STEP);
    for (int64_t j = 0; j < x->width; j++) {
        int64_t token = j < t.prompt_length ? t.prompt_first + j : t.first + j - t.prompt_length;
        for (int64_t i = 0; i < d; i++) {
            float key = j < x->keys ? k[(token * hkv + head) * d + i] : 0;
            float value = j < x->keys ? v[(token * hkv + head) * d + i] : 0;
            x->kt[i * x->width + j] = key, x->v[j * d + i] = value;
            if (backward) x->vt[i * x->width + j] = value, x->k[j * d + i] = key;
        }
    }
}

/* weights of the next query rows: row n is head n % shared of token n / shared; returns how many keys they need */
static int64_t weights(scratch *x, const float *q, segment t, int64_t h, int64_t head, int64_t shared, int64_t d,
                       int64_t row, int nr) {
    float scale = 1 / sqrtf((float)d);
    for (int r = 0; r < nr; r++) {
        const float *from = q + ((t.first + (row + r) / shared) * h + head * shared + (row + r) % shared) * d;
        for (int64_t i = 0; i < d; i++) x->q[r * d + i] = from[i] * scale;
    }
    int64_t most = t.prompt_length + (row + nr - 1) / shared + 1, width = UP(most, W);
    product(nr, x->q, d, x->kt, x->width, d, width, x->s, x->width, 0);
    for (int r = 0; r < nr; r++) softmax(x->s + r * x->width, t.prompt_length + (row + r) / shared + 1, width);
    return most;
}

void attend(const float *q, const float *k, const float *v, float *out, const segment *segments, int64_t count,
            int64_t longest, int64_t h, int64_t hkv, int64_t d) {
    int64_t shared = h / hkv;
#pragma omp parallel
    {
        scratch buffers = allocate(longest, d), *x = &buffers;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < count * hkv; task++) {
            segment t = segments[task / hkv];
            int64_t head = task % hkv, rows = t.length * shared;
            gather(x, k, v, t, hkv, head, d, 0);
            for (int64_t row = 0; row < rows; row += NR) {
                int nr = rows - row < NR ? (int)(rows - row) : NR;
                int64_t most = weights(x, q, t, h, head, shared, d, row, nr);
                product(nr, x->s, x->width, x->v, d, most, d, x->q, d, 0);
                for (int r = 0; r < nr; r++) {
                    int64_t to = (t.first + (row + r) / shared) * h + head * shared + (row + r) % shared;
                    memcpy(out + to * d, x->q + r * d, sizeof(float) * d);
                }
            }
        }
    }
}

/* p: weights, g: gradient of the output
 *     dv = p^T g        ds = p (g v^T - <p, g v^T>)        dq = ds k / sqrt D        dk = ds^T q / sqrt D
 * What belongs to a prompt goes to dk_prompt and dv_prompt [segments, longest_prompt, HKV, D], to be added up. */
void attend_backward(const float *g, const float *q, const float *k, const float *v, float *dq, float *dk, float *dv,
                     float *dk_prompt, float *dv_prompt, const segment *segments, int64_t count, int64_t longest,
                     int64_t longest_prompt, int64_t h, int64_t hkv, int64_t d) {
    int64_t shared = h / hkv;
    float scale = 1 / sqrtf((float)d);
#pragma omp parallel
    {
        scratch buffers = allocate(longest, d), *x = &buffers;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < count * hkv; task++) {
            segment t = segments[task / hkv];
            int64_t head = task % hkv, rows = t.length * shared;
            gather(x, k, v, t, hkv, head, d, 1);
            memset(x->dk, 0, sizeof(float) * x->width * d), memset(x->dv, 0, sizeof(float) * x->width * d);
            for (int64_t row = 0; row < rows; row += NR) {
                int nr = rows - row < NR ? (int)(rows - row) : NR;
                int64_t most = weights(x, q, t, h, head, shared, d, row, nr), width = UP(most, W);
                for (int r = 0; r < nr; r++) {
                    int64_t from = (t.first + (row + r) / shared) * h + head * shared + (row + r) % shared;
                    memcpy(x->g + r * d, g + from * d, sizeof(float) * d);
                }
                product(nr, x->g, d, x->vt, x->width, d, width, x->ds, x->width, 0);
                for (int r = 0; r < nr; r++) {
                    float *p = x->s + r * x->width, *ds = x->ds + r * x->width, inner = 0;
                    vec sum = all(0);
                    for (int64_t j = 0; j < width; j += W) sum += load(p + j) * load(ds + j);
                    for (int i = 0; i < W; i++) inner += sum[i];
                    for (int64_t j = 0; j < width; j += W) store(ds + j, load(p + j) * (load(ds + j) - inner));
                }
                rank_update(nr, x->s, x->width, x->g, d, most, d, x->dv, d);
                rank_update(nr, x->ds, x->width, x->q, d, most, d, x->dk, d); /* q is scaled already */
                product(nr, x->ds, x->width, x->k, d, most, d, x->g, d, 0);
                for (int r = 0; r < nr; r++) {
                    int64_t to = (t.first + (row + r) / shared) * h + head * shared + (row + r) % shared;
                    for (int64_t i = 0; i < d; i++) dq[to * d + i] = x->g[r * d + i] * scale;
                }
            }
            for (int64_t j = 0; j < x->keys; j++) {
                int prompt = j < t.prompt_length;
                int64_t to = prompt ? task / hkv * longest_prompt + j : t.first + j - t.prompt_length;
                memcpy((prompt ? dk_prompt : dk) + (to * hkv + head) * d, x->dk + j * d, sizeof(float) * d);
                memcpy((prompt ? dv_prompt : dv) + (to * hkv + head) * d, x->dv + j * d, sizeof(float) * d);
            }
        }
    }
    /* the prompts' own tokens have their gradient from segments without a prompt; each segment adds to it in turn */
#pragma omp parallel for schedule(static)
    for (int64_t head = 0; head < hkv; head++)
        for (int64_t s = 0; s < count; s++)
            for (int64_t j = 0; j < segments[s].prompt_length; j++) {
                int64_t from = ((s * longest_prompt + j) * hkv + head) * d;
                int64_t to = ((segments[s].prompt_first + j) * hkv + head) * d;
                for (int64_t i = 0; i < d; i++) dk[to + i] += dk_prompt[from + i], dv[to + i] += dv_prompt[from + i];
            }
}

/* ---- decoding -------------------------------------------------------------------------------------------- */

/* One new token of each of `rows` completions, q [rows, H, D], k and v [rows, HKV, D]: append it to the row's own keys
 * [slots, HKV, D, room] (transposed) and values [slots, HKV, room, D], which hold `steps` tokens, and attend to the
 * prompt's, [P, HKV, D, prompt_room] and [P, HKV, prompt_room, D], and to these. */
void attend_next(const float *q, const float *k, const float *v, float *out, const float *prompt_kt,
                 const float *prompt_v, float *own_kt, float *own_v, const int64_t *slot, const int64_t *prompt,
                 const int64_t *prompt_lengths, int64_t rows, int64_t steps, int64_t own_room, int64_t prompt_room, int64_t h,
                 int64_t hkv, int64_t d) {
    int64_t shared = h / hkv;
    float scale = 1 / sqrtf((float)d);
#pragma omp parallel
    {
        int64_t width = prompt_room + own_room + STEP;
        float *s = room(NR * (width + d)), *scaled = s + NR * width;
#pragma omp for schedule(static)
        for (int64_t task = 0; task < rows * hkv; task++) {
            int64_t row = task / hkv, head = task % hkv, n = prompt_lengths[prompt[row]], keys = n + steps + 1;
            const float *pkt = prompt_kt + (prompt[row] * hkv + head) * d * prompt_room;
            const float *pv = prompt_v + (prompt[row] * hkv + head) * d * prompt_room;
            float *kt = own_kt + (slot[row] * hkv + head) * d * own_room, *ov = own_v + (slot[row] * hkv + head) * d * own_room;
            for (int64_t i = 0; i < d; i++) kt[i * own_room + steps] = k[(row * hkv + head) * d + i];
            memcpy(ov + steps * d, v + (row * hkv + head) * d, sizeof(float) * d);
            for (int64_t first = 0; first < shared; first += NR) {
                int nr = shared - first < NR ? (int)(shared - first) : NR;
                int64_t at = (row * h + head * shared + first) * d;
                for (int64_t i = 0; i < nr * d; i++) scaled[i] = q[at + i] * scale;
                product(nr, scaled, d, pkt, prompt_room, d, UP(n, W), s, width, 0);
                product(nr, scaled, d, kt, own_room, d, UP(steps + 1, W), s + n, width, 0);
                for (int r = 0; r < nr; r++) softmax(s + r * width, keys, keys);
                product(nr, s, width, pv, d, n, d, out + at, d, 0);
                product(nr, s + n, width, ov, d, steps + 1, d, out + at, d, 1);
            }
        }
    }
}
