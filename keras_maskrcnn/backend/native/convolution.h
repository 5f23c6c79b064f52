// A 3x3 convolution of maps that share a kernel, and the two ways to compute it.

#ifndef KERAS_MASKRCNN_CONVOLUTION_H_
#define KERAS_MASKRCNN_CONVOLUTION_H_

#include <cstdint>
#include <memory>
#include <vector>

// An input map (B, H, W, C).
struct Map {
  const float* data;
  int64_t images, rows, columns, channels;
  int64_t Cells() const { return images * rows * columns; }
};

// Maps (B, H_l, W_l, channels), kernel (3, 3, channels / groups, filters), one cell of zero padding. An output has the
// size of its map divided by the stride, rounded up. Each group of filters reads its own group of channels, in order.
// Channels and filters of a group are multiples of 16.
struct Convolution {
  std::vector<Map> maps;
  int64_t channels, filters, groups;
  int stride, threads;

  // Of one group.
  int64_t Depth() const { return channels / groups; }
  int64_t Width() const { return filters / groups; }

  // The shape of gradients and outputs of map l.
  Map Output(size_t l) const {
    const Map& map = maps[l];
    return {nullptr, map.images, (map.rows + stride - 1) / stride, (map.columns + stride - 1) / stride, filters};
  }
};

// Outputs (B, h_l, w_l, filters) with bias (filters,), and ReLU if `relu`. Winograd needs stride 1 and one group.
void ConvolveByWinograd(const Convolution& convolution, const float* kernel, const float* bias, bool relu,
                        const std::vector<float*>& outputs);
void ConvolveDirectly(const Convolution& convolution, const float* kernel, const float* bias, bool relu,
                      const std::vector<float*>& outputs);

// The gradient (3, 3, channels / groups, filters) of the kernel, from the gradients of the outputs.
void KernelGradientByWinograd(const Convolution& convolution, const std::vector<const float*>& upstreams,
                              float* gradient);
void KernelGradientDirectly(const Convolution& convolution, const std::vector<const float*>& upstreams,
                            float* gradient);

// Selects the routines for this processor's vectors; called once.
void ChooseWinogradWidth();
void ChooseDirectWidth();

// Some cells, or tiles of cells, of one map that are processed together.
struct Block {
  size_t map;
  int64_t first, count;
};

// Divides counts[l] units of each map into blocks of at most `size`.
inline std::vector<Block> MakeBlocks(const std::vector<int64_t>& counts, int64_t size) {
  std::vector<Block> blocks;
  for (size_t l = 0; l < counts.size(); ++l) {
    for (int64_t first = 0; first < counts[l]; first += size) {
      blocks.push_back({l, first, size < counts[l] - first ? size : counts[l] - first});
    }
  }
  return blocks;
}

// Uninitialised memory, aligned so that vectors do not straddle cache lines.
class Buffer {
 public:
  explicit Buffer(int64_t count) : memory_(new float[count + 16]) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(memory_.get());
    data_ = reinterpret_cast<float*>((at + 63) / 64 * 64);
  }
  float* data() const { return data_; }

 private:
  std::unique_ptr<float[]> memory_;
  float* data_;
};

inline int64_t RoundUp(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

#endif  // KERAS_MASKRCNN_CONVOLUTION_H_
