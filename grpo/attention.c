/* Attention on a processor, in fp32: out = softmax(q k^T / sqrt D) v over the keys that a token may see.
 *
 * A query row sees the n keys of its prompt, then those of its own sequence up to itself. Every sum is over keys or
 * dimensions in their order, one fused multiply-add at a time, however many rows are computed side by side. So a token
 * gets the same bits alone, in a batch, while it is decoded and while it is trained on.
 *
 * q [M, H, D], k and v [M, HKV, D] are lists of tokens without padding. A segment is a sequence of `length` tokens from
 * `first` on, behind `prompt_length` tokens from `prompt_first` on. H / HKV query heads share a key-value head; a task is
 * one segment and one such head. Compiled by `kernels.py`. */
#include "products.h"

int64_t vector_width(void) { return W; }

typedef struct { int64_t first, length, prompt_first, prompt_length; } segment;

INLINE ivec below(int64_t n) { /* lanes 0 ... n-1 */
    ivec lane;
    for (int i = 0; i < W; i++) lane[i] = i;
    return lane < (ivec){0} + (int32_t)(n < W ? n : W);
}

static float *room(size_t floats) { /* memory of this thread's, kept from call to call */
    static _Thread_local float *kept;
    static _Thread_local size_t size;
    if (floats > size) free(kept), kept = malloc(sizeof(float) * floats), size = kept ? floats : 0;
    if (!kept) abort();
    return kept;
}

/* in place: weights of the first n of `width` scores, 0 behind them */
static void softmax(float *s, int64_t n, int64_t width) {
    vec top = all(-INFINITY), sum = all(0);
    for (int64_t j = 0; j < n; j += W) top = choose((load(s + j) > top) & below(n - j), load(s + j), top);
    float most = largest(top);
    for (int64_t j = 0; j < n; j += W) {
        vec e = choose(below(n - j), exponential(load(s + j) - most), all(0));
        sum += e;
        store(s + j, e);
    }
    float share = 1 / total(sum);
    for (int64_t j = 0; j < n; j += W) store(s + j, load(s + j) * share);
    for (int64_t j = UP(n, W); j < width; j += W) store(s + j, all(0));
}

/* ---- training -------------------------------------------------------------------------------------------- */

typedef struct {
    int64_t keys, width; /* of prompt and sequence together; in whole vectors */
    float *kt, *vt, *k, *v; /* [width / W, D, W] twice, [width, D] twice */
    float *q, *g, *s, *ds, *dk, *dv; /* [NR, D] twice, [NR, width] twice, [width, D] twice */
} scratch;

static scratch allocate(int64_t keys, int64_t d) {
    int64_t width = UP(keys, W), all = width * d;
    float *p = room(6 * all + 2 * NR * (d + width));
    scratch x = {.kt = p, .vt = p + all, .k = p + 2 * all, .v = p + 3 * all, .dk = p + 4 * all, .dv = p + 5 * all};
    p += 6 * all, x.q = p, x.g = p + NR * d, x.s = p + 2 * NR * d, x.ds = x.s + NR * width;
    return x;
}

/* keys and values of one head, of the prompt and then of the sequence, side by side and transposed */
static void gather(scratch *x, const float *k, const float *v, segment t, int64_t hkv, int64_t head, int64_t d,
                   int backward) {
    x->keys = t.prompt_length + t.length, x->width = UP(x->keys, W);
    for (int64_t j = 0; j < x->width; j++) {
        int64_t token = j < t.prompt_length ? t.prompt_first + j : t.first + j - t.prompt_length;
        for (int64_t i = 0; i < d; i++) {
            float key = j < x->keys ? k[(token * hkv + head) * d + i] : 0;
            float value = j < x->keys ? v[(token * hkv + head) * d + i] : 0;
            x->kt[(j / W * d + i) * W + j % W] = key, x->v[j * d + i] = value;
            if (backward) x->vt[(j / W * d + i) * W + j % W] = value, x->k[j * d + i] = key;
        }
    }
}

/* where query row n of a task stands in q: head n % shared of token n / shared */
INLINE int64_t query_at(segment t, int64_t n, int64_t h, int64_t head, int64_t shared, int64_t d) {
    return ((t.first + n / shared) * h + head * shared + n % shared) * d;
}

/* weights of the next query rows; returns how many keys they need */
static int64_t weights(scratch *x, const float *q, segment t, int64_t h, int64_t head, int64_t shared, int64_t d,
                       int64_t row, int nr) {
    float scale = 1 / sqrtf((float)d);
    for (int r = 0; r < nr; r++) {
        const float *from = q + query_at(t, row + r, h, head, shared, d);
        for (int64_t i = 0; i < d; i++) x->q[r * d + i] = from[i] * scale;
    }
    int64_t most = t.prompt_length + (row + nr - 1) / shared + 1, width = UP(most, W);
    product(nr, x->q, d, x->kt, d, d * W, width, x->s, x->width);
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
                weighted_sum(nr, x->s, x->width, x->v, most, x->v, 0, 0, d, x->q, d);
                for (int r = 0; r < nr; r++)
                    memcpy(out + query_at(t, row + r, h, head, shared, d), x->q + r * d, sizeof(float) * d);
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
                for (int r = 0; r < nr; r++)
                    memcpy(x->g + r * d, g + query_at(t, row + r, h, head, shared, d), sizeof(float) * d);
                product(nr, x->g, d, x->vt, d, d * W, width, x->ds, x->width);
                for (int r = 0; r < nr; r++) {
                    float *p = x->s + r * x->width, *ds = x->ds + r * x->width;
                    vec sum = all(0);
                    for (int64_t j = 0; j < width; j += W) sum = fused(load(p + j), load(ds + j), sum);
                    float inner = total(sum);
                    for (int64_t j = 0; j < width; j += W) store(ds + j, load(p + j) * (load(ds + j) - inner));
                }
                rank_update(nr, x->s, x->width, x->g, d, most, d, x->dv, d);
                rank_update(nr, x->ds, x->width, x->q, d, most, d, x->dk, d); /* q is scaled already */
                weighted_sum(nr, x->ds, x->width, x->k, most, x->k, 0, 0, d, x->g, d);
                for (int r = 0; r < nr; r++) {
                    float *to = dq + query_at(t, row + r, h, head, shared, d);
                    for (int64_t i = 0; i < d; i++) to[i] = x->g[r * d + i] * scale;
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

/* One new token of each of `rows` completions, q [rows, H, D], k and v [rows, HKV, D]: append it to what is cached in
 * `own`, [room / W, slots, HKV, 2, W * D], of which `steps` tokens are filled: W tokens' keys [D, W], then their values
 * [W, D]. Then attend to the prompt's keys [P, HKV, prompt_room / W, D, W] and values [P, HKV, prompt_room, D], and to
 * these. */
void attend_next(const float *q, const float *k, const float *v, float *out, const float *prompt_k,
                 const float *prompt_v, float *own, const int64_t *slot, const int64_t *prompt,
                 const int64_t *prompt_lengths, int64_t rows, int64_t slots, int64_t steps, int64_t prompt_room,
                 int64_t h, int64_t hkv, int64_t d) {
    int64_t shared = h / hkv, apart = slots * hkv * 2 * W * d;
    float scale = 1 / sqrtf((float)d);
#pragma omp parallel
    {
        int64_t width = prompt_room + UP(steps + 1, W) + W;
        float *s = room(NR * (width + d)), *scaled = s + NR * width;
#pragma omp for schedule(static)
        for (int64_t task = 0; task < rows * hkv; task++) {
            int64_t row = task / hkv, head = task % hkv, n = prompt_lengths[prompt[row]], keys = n + steps + 1;
            const float *pk = prompt_k + (prompt[row] * hkv + head) * d * prompt_room;
            const float *pv = prompt_v + (prompt[row] * hkv + head) * d * prompt_room;
            float *ok = own + (slot[row] * hkv + head) * 2 * W * d, *ov = ok + W * d, *last = ok + steps / W * apart;
            for (int64_t i = 0; i < d; i++) last[i * W + steps % W] = k[(row * hkv + head) * d + i];
            memcpy(last + W * d + steps % W * d, v + (row * hkv + head) * d, sizeof(float) * d);
            for (int64_t first = 0; first < shared; first += NR) {
                int nr = shared - first < NR ? (int)(shared - first) : NR;
                int64_t at = (row * h + head * shared + first) * d;
                for (int64_t i = 0; i < nr * d; i++) scaled[i] = q[at + i] * scale;
                product(nr, scaled, d, pk, d, d * W, UP(n, W), s, width);
                product(nr, scaled, d, ok, d, apart, UP(steps + 1, W), s + n, width);
                for (int r = 0; r < nr; r++) softmax(s + r * width, keys, keys);
                weighted_sum(nr, s, width, pv, n, ov, steps + 1, apart, d, out + at, d);
            }
        }
    }
}
