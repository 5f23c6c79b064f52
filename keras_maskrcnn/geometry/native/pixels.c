// Pixels in rows: enlarging RGB of 8 bits, recolouring it, and bilinear resizing in float32.
//
// Each function gives the bits of the Python beside it: Pillow's `resize` and `convert`, and numpy's of `resizing.py`.

#include "host.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

enum { kBits = 22, kHalf = 1 << (kBits - 1) };  // Pillow's fixed point: Resample.c, PRECISION_BITS

// Compilers take conversions of vectors lane by lane, so x86 has its own instructions here.
#if defined(__SSE2__)

INLINE Ints4 load_pixel(const uint8_t *from) {  // reads a byte more than a pixel has
  int32_t bytes;
  memcpy(&bytes, from, sizeof bytes);
  const __m128i zero = _mm_setzero_si128(), words = _mm_unpacklo_epi8(_mm_cvtsi32_si128(bytes), zero);
  return (Ints4)_mm_unpacklo_epi16(words, zero);
}

INLINE void store_pixel(uint8_t *to, Ints4 values) {  // writes a byte more than a pixel has; clips to 0..255
  const __m128i words = _mm_packs_epi32((__m128i)values, (__m128i)values);
  const int32_t bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
  memcpy(to, &bytes, sizeof bytes);
}

#else

INLINE Ints4 load_pixel(const uint8_t *from) { return (Ints4){from[0], from[1], from[2], 0}; }

INLINE void store_pixel(uint8_t *to, Ints4 values) {
  for (int k = 0; k < 3; ++k) to[k] = (uint8_t)(values[k] < 0 ? 0 : values[k] > 255 ? 255 : values[k]);
}

#endif

INLINE Ints4 recolored(Ints4 pixel, const Floats4 *columns) {
  const Floats4 p = __builtin_convertvector(pixel, Floats4);
  return __builtin_convertvector(columns[0] * p[0] + columns[1] * p[1] + columns[2] * p[2] + columns[3] + 0.5f, Ints4);
}

#if defined(__x86_64__) && defined(__GNUC__)

// The same for eight pixels at a time, colour by colour. Returns how many of them are done.
__attribute__((target("avx2"))) static int64_t recolor_eights(const uint8_t *in, int64_t count, const float *matrix,
                                                              uint8_t *out) {
  const __m256i apart = _mm256_set1_epi32(0x80808000);  // a byte of each pixel, and three of nothing
  const __m256i step = _mm256_setr_epi32(0, 3, 6, 9, 0, 3, 6, 9), one = _mm256_set1_epi32(1);
  const __m256i join = _mm256_setr_epi8(0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11, -1, -1, -1, -1, 0, 4, 8, 1, 5, 9, 2, 6, 10,
                                        3, 7, 11, -1, -1, -1, -1);
  const __m256i red = _mm256_or_si256(apart, step), green = _mm256_add_epi32(red, one);
  const __m256i places[3] = {red, green, _mm256_add_epi32(green, one)};
  __m256 factors[12];
  for (int k = 0; k < 12; ++k) factors[k] = _mm256_set1_ps(matrix[k]);
  const __m256 half = _mm256_set1_ps(0.5f);
  int64_t i = 0;
  for (; i + 10 <= count; i += 8) {  // 28 bytes are read and written
    const __m128i low = _mm_loadu_si128((const __m128i *)(in + 3 * i));
    const __m128i high = _mm_loadu_si128((const __m128i *)(in + 3 * i + 12));
    const __m256i eight = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    __m256 p[3];
    __m256i made[3];
    for (int c = 0; c < 3; ++c) p[c] = _mm256_cvtepi32_ps(_mm256_shuffle_epi8(eight, places[c]));
    for (int c = 0; c < 3; ++c) {
      const __m256 *f = factors + 4 * c;
      __m256 v = _mm256_add_ps(_mm256_mul_ps(f[0], p[0]), _mm256_mul_ps(f[1], p[1]));
      v = _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(v, _mm256_mul_ps(f[2], p[2])), f[3]), half);
      made[c] = _mm256_cvttps_epi32(v);
    }
    const __m256i two = _mm256_packs_epi32(made[0], made[1]), third = _mm256_packs_epi32(made[2], made[2]);
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_packus_epi16(two, third), join);
    _mm_storeu_si128((__m128i *)(out + 3 * i), _mm256_castsi256_si128(bytes));
    _mm_storeu_si128((__m128i *)(out + 3 * i + 12), _mm256_extracti128_si256(bytes, 1));
  }
  return i;
}

#endif

INLINE void recolor(const uint8_t *in, int64_t count, const float *matrix, uint8_t *out) {
  Floats4 columns[4];
  for (int k = 0; k < 4; ++k) columns[k] = (Floats4){matrix[k], matrix[4 + k], matrix[8 + k], 0};
  int64_t i = 0;
#if defined(__x86_64__) && defined(__GNUC__)
  if (__builtin_cpu_supports("avx2")) i = recolor_eights(in, count, matrix, out);
#endif
  for (; i + 1 < count; ++i) store_pixel(out + 3 * i, recolored(load_pixel(in + 3 * i), columns));
  if (count) {
    uint8_t last[4] = {0};
    memcpy(last, in + 3 * (count - 1), 3);
    store_pixel(last, recolored(load_pixel(last), columns));
    memcpy(out + 3 * (count - 1), last, 3);
  }
}

// Pillow's `convert("RGB", matrix)`. `matrix`: 3 rows of [r, g, b, 1], none of which leaves the range of int32.
EXPORT WIDTHS void km_recolor_rgb(const uint8_t *in, int64_t count, const float *matrix, uint8_t *out) {
  recolor(in, count, matrix, out);
}

// One row along x. `at`: first byte of the first of two pixels; `weight`: those of both.
INLINE void widen(const uint8_t *row, const int32_t *at, const int32_t *weight, int width, uint8_t *out) {
  for (int x = 0; x < width; ++x) {
    const Ints4 first = load_pixel(row + at[x]), second = load_pixel(row + at[x] + 3);
    store_pixel(out + 3 * x, (first * weight[2 * x] + second * weight[2 * x + 1] + kHalf) >> kBits);
  }
}

INLINE void mix_rows(const uint8_t *restrict a, const uint8_t *restrict b, int32_t of_a, int32_t of_b, int count,
                     uint8_t *restrict out) {
  for (int i = 0; i < count; ++i) out[i] = (uint8_t)((a[i] * of_a + b[i] * of_b + kHalf) >> kBits);
}

// Pillow's bilinear `resize` of RGB where it enlarges: two taps along x, rounded, then two along y.
// `row_at`: the first of two source rows of each row; a second one beyond the image has no weight.
// Each row is recoloured while it is in the cache, unless `matrix` is NULL. Returns 0 where there is no memory.
EXPORT WIDTHS int km_enlarge_rgb(const uint8_t *source, int source_height, int source_width, const int32_t *at,
                                 const int32_t *weight, int width, const int32_t *row_at, const int32_t *row_weight,
                                 int height, const float *matrix, uint8_t *out) {
  const size_t bytes = 3 * (size_t)width, padded = bytes + 16, row_bytes = 3 * (size_t)source_width;
  uint8_t *memory = calloc(1, 3 * padded + row_bytes + 16);
  if (!memory) return 0;
  uint8_t *mixed = memory + 2 * padded, *row = memory + 3 * padded;
  int kept[2] = {-1, -1};  // source rows that are widened in the two buffers
  for (int y = 0; y < height; ++y) {
    const uint8_t *pair[2];
    for (int k = 0; k < 2; ++k) {
      int r = row_at[y] + k;
      if (r >= source_height) r = source_height - 1;
      if (kept[r & 1] != r) {
        memcpy(row, source + r * row_bytes, row_bytes);
        widen(row, at, weight, width, memory + (r & 1) * padded);
        kept[r & 1] = r;
      }
      pair[k] = memory + (r & 1) * padded;
    }
    uint8_t *to = out + y * bytes;
    mix_rows(pair[0], pair[1], row_weight[2 * y], row_weight[2 * y + 1], (int)bytes, matrix ? mixed : to);
    if (matrix) recolor(mixed, width, matrix, to);
  }
  free(memory);
  return 1;
}

// One row along x: low + (high - low) * weight, as numpy rounds it.
INLINE void widen_floats(const float *row, const int64_t *low, const int64_t *high, const float *weight, int width,
                         int channels, float *out) {
  for (int x = 0; x < width; ++x) {
    const float *a = row + low[x] * channels, *b = row + high[x] * channels;
    for (int c = 0; c < channels; ++c) out[x * channels + c] = (b[c] - a[c]) * weight[x] + a[c];
  }
}

INLINE void mix_floats(const float *restrict a, const float *restrict b, float weight, int64_t count,
                       float *restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] = (b[i] - a[i]) * weight + a[i];
}

// `resize_bilinear` of `resizing.py`: first along x, then along y. Of `source`, float32 or else 8 bits.
// `stride`: floats from one row of `out` to the next. Returns 0 where there is no memory.
EXPORT WIDTHS int km_resize_floats(const void *source, int is_float, int source_width, int channels,
                                   const int64_t *low, const int64_t *high, const float *weight, int width,
                                   const int64_t *row_low, const int64_t *row_high, const float *row_weight,
                                   int height, float *out, int64_t stride) {
  const int64_t count = (int64_t)width * channels, in_row = (int64_t)source_width * channels;
  float *memory = malloc(sizeof(float) * (2 * count + in_row));
  if (!memory) return 0;
  int64_t kept[2] = {-1, -1};
  for (int y = 0; y < height; ++y) {
    const float *pair[2];
    for (int k = 0; k < 2; ++k) {
      const int64_t r = k ? row_high[y] : row_low[y], place = r & 1;
      if (kept[place] != r) {
        const float *row = (const float *)source + r * in_row;
        if (!is_float) {
          float *copy = memory + 2 * count;
          for (int64_t i = 0; i < in_row; ++i) copy[i] = ((const uint8_t *)source)[r * in_row + i];
          row = copy;
        }
        if (channels == 3)
          widen_floats(row, low, high, weight, width, 3, memory + place * count);
        else
          widen_floats(row, low, high, weight, width, channels, memory + place * count);
        kept[place] = r;
      }
      pair[k] = memory + place * count;
    }
    mix_floats(pair[0], pair[1], row_weight[y], count, out + y * stride);
  }
  free(memory);
  return 1;
}
