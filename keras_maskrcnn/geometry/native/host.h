// What the files of this library share. Plain C; no Python, no framework.

#ifndef KERAS_MASKRCNN_HOST_H
#define KERAS_MASKRCNN_HOST_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

// The loops are compiled twice where the C library can choose between the two at run time. Both give the same bits:
// neither width fuses a product with a sum.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define WIDTHS __attribute__((target_clones("avx2", "default")))
#else
#define WIDTHS
#endif
#define INLINE static inline __attribute__((always_inline))

typedef int32_t Ints4 __attribute__((vector_size(16)));
typedef float Floats4 __attribute__((vector_size(16)));
typedef uint8_t Bytes4 __attribute__((vector_size(4)));

#endif
