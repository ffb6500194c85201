/* One pass of a dense decoder over new tokens of many requests, fp32 (weights in bf16 too), on a CPU; see
   native/__init__.py.

   Each of the M tokens has a slot of the key/value cache and a position in it. All keys and values are written first, then
   every token attends to the positions of its slot up to its own: decoding (one token per slot), reading prompts (many) and
   verifying drafts (a few) are the same pass. Numbers of a token are the same to the bit whatever else is in the pass: each
   sum runs in an order that depends on its own length alone.

   The matrices are torch's own [out, in], not packed: a product is a block of dot products, whose lanes are summed for
   sixteen at once. One parallel region runs the whole pass; threads share out columns, heads and rows, and meet at
   barriers. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#define BARRIER _Pragma("omp barrier")
#else
#define BARRIER
#endif

#define BLOCK 16 /* outputs of a row that are computed together, and keys that are scored together */
#define ROWS 64  /* rows of x that stay in the cache while the weights stream by */
#define COLUMNS 48 /* whole tiles and whole blocks */
#define INLINE static inline __attribute__((always_inline))

/* ---------------------------------------------------------------- vectors of LANES floats */

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#define LANES 16
#define TILE 6       /* rows of w against four rows of x: 24 sums, 4 + 1 operands in 32 registers */
#define TILE_SUMS 32 /* 4 TILE, in whole blocks */
typedef __m512 vec;
INLINE __mmask16 part_mask(int n) { return (__mmask16)((1u << n) - 1); } /* n up to 16 */
INLINE vec zero(void) { return _mm512_setzero_ps(); }
INLINE vec load(const float *p) { return _mm512_loadu_ps(p); }
INLINE vec load_part(const float *p, int n) { return _mm512_maskz_loadu_ps(part_mask(n), p); }
INLINE vec widened(__m256i a) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(a), 16)); }
INLINE vec load_half(const uint16_t *p) { return widened(_mm256_loadu_si256((const __m256i *)p)); }
INLINE vec load_half_part(const uint16_t *p, int n) { return widened(_mm256_maskz_loadu_epi16(part_mask(n), p)); }
INLINE void store(float *p, vec a) { _mm512_storeu_ps(p, a); }
INLINE void store_part(float *p, vec a, int n) { _mm512_mask_storeu_ps(p, part_mask(n), a); }
INLINE vec fma_(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vec all(float x) { return _mm512_set1_ps(x); }
INLINE float sum(vec a) { return _mm512_reduce_add_ps(a); }
INLINE float largest(vec a) { return _mm512_reduce_max_ps(a); }
INLINE vec max_(vec a, vec b) { return _mm512_max_ps(a, b); }

/* The lanes' sums of four vectors, each 128-bit part apart. */
INLINE vec fold(vec a, vec b, vec c, vec d) {
    vec ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    vec cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512d one = _mm512_castps_pd(ab), two = _mm512_castps_pd(cd);
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(one, two)), _mm512_castpd_ps(_mm512_unpackhi_pd(one, two)));
}

/* out[i] = the sum of a[i]'s lanes. */
INLINE void sums(float *out, const vec *a) {
    vec p = fold(a[0], a[1], a[2], a[3]), q = fold(a[4], a[5], a[6], a[7]);
    vec r = fold(a[8], a[9], a[10], a[11]), s = fold(a[12], a[13], a[14], a[15]);
    vec u = _mm512_add_ps(_mm512_shuffle_f32x4(p, q, 0x88), _mm512_shuffle_f32x4(p, q, 0xdd));
    vec v = _mm512_add_ps(_mm512_shuffle_f32x4(r, s, 0x88), _mm512_shuffle_f32x4(r, s, 0xdd));
    store(out, _mm512_add_ps(_mm512_shuffle_f32x4(u, v, 0x88), _mm512_shuffle_f32x4(u, v, 0xdd)));
}

/* e^x to 2 units in the last place: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]. */
INLINE vec exp_(vec x) {
    vec n = _mm512_roundscale_ps(_mm512_mul_ps(x, all(1.44269504088896f)), 8);
    vec r = fma_(n, all(-0.693359375f), x);
    r = fma_(n, all(2.12194440e-4f), r);
    vec y = all(1.0f / 5040);
    y = fma_(y, r, all(1.0f / 720));
    y = fma_(y, r, all(1.0f / 120));
    y = fma_(y, r, all(1.0f / 24));
    y = fma_(y, r, all(1.0f / 6));
    y = fma_(y, r, all(0.5f));
    y = fma_(y, r, all(1.0f));
    y = fma_(y, r, all(1.0f));
    return _mm512_scalef_ps(y, n);
}
/* The same, and 0 below e^-87, minus infinity included; what is no number stays none. */
INLINE vec exp_or_zero(vec x) {
    __mmask16 seen = _mm512_cmp_ps_mask(x, all(-87.0f), _CMP_NLT_UQ);
    return _mm512_maskz_mov_ps(seen, exp_(_mm512_max_ps(all(-87.0f), x)));
}
INLINE vec divide(vec a, vec b) { return _mm512_div_ps(a, b); }
INLINE vec times(vec a, vec b) { return _mm512_mul_ps(a, b); }
/* In a register: GCC would load it from memory for each of its four products, and loads are then the limit. */
#define KEEP(a) __asm__("" : "+v"(a))
INLINE vec plus(vec a, vec b) { return _mm512_add_ps(a, b); }
#else
#define LANES 8
#define TILE 2 /* 8 sums, 4 + 1 operands in 16 registers */
#define TILE_SUMS 16
typedef float vec __attribute__((vector_size(4 * LANES)));
INLINE vec zero(void) { return (vec){0}; }
INLINE vec load(const float *p) { vec a; memcpy(&a, p, sizeof a); return a; }
INLINE vec load_part(const float *p, int n) { vec a = {0}; memcpy(&a, p, 4 * (size_t)n); return a; }
INLINE vec load_half_part(const uint16_t *p, int n) {
    uint32_t bits[LANES] = {0};
    vec a;
    for (int i = 0; i < n; i++) bits[i] = (uint32_t)p[i] << 16;
    memcpy(&a, bits, sizeof a);
    return a;
}
INLINE vec load_half(const uint16_t *p) { return load_half_part(p, LANES); }
INLINE void store(float *p, vec a) { memcpy(p, &a, sizeof a); }
INLINE void store_part(float *p, vec a, int n) { memcpy(p, &a, 4 * (size_t)n); }
INLINE vec fma_(vec a, vec b, vec c) { return a * b + c; }
INLINE vec all(float x) { return x - (vec){0}; }
INLINE float sum(vec a) { return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7])); }
INLINE float largest(vec a) { float m = a[0]; for (int i = 1; i < LANES; i++) m = a[i] > m ? a[i] : m; return m; }
INLINE vec max_(vec a, vec b) { for (int i = 0; i < LANES; i++) a[i] = a[i] > b[i] ? a[i] : b[i]; return a; }
INLINE void sums(float *out, const vec *a) { for (int i = 0; i < BLOCK; i++) out[i] = sum(a[i]); }
INLINE vec exp_(vec x) { for (int i = 0; i < LANES; i++) x[i] = expf(x[i]); return x; }
INLINE vec exp_or_zero(vec x) { for (int i = 0; i < LANES; i++) x[i] = x[i] < -87.0f ? 0 : expf(x[i]); return x; }
INLINE vec divide(vec a, vec b) { return a / b; }
INLINE vec times(vec a, vec b) { return a * b; }
#define KEEP(a)
INLINE vec plus(vec a, vec b) { return a + b; }
#endif

/* Matrices are fp32 or, `half`, bf16: the upper two bytes of an fp32, so that nothing but bytes to be read is saved. */
INLINE const void *at(const void *w, int64_t i, int half) { return (const char *)w + i * (half ? 2 : 4); }
INLINE vec load_w(const void *w, int64_t i, int half) {
    return half ? load_half((const uint16_t *)w + i) : load((const float *)w + i);
}
INLINE vec load_w_part(const void *w, int64_t i, int n, int half) {
    return half ? load_half_part((const uint16_t *)w + i, n) : load_part((const float *)w + i, n);
}

/* ---------------------------------------------------------------- what Python hands over */

typedef struct {
    const void *q, *k, *v, *o, *gate, *up, *down; /* fp32 or bf16, as the model says; the others are fp32 */
    const float *input_norm, *q_bias, *k_bias, *v_bias, *q_norm, *k_norm, *o_bias, *sinks;
    const float *post_norm, *gate_bias, *up_bias, *down_bias;
    int64_t rotates, window; /* window 0: sees everything before it */
} Layer;

typedef struct {
    int64_t layers, width, heads, kv_heads, head, inner, vocab, rotary, threads, half;
    float eps, softcap, final_softcap; /* soft caps: 0 is off */
    const void *embed, *output;
    const float *norm;
    const Layer *layer;
} Model;

typedef struct { /* strides in floats; keys and values of a position of one head are contiguous */
    float *keys, *values;
    int64_t by_layer, by_slot, by_head;
} Cache;

typedef struct { /* the new tokens; `wanted` [n]: of which the logits are asked for */
    int64_t count, wanted_count;
    const int64_t *token, *slot, *position, *wanted;
    const float *cos, *sin; /* [count, rotary / 2] */
    float *work, *logits;   /* see scratch_floats; [wanted_count, vocab] */
    int64_t longest;        /* of position + 1 */
} Batch;

/* ---------------------------------------------------------------- products */

/* out[0..15] = the dot products of x [K] with sixteen rows of w. whole: K is a multiple of LANES; a constant, because the
   mere presence of the other case costs a fifth (85 instead of 108 GFLOP/s below): the sums no longer stay in registers. */
INLINE void dots_of_one(float *out, const float *x, const void *const *w, int64_t depth, int whole, int half) {
    vec a[BLOCK];
    for (int i = 0; i < BLOCK; i++) a[i] = zero();
    int64_t k = 0;
    for (; k + LANES <= depth; k += LANES) {
        vec b = load(x + k);
        for (int i = 0; i < BLOCK; i++) a[i] = fma_(load_w(w[i], k, half), b, a[i]);
    }
    if (!whole && k < depth) {
        vec b = load_part(x + k, (int)(depth - k));
        for (int i = 0; i < BLOCK; i++) a[i] = fma_(load_w_part(w[i], k, (int)(depth - k), half), b, a[i]);
    }
    sums(out, a);
}

/* out[TILE j + i] = row j of x times row i of w, four rows of x and TILE of w. Six of w, not four: 112 to 115 GFLOP/s of
   the 118 that a core of A has, instead of 82 to 85 (MKL 91 to 96, oneDNN 94 to 99). */
INLINE void dots_of_four(float *out, const float *x, int64_t x_stride, const void *w, int64_t depth, int whole,
                         int half) {
    vec a[TILE_SUMS];
    for (int i = 0; i < TILE_SUMS; i++) a[i] = zero();
    int64_t k = 0;
    for (; k + LANES <= depth; k += LANES) {
        vec b[4];
        for (int j = 0; j < 4; j++) b[j] = load(x + j * x_stride + k);
        for (int i = 0; i < TILE; i++) {
            vec c = load_w(w, i * depth + k, half);
            KEEP(c);
            for (int j = 0; j < 4; j++) a[TILE * j + i] = fma_(c, b[j], a[TILE * j + i]);
        }
    }
    if (!whole && k < depth) {
        int n = (int)(depth - k);
        for (int i = 0; i < TILE; i++) {
            vec c = load_w_part(w, i * depth + k, n, half);
            for (int j = 0; j < 4; j++) a[TILE * j + i] = fma_(c, load_part(x + j * x_stride + k, n), a[TILE * j + i]);
        }
    }
    for (int i = 0; i < TILE_SUMS; i += BLOCK) sums(out + i, a + i);
}

/* y[0..width) (+)= out + bias; out may be read LANES beyond its width. */
INLINE void put(float *y, const float *out, const float *bias, int add, int width) {
    for (int i = 0; i < width; i += LANES) {
        int n = width - i < LANES ? width - i : LANES;
        vec value = load(out + i);
        if (bias) value = plus(value, load_part(bias + i, n));
        if (add) value = plus(load_part(y + i, n), value);
        store_part(y + i, value, n);
    }
}

/* The addresses of `count` rows from row n of w on; beyond `to` the last one again. */
INLINE void point(const void **row, const void *w, int64_t n, int64_t to, int64_t depth, int count, int half) {
    for (int i = 0; i < count; i++) row[i] = at(w, (n + i < to ? n + i : to - 1) * depth, half);
}

/* Columns [from, to) of y [rows, N] (+)= x [rows, K] w[N, K]^T + bias. */
INLINE void product(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows, const void *w,
                    int64_t depth, const float *bias, int add, int64_t from, int64_t to, int whole, int half) {
    const void *row[BLOCK];
    float out[TILE_SUMS + LANES] = {0};
    int64_t line = half ? 32 : 16; /* weights of a cache line */
    for (int64_t top = 0; top < rows; top += ROWS) {
        int64_t bottom = top + ROWS < rows ? top + ROWS : rows;
        for (int64_t n = from; n < to; n += COLUMNS) {
            int64_t end = n + COLUMNS < to ? n + COLUMNS : to, m = top;
            /* The next columns' weights come while these are at work. */
            int64_t ahead = end * depth, last = end + COLUMNS <= to ? ahead + COLUMNS * depth : ahead;
            int64_t tiles = (bottom - top) / 4 * ((COLUMNS + TILE - 1) / TILE);
            int64_t share = (COLUMNS * depth / (tiles + 1) + line - 1) / line * line;
            int64_t fours = top + (bottom - top) / 4 * 4;
            for (int64_t q = n; q < end && fours > top; q += TILE) {
                /* A last tile that is not whole begins earlier, and keeps what is new. */
                int width = end - q < TILE ? (int)(end - q) : TILE, skip = TILE - width;
                if (q < skip) break; /* fewer columns than a tile has: below, row by row */
                for (m = top; m < fours; m += 4) {
                    for (int64_t stop = ahead + share; ahead < stop && ahead < last; ahead += line)
                        __builtin_prefetch(at(w, ahead, half), 0, 2);
                    dots_of_four(out, x + m * x_stride, x_stride, at(w, (q - skip) * depth, half), depth, whole, half);
                    for (int j = 0; j < 4; j++)
                        put(y + (m + j) * y_stride + q, out + TILE * j + skip, bias ? bias + q : 0, add, width);
                }
            }
            for (; m < bottom; m++)
                for (int64_t q = n; q < end; q += BLOCK) {
                    point(row, w, q, end, depth, BLOCK, half);
                    dots_of_one(out, x + m * x_stride, row, depth, whole, half);
                    int width = end - q < BLOCK ? (int)(end - q) : BLOCK;
                    put(y + m * y_stride + q, out, bias ? bias + q : 0, add, width);
                }
        }
    }
}

/* The same, for what the compiler must know beforehand. */
static void multiply(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t rows, const void *w,
                     int64_t depth, const float *bias, int add, int64_t from, int64_t to, int64_t half) {
    int whole = depth % LANES == 0;
    if (whole && half) product(y, y_stride, x, x_stride, rows, w, depth, bias, add, from, to, 1, 1);
    else if (whole) product(y, y_stride, x, x_stride, rows, w, depth, bias, add, from, to, 1, 0);
    else if (half) product(y, y_stride, x, x_stride, rows, w, depth, bias, add, from, to, 0, 1);
    else product(y, y_stride, x, x_stride, rows, w, depth, bias, add, from, to, 0, 0);
}

/* ---------------------------------------------------------------- norms, rotation, gate */

static void normalise(float *y, const float *x, const float *weight, int64_t width, float eps) {
    vec squares = zero();
    int64_t k = 0;
    for (; k + LANES <= width; k += LANES) { vec a = load(x + k); squares = fma_(a, a, squares); }
    if (k < width) { vec a = load_part(x + k, (int)(width - k)); squares = fma_(a, a, squares); }
    float scale = 1.0f / sqrtf(sum(squares) / (float)width + eps);
    for (k = 0; k + LANES <= width; k += LANES) store(y + k, times(times(load(x + k), all(scale)), load(weight + k)));
    for (; k < width; k++) y[k] = x[k] * scale * weight[k];
}

static void rotate(float *head, const float *cos, const float *sin, int64_t half) {
    for (int64_t i = 0; i < half; i++) {
        float one = head[i], two = head[half + i];
        head[i] = one * cos[i] - two * sin[i];
        head[half + i] = two * cos[i] + one * sin[i];
    }
}

/* gate *= sigmoid(gate) * up */
static void swiglu(float *gate, const float *up, int64_t from, int64_t to) {
    int64_t k = from;
    for (; k + LANES <= to; k += LANES) {
        vec g = load(gate + k);
        store(gate + k, times(divide(g, plus(all(1.0f), exp_(times(g, all(-1.0f))))), load(up + k)));
    }
    if (k < to) {
        int n = (int)(to - k);
        vec g = load_part(gate + k, n);
        store_part(gate + k, times(divide(g, plus(all(1.0f), exp_(times(g, all(-1.0f))))), load_part(up + k, n)), n);
    }
}

/* ---------------------------------------------------------------- attention */

/* Ask for floats before they are needed: sixteen rows read at once look like no stream to the processor. */
INLINE void fetch(const float *p, int64_t count) {
    for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(p + i, 0, 3);
}

/* out [head] = softmax(scale q k^T) v over positions [first, end); score [end - first rounded up to BLOCK]. */
static void attend(float *out, const float *q, const float *keys, const float *values, float *score, int64_t first,
                   int64_t end, int64_t head, float softcap, const float *sink) {
    float scale = 1.0f / sqrtf((float)head), high = sink ? *sink : -INFINITY;
    int64_t count = end - first;
    for (int64_t t = 0; t < count; t += BLOCK) {
        const void *row[BLOCK];
        int here = count - t < BLOCK ? (int)(count - t) : BLOCK;
        const float *block = keys + (first + t) * head;
        for (int i = 0; i < BLOCK; i++) row[i] = block + (i < here ? i : here - 1) * head;
        if (t + BLOCK < count) fetch(block + BLOCK * head, BLOCK * head);
        else fetch(values + first * head, BLOCK * head);
        if (head % LANES == 0) dots_of_one(score + t, q, row, head, 1, 0);
        else dots_of_one(score + t, q, row, head, 0, 0);
        for (int i = 0; i < here; i++) {
            float s = score[t + i] * scale;
            if (softcap > 0) s = softcap * tanhf(s / softcap);
            score[t + i] = s;
            high = s > high ? s : high;
        }
    }
    vec total = zero(), top = all(high);
    int64_t t = 0;
    for (; t + LANES <= count; t += LANES) {
        vec e = exp_(plus(load(score + t), times(top, all(-1.0f))));
        store(score + t, e);
        total = plus(total, e);
    }
    float rest = sink ? expf(*sink - high) : 0;
    for (; t < count; t++) { score[t] = expf(score[t] - high); rest += score[t]; }
    float share = 1.0f / (sum(total) + rest);
    for (int64_t d = 0; d < head; d += 4 * LANES) {
        vec a[4] = {zero(), zero(), zero(), zero()};
        int64_t left = head - d;
        const float *v = values + first * head + d;
        if (left >= 4 * LANES) {
            for (t = 0; t < count; t++, v += head) {
                vec p = all(score[t]);
                fetch(v + BLOCK * head, 4 * LANES);
                for (int i = 0; i < 4; i++) a[i] = fma_(p, load(v + i * LANES), a[i]);
            }
            for (int i = 0; i < 4; i++) store(out + d + i * LANES, times(a[i], all(share)));
            continue;
        }
        for (int i = 0; i * LANES < left; i++) {
            int n = left - i * LANES < LANES ? (int)(left - i * LANES) : LANES;
            v = values + first * head + d + i * LANES;
            for (t = 0; t < count; t++, v += head) a[0] = fma_(all(score[t]), load_part(v, n), a[0]);
            store_part(out + d + i * LANES, times(a[0], all(share)), n);
            a[0] = zero();
        }
    }
}

/* ---------------------------------------------------------------- the pass */

typedef struct { float *x, *normed, *q, *k, *v, *mixed, *gate, *up, *scores; } Work;

static int64_t score_floats(const Model *m, int64_t longest) { return (longest + 2 * BLOCK) / BLOCK * BLOCK * m->threads; }

/* How many floats `work` must hold. */
int64_t scratch_floats(const Model *m, int64_t count, int64_t longest) {
    int64_t q = m->heads * m->head, kv = m->kv_heads * m->head;
    return count * (2 * m->width + 2 * q + 2 * kv + 2 * m->inner) + score_floats(m, longest);
}

static Work divided(const Model *m, const Batch *b) {
    int64_t q = m->heads * m->head, kv = m->kv_heads * m->head, n = b->count;
    Work w = {.x = b->work};
    w.normed = w.x + n * m->width;
    w.q = w.normed + n * m->width;
    w.k = w.q + n * q;
    w.v = w.k + n * kv;
    w.mixed = w.v + n * kv;
    w.gate = w.mixed + n * q;
    w.up = w.gate + n * m->inner;
    w.scores = w.up + n * m->inner;
    return w;
}

/* This thread's part of `size`, in whole blocks. */
static void part(int64_t size, int64_t block, int64_t thread, int64_t threads, int64_t *from, int64_t *to) {
    int64_t blocks = (size + block - 1) / block;
    *from = blocks * thread / threads * block;
    *to = blocks * (thread + 1) / threads * block;
    if (*to > size) *to = size;
    if (*from > size) *from = size;
}

static void normalise_rows(const Model *m, float *y, const float *x, const float *weight, int64_t from, int64_t to) {
    for (int64_t row = from; row < to; row++)
        normalise(y + row * m->width, x + row * m->width, weight, m->width, m->eps);
}

/* Norms and rotation of queries and keys of rows [from, to); keys and values go into the cache. */
static void place(const Model *m, const Layer *l, const Cache *c, const Batch *b, const Work *w, int64_t layer, int64_t from,
                  int64_t to) {
    int64_t d = m->head, half = m->rotary / 2;
    for (int64_t row = from; row < to; row++) {
        const float *cos = b->cos + row * half, *sin = b->sin + row * half;
        for (int64_t h = 0; h < m->heads; h++) {
            float *q = w->q + (row * m->heads + h) * d;
            if (l->q_norm) normalise(q, q, l->q_norm, d, m->eps);
            if (l->rotates) rotate(q, cos, sin, half);
        }
        for (int64_t h = 0; h < m->kv_heads; h++) {
            float *k = w->k + (row * m->kv_heads + h) * d, *v = w->v + (row * m->kv_heads + h) * d;
            if (l->k_norm) normalise(k, k, l->k_norm, d, m->eps);
            if (l->rotates) rotate(k, cos, sin, half);
            int64_t at = layer * c->by_layer + b->slot[row] * c->by_slot + h * c->by_head + b->position[row] * d;
            memcpy(c->keys + at, k, 4 * (size_t)d);
            memcpy(c->values + at, v, 4 * (size_t)d);
        }
    }
}

static void attend_heads(const Model *m, const Layer *l, const Cache *c, const Batch *b, const Work *w, int64_t layer,
                         int64_t thread) {
    int64_t d = m->head, group = m->heads / m->kv_heads, tasks = b->count * m->kv_heads;
    float *score = w->scores + score_floats(m, b->longest) / m->threads * thread;
#ifdef _OPENMP
#pragma omp for schedule(dynamic, 4)
#endif
    for (int64_t task = 0; task < tasks; task++) {
        int64_t row = task / m->kv_heads, kv = task % m->kv_heads, end = b->position[row] + 1;
        int64_t first = l->window > 0 && end > l->window ? end - l->window : 0;
        int64_t at = layer * c->by_layer + b->slot[row] * c->by_slot + kv * c->by_head;
        for (int64_t g = 0; g < group; g++) {
            int64_t h = kv * group + g, place_of = (row * m->heads + h) * d;
            attend(w->mixed + place_of, w->q + place_of, c->keys + at, c->values + at, score, first, end, d, m->softcap,
                   l->sinks ? l->sinks + h : 0);
        }
    } /* ends with a barrier */
}

/* x [width] = a token's row of the embedding. */
static void embed(const Model *m, float *x, int64_t token) {
    for (int64_t k = 0; k < m->width; k += LANES) {
        int n = m->width - k < LANES ? (int)(m->width - k) : LANES;
        store_part(x + k, load_w_part(m->embed, token * m->width + k, n, (int)m->half), n);
    }
}

static void run_layer(const Model *m, const Layer *l, const Cache *c, const Batch *b, const Work *w, int64_t layer,
                      int64_t thread, int64_t threads) {
    int64_t n = b->count, q = m->heads * m->head, kv = m->kv_heads * m->head, from, to, top, bottom;
    part(n, 1, thread, threads, &top, &bottom);
    normalise_rows(m, w->normed, w->x, l->input_norm, top, bottom);
    BARRIER
    part(q, BLOCK, thread, threads, &from, &to);
    multiply(w->q, q, w->normed, m->width, n, l->q, m->width, l->q_bias, 0, from, to, m->half);
    part(kv, BLOCK, thread, threads, &from, &to);
    multiply(w->k, kv, w->normed, m->width, n, l->k, m->width, l->k_bias, 0, from, to, m->half);
    multiply(w->v, kv, w->normed, m->width, n, l->v, m->width, l->v_bias, 0, from, to, m->half);
    BARRIER
    place(m, l, c, b, w, layer, top, bottom);
    BARRIER
    attend_heads(m, l, c, b, w, layer, thread);
    part(m->width, BLOCK, thread, threads, &from, &to);
    multiply(w->x, m->width, w->mixed, q, n, l->o, q, l->o_bias, 1, from, to, m->half);
    BARRIER
    normalise_rows(m, w->normed, w->x, l->post_norm, top, bottom);
    BARRIER
    part(m->inner, BLOCK, thread, threads, &from, &to);
    multiply(w->gate, m->inner, w->normed, m->width, n, l->gate, m->width, l->gate_bias, 0, from, to, m->half);
    multiply(w->up, m->inner, w->normed, m->width, n, l->up, m->width, l->up_bias, 0, from, to, m->half);
    for (int64_t row = 0; row < n; row++) swiglu(w->gate + row * m->inner, w->up + row * m->inner, from, to);
    BARRIER
    part(m->width, BLOCK, thread, threads, &from, &to);
    multiply(w->x, m->width, w->gate, m->inner, n, l->down, m->inner, l->down_bias, 1, from, to, m->half);
    BARRIER
}

/* Logits of the wanted tokens; what they need is gathered to the front of `normed`. */
static void run_head(const Model *m, const Batch *b, const Work *w, int64_t thread, int64_t threads) {
    int64_t from, to;
    part(b->wanted_count, 1, thread, threads, &from, &to);
    for (int64_t i = from; i < to; i++)
        normalise(w->normed + i * m->width, w->x + b->wanted[i] * m->width, m->norm, m->width, m->eps);
    BARRIER
    part(m->vocab, BLOCK, thread, threads, &from, &to);
    multiply(b->logits, m->vocab, w->normed, m->width, b->wanted_count, m->output, m->width, 0, 0, from, to, m->half);
    if (m->final_softcap > 0)
        for (int64_t i = 0; i < b->wanted_count; i++)
            for (int64_t n = from; n < to; n++) {
                float *value = b->logits + i * m->vocab + n;
                *value = m->final_softcap * tanhf(*value / m->final_softcap);
            }
}

void forward(const Model *m, const Cache *c, const Batch *b) {
    Work w = divided(m, b);
#ifdef _OPENMP
#pragma omp parallel num_threads(m->threads)
#endif
    {
#ifdef _OPENMP
        int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
#else
        int64_t thread = 0, threads = 1;
#endif
        int64_t from, to;
        part(b->count, 1, thread, threads, &from, &to);
        for (int64_t row = from; row < to; row++) embed(m, w.x + row * m->width, b->token[row]);
        for (int64_t layer = 0; layer < m->layers; layer++) run_layer(m, m->layer + layer, c, b, &w, layer, thread, threads);
        run_head(m, b, &w, thread, threads);
    }
}

/* ---------------------------------------------------------------- the draw */

#define STRETCH 64 /* tokens whose probabilities are summed together before the draw looks at them one by one */

/* e^(logit - high) of one token as the stretches have it. */
static float weight_of(float logit, float high) {
    float lanes[LANES];
    store(lanes, exp_or_zero(all(logit - high)));
    return lanes[0];
}

/* The first of `count` tokens at which the sum from `sum` on is above the threshold; where rounding lets none be, the last
   that is likely at all. */
static int64_t first_above(const float *logit, int64_t count, float high, float sum, float threshold) {
    int64_t last = 0;
    for (int64_t i = 0; i < count; i++) {
        float weight = weight_of(logit[i], high);
        if (weight > 0) last = i;
        sum += weight;
        if (sum > threshold) return i;
    }
    return last;
}

/* Sums of whole and part stretches of e^(logit - high); the sum of all. */
static float stretch_sums(float *sums_of, const float *logit, int64_t vocab, float high) {
    float total = 0;
    for (int64_t start = 0; start < vocab; start += STRETCH) {
        int64_t end = start + STRETCH < vocab ? start + STRETCH : vocab, k = start;
        vec part = zero();
        for (; k + LANES <= end; k += LANES) part = plus(part, exp_or_zero(plus(load(logit + k), all(-high))));
        float rest = 0;
        for (; k < end; k++) rest += weight_of(logit[k], high);
        total += sums_of[start / STRETCH] = sum(part) + rest;
    }
    return total;
}

static float highest(const float *logit, int64_t count) {
    vec high = all(-INFINITY);
    int64_t k = 0;
    for (; k + LANES <= count; k += LANES) high = max_(high, load(logit + k));
    float found = largest(high);
    for (; k < count; k++) found = logit[k] > found ? logit[k] : found;
    return found;
}

/* A token for each row of logits [rows, vocab] from its softmax, by one number in [0, 1) each, and its log-probability;
   `scratch` holds vocab / STRETCH + 1 floats per thread. A row's numbers do not depend on the others. */
void draw(const float *logits, const float *uniform, int64_t rows, int64_t vocab, int64_t threads, float *scratch,
          int64_t *tokens, float *logprobs) {
    int64_t stretches = (vocab + STRETCH - 1) / STRETCH;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static)
#endif
    for (int64_t row = 0; row < rows; row++) {
#ifdef _OPENMP
        float *sums_of = scratch + stretches * omp_get_thread_num();
#else
        float *sums_of = scratch;
#endif
        const float *logit = logits + row * vocab;
        float high = highest(logit, vocab), total = stretch_sums(sums_of, logit, vocab, high);
        float threshold = uniform[row] * total, before = 0;
        int64_t last = 0, at = 0; /* stretches: the last that is likely at all, the one drawn from */
        for (; at < stretches && !(before + sums_of[at] > threshold); at++) {
            if (sums_of[at] > 0) last = at;
            before += sums_of[at];
        }
        if (at == stretches) { at = last; before = -INFINITY; } /* rounding, or no numbers: its last likely token */
        int64_t start = at * STRETCH, count = vocab - start < STRETCH ? vocab - start : STRETCH;
        int64_t token = start + first_above(logit + start, count, high, before, threshold);
        tokens[row] = token;
        logprobs[row] = logit[token] - high - logf(total);
    }
}
