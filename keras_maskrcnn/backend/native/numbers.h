// Numbers of maps, float32 or bfloat16: computed with as float32.

#ifndef KERAS_MASKRCNN_NUMBERS_H_
#define KERAS_MASKRCNN_NUMBERS_H_

#include <cstdint>
#include <cstring>

struct Bfloat16 {
  uint16_t bits;
};

inline float ToFloat(float value) { return value; }

inline float ToFloat(Bfloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

inline void Store(float value, float* to) { *to = value; }

inline void Store(float value, Bfloat16* to) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if (value != value) {
    to->bits = 0x7FC0;
    return;
  }
  bits += 0x7FFF + ((bits >> 16) & 1);  // rounds to nearest, ties to even
  to->bits = static_cast<uint16_t>(bits >> 16);
}

#endif  // KERAS_MASKRCNN_NUMBERS_H_
