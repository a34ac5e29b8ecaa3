/* What a decoder layer computes between its matrix products, each in one pass over memory; see `pointwise.py`.
 *
 * x and the like are fp32 or, with `is_half`, bfloat16; all is computed in fp32. A row's result depends on that row
 * alone. Sizes are in whole vectors. */
#include "vector.h"

#define LEAST 65536 /* numbers from which on several threads pay */
#define MOST 1024 /* numbers in a head */

INLINE vec get(const void *p, int64_t at, int64_t is_half) {
    return is_half ? load_half((const uint16_t *)p + at) : load((const float *)p + at);
}
INLINE void put(void *p, int64_t at, vec x, int64_t is_half) {
    if (is_half) store_half((uint16_t *)p + at, x);
    else store((float *)p + at, x);
}

static float inverse_rms(const void *x, int64_t at, int64_t d, double eps, int64_t is_half) {
    vec sum = all(0);
    for (int64_t i = 0; i < d; i += W) {
        vec v = get(x, at + i, is_half);
        sum = fused(v, v, sum);
    }
    return 1 / sqrtf(total(sum) / d + (float)eps);
}

/* y = w x r        r = 1 / sqrt(mean(x^2) + eps)        x, y [m, d]; w [d] */
void norm(const void *x, const void *w, void *y, int64_t m, int64_t d, int64_t is_half, double eps) {
#pragma omp parallel for schedule(static) if (m * d > LEAST)
    for (int64_t row = 0; row < m; row++) {
        float r = inverse_rms(x, row * d, d, eps, is_half);
        for (int64_t i = 0; i < d; i += W)
            put(y, row * d + i, get(x, row * d + i, is_half) * r * get(w, i, is_half), is_half);
    }
}

/* with n = x r:  dx = r (w g - n mean(w g n)) + rest        dw [blocks, d] = sums of g n, to be added up */
void norm_backward(const void *g, const void *x, const void *w, const void *rest, void *dx, float *dw, int64_t m,
                   int64_t d, int64_t blocks, int64_t is_half, double eps) {
#pragma omp parallel for schedule(static) if (m * d > LEAST)
    for (int64_t block = 0; block < blocks; block++) {
        float *sums = dw + block * d;
        memset(sums, 0, sizeof(float) * d);
        for (int64_t row = m * block / blocks; row < m * (block + 1) / blocks; row++) {
            float r = inverse_rms(x, row * d, d, eps, is_half);
            vec sum = all(0);
            for (int64_t i = 0; i < d; i += W) {
                vec gn = get(g, row * d + i, is_half) * get(x, row * d + i, is_half) * r;
                store(sums + i, load(sums + i) + gn);
                sum += gn * get(w, i, is_half);
            }
            float inner = total(sum) / d;
            for (int64_t i = 0; i < d; i += W) {
                vec n = get(x, row * d + i, is_half) * r;
                vec v = (get(g, row * d + i, is_half) * get(w, i, is_half) - n * inner) * r;
                put(dx, row * d + i, rest ? v + get(rest, row * d + i, is_half) : v, is_half);
            }
        }
    }
}

INLINE vec sigmoid(vec x) {
    ivec negative = x < all(0);
    vec e = exponential(choose(negative, x, -x));
    return choose(negative, e, all(1)) / (1 + e);
}

/* y = g s(g) u        x [m, 2 d]: gate g and up u side by side; y [m, d] */
void gated(const void *x, void *y, int64_t m, int64_t d, int64_t is_half) {
#pragma omp parallel for schedule(static) if (m * d > LEAST)
    for (int64_t row = 0; row < m; row++)
        for (int64_t i = 0; i < d; i += W) {
            vec g = get(x, 2 * row * d + i, is_half);
            put(y, row * d + i, g * sigmoid(g) * get(x, (2 * row + 1) * d + i, is_half), is_half);
        }
}

/* dg = dy u s (1 + g (1 - s))        du = dy g s        s = s(g) */
void gated_backward(const void *dy, const void *x, void *dx, int64_t m, int64_t d, int64_t is_half) {
#pragma omp parallel for schedule(static) if (m * d > LEAST)
    for (int64_t row = 0; row < m; row++)
        for (int64_t i = 0; i < d; i += W) {
            int64_t at = 2 * row * d + i;
            vec g = get(x, at, is_half), s = sigmoid(g), t = get(dy, row * d + i, is_half);
            put(dx, at, t * get(x, at + d, is_half) * s * (1 + g * (1 - s)), is_half);
            put(dx, at + d, t * g * s, is_half);
        }
}

INLINE float get_one(const void *p, int64_t at, int64_t is_half) {
    if (!is_half) return ((const float *)p)[at];
    uint32_t bits = (uint32_t)((const uint16_t *)p)[at] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* y [m, h + 2 hkv, d] -> q [m, h, d], k, v [m, hkv, d] in fp32, where q and k are turned by angles, cos and sin
 * [m, d / 2]: the halves (x1, x2) of a head become (x1 cos - x2 sin, x2 cos + x1 sin) */
INLINE void turn(const void *y, const float *cos, const float *sin, float *q, float *k, float *v, int64_t m, int64_t h,
                 int64_t hkv, int64_t d, const int64_t is_half) {
    int64_t half = d / 2;
#pragma omp parallel for schedule(static) if (m * h * d > LEAST)
    for (int64_t row = 0; row < m; row++)
        for (int64_t head = 0; head < h + 2 * hkv; head++) {
            int64_t at = (row * (h + 2 * hkv) + head) * d;
            if (head >= h + hkv) {
                float *to = v + (row * hkv + head - h - hkv) * d;
                for (int64_t i = 0; i < d; i++) to[i] = get_one(y, at + i, is_half);
                continue;
            }
            float *to = head < h ? q + (row * h + head) * d : k + (row * hkv + head - h) * d;
            const float *c = cos + row * half, *s = sin + row * half;
            for (int64_t i = 0; i < half; i++) {
                float x1 = get_one(y, at + i, is_half), x2 = get_one(y, at + half + i, is_half);
                to[i] = x1 * c[i] - x2 * s[i], to[half + i] = x2 * c[i] + x1 * s[i];
            }
        }
}

void rotate(const void *y, const float *cos, const float *sin, float *q, float *k, float *v, int64_t m, int64_t h,
            int64_t hkv, int64_t d, int64_t is_half) {
    if (is_half) turn(y, cos, sin, q, k, v, m, h, hkv, d, 1);
    else turn(y, cos, sin, q, k, v, m, h, hkv, d, 0);
}

/* and back, for gradients: dq, dk, dv in fp32 -> dy */
void rotate_backward(const float *q, const float *k, const float *v, const float *cos, const float *sin, void *y,
                     int64_t m, int64_t h, int64_t hkv, int64_t d, int64_t is_half) {
    int64_t half = d / 2;
#pragma omp parallel for schedule(static) if (m * h * d > LEAST)
    for (int64_t row = 0; row < m; row++)
        for (int64_t head = 0; head < h + 2 * hkv; head++) {
            float turned[MOST];
            const float *from = head < h         ? q + (row * h + head) * d
                                : head < h + hkv ? k + (row * hkv + head - h) * d
                                                 : v + (row * hkv + head - h - hkv) * d;
            const float *c = cos + row * half, *s = sin + row * half;
            for (int64_t i = 0; i < half && head < h + hkv; i++) {
                turned[i] = from[i] * c[i] + from[half + i] * s[i];
                turned[half + i] = from[half + i] * c[i] - from[i] * s[i];
            }
            if (head < h + hkv) from = turned;
            for (int64_t i = 0; i < d; i += W) put(y, (row * (h + 2 * hkv) + head) * d + i, load(from + i), is_half);
        }
}
