/* Vectors of floats by the compiler's own extension: the same code for every processor, `fused` apart. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__FMA__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifdef __AVX512F__
#define W 16 /* floats in a vector */
#else
#define W 8
#endif
#define UP(n, to) (((n) + (to) - 1) / (to) * (to))
#define UNUSED __attribute__((unused))
#define INLINE static inline UNUSED __attribute__((always_inline))

typedef float vec __attribute__((vector_size(W * 4), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(W * 4), aligned(4)));
typedef uint32_t uvec __attribute__((vector_size(W * 4), aligned(4)));
typedef float four __attribute__((vector_size(16)));
typedef int32_t ifour __attribute__((vector_size(16)));
typedef union { vec whole; four part[W / 4]; } parts;
typedef uint16_t half __attribute__((vector_size(W * 2), aligned(2))); /* bfloat16: the upper half of a float */

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec x) { *(vec *)p = x; }
INLINE vec all(float x) { return x - (vec){0}; }

/* a b + c, rounded once. Said outright: left to itself (-ffp-contract) a compiler fuses in one loop and not in another,
 * and a sum's bits depend on which of them added it up. */
INLINE vec fused(vec a, vec b, vec c) {
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    parts x = {a}, y = {b}, z = {c};
    for (int i = 0; i < W / 4; i++)
        z.part[i] = (four)vfmaq_f32((float32x4_t)z.part[i], (float32x4_t)x.part[i], (float32x4_t)y.part[i]);
    return z.whole;
#else
    return a * b + c;
#endif
}

INLINE vec choose(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }

/* Of the numbers in a vector: four sums side by side, as each of a single one's would wait for the one before. */
INLINE four larger(four a, four b) { return (four)(((a > b) & (ifour)a) | (~(a > b) & (ifour)b)); }

INLINE float total(vec x) {
    parts p = {x};
    four sum = p.part[0];
    for (int i = 1; i < W / 4; i++) sum += p.part[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}
INLINE float largest(vec x) {
    parts p = {x};
    four most = p.part[0];
    for (int i = 1; i < W / 4; i++) most = larger(most, p.part[i]);
    most = larger(most, (four){most[2], most[3]});
    return most[0] > most[1] ? most[0] : most[1];
}

INLINE vec load_half(const uint16_t *p) { return (vec)(__builtin_convertvector(*(const half *)p, uvec) << 16); }
INLINE void store_half(uint16_t *p, vec x) { /* to the nearest, ties to even */
    uvec bits = (uvec)x, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    uvec nan = (uvec)(x != x);
    *(half *)p = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0), half);
}

INLINE vec exponential(vec x) { /* e^x for x <= 0, to 2 units in the last place; 0 below -87 */
    ivec tiny = x < all(-87.0f);
    x = choose(tiny, all(-87.0f), x);
    /* rounded to an integer: 1.5 * 2^23 leaves no bits behind the point */
    vec n = fused(x, all(1.44269504f), all(12582912.0f));
    ivec power = (ivec)n << 23;
    n -= 12582912.0f;
    x = fused(n, all(2.12194440e-4f), fused(n, all(-0.693359375f), x));
    vec p = all(1.9875691500e-4f);
    p = fused(p, x, all(1.3981999507e-3f));
    p = fused(p, x, all(8.3334519073e-3f));
    p = fused(p, x, all(4.1665795894e-2f));
    p = fused(p, x, all(1.6666665459e-1f));
    p = fused(p, x, all(5.0000001201e-1f));
    p = fused(p, x * x, x) + 1.0f;
    return choose(tiny, all(0), (vec)((ivec)p + power));
}
