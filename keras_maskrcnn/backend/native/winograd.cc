// 3x3 convolutions by Winograd's minimal filtering (Lavin and Gray 2016, "Fast algorithms for convolutional neural
// networks"): a quarter of the multiplications of a direct sum. Two thirds of the arithmetic of a Mask R-CNN are 3x3
// convolutions of 256 channels (pyramid, RPN, mask head). TensorFlow's CPU kernels for them already run at the peak
// speed of the processor, so only fewer multiplications can be faster.
//
// The arithmetic is in winograd.inc; this file has the tiles and threads. Blocks of tiles are fixed, and each sum is
// taken in their order, so results are bit-identical for any number of threads.

#include <algorithm>
#include <cstring>

#include "convolution.h"
#include "operators.h"
#include "threads.h"

namespace {

constexpr float kA = 0.75f, kB = 1.5f;  // the points +-a, +-b
constexpr float kA2 = kA * kA, kB2 = kB * kB;
// Reciprocals of the products of differences of points, which interpolation divides by.
constexpr float kF0 = 1.0f / (kA2 * kB2), kF1 = 0.5f / (kA2 * (kA2 - kB2)), kF2 = 0.5f / (kB2 * (kB2 - kA2));

struct Routines {
  int rows, panel;
  void (*transform_kernel)(const float*, int64_t, int64_t, int64_t, float*, int64_t);
  void (*transform_kernel_back)(const float*, int64_t, int64_t, int64_t, int64_t, float*);
  void (*transform_input)(const float* const*, int64_t, float*, int64_t, int64_t, int64_t);
  void (*transform_output)(const float*, int64_t, int64_t, const float*, bool, float* const*);
  void (*transform_upstream)(const float* const*, int64_t, float*, int64_t, int64_t);
  void (*multiply)(const float*, int64_t, int64_t, const float*, int64_t, float*, int64_t);
  void (*add_products)(const float*, const float*, int64_t, int64_t, int64_t, float*);
};

#define WIDTH_ROUTINES                                                                                           \
  {                                                                                                              \
    kRows, kPanel, TransformKernel, TransformKernelBack, TransformInput, TransformOutput, TransformUpstream, Multiply, \
        AddProducts,                                                                                             \
  }
#define WIDTH_SOURCE "winograd.inc"
#include "widths.inc"

constexpr int kPlanes = 36;
constexpr int64_t kForwardTiles = 48;   // tiles per block: its planes (1.8 MB at 256 channels) stay in a core's caches
constexpr int64_t kGradientTiles = 240; // tiles per block, enough to pay for reading and writing the sums (9.4 MB) once
constexpr int64_t kPad = 16;            // floats between planes: without them all 36 map to one cache set

int64_t TileRows(const Map& map) { return (map.rows + 3) / 4; }
int64_t TileColumns(const Map& map) { return (map.columns + 3) / 4; }

std::vector<int64_t> Tiles(const std::vector<Map>& maps) {
  std::vector<int64_t> counts;
  for (const Map& map : maps) counts.push_back(map.images * TileRows(map) * TileColumns(map));
  return counts;
}

// Addresses of a square of cells of tile `number`, `side` per side, starting `before` cells up and left of its outputs;
// `outside` replaces cells outside the map.
template <typename T>
void FindCells(const Map& map, T* data, int64_t channels, int64_t number, int side, int before, T* outside, T** cells) {
  const int64_t across = TileColumns(map), down = TileRows(map);
  const int64_t image = number / (across * down);
  const int64_t top = number / across % down * 4 - before, left = number % across * 4 - before;
  for (int i = 0; i < side; ++i) {
    for (int j = 0; j < side; ++j) {
      const int64_t y = top + i, x = left + j;
      const bool inside = y >= 0 && y < map.rows && x >= 0 && x < map.columns;
      cells[i * side + j] =
          inside ? data + ((image * map.rows + y) * map.columns + x) * channels : outside;
    }
  }
}

}  // namespace

// Forward -----------------------------------------------------------------------------------------------------------

void ConvolveByWinograd(const Convolution& convolution, const float* kernel, const float* bias, bool relu,
                        const std::vector<float*>& outputs) {
  const Routines& run = *routines;
  const std::vector<Map>& maps = convolution.maps;
  const int64_t channels = convolution.channels, filters = convolution.filters;
  const int threads = convolution.threads;
  const int64_t panels = RoundUp(filters, run.panel) / run.panel, width = panels * run.panel;
  const int64_t factor_plane = width * channels + kPad;
  Buffer factors(kPlanes * factor_plane);
  if (width != filters) std::memset(factors.data(), 0, sizeof(float) * kPlanes * factor_plane);
  Share(panels, threads, 1, [&] {
    return [&](int64_t p) { run.transform_kernel(kernel, channels, filters, p, factors.data(), factor_plane); };
  });
  const std::vector<float> zeros(channels, 0.0f);
  const std::vector<Block> blocks = MakeBlocks(Tiles(maps), kForwardTiles);
  Share(static_cast<int64_t>(blocks.size()), threads, 1, [&] {
    const int64_t input_plane = kForwardTiles * channels + kPad, product_plane = kForwardTiles * width + kPad;
    auto inputs = std::make_shared<Buffer>(kPlanes * input_plane);
    auto products = std::make_shared<Buffer>(kPlanes * product_plane);
    std::memset(inputs->data(), 0, sizeof(float) * kPlanes * input_plane);  // rows that fill up a register tile
    return [&, inputs, products, input_plane, product_plane](int64_t unit) {
      const Block& block = blocks[unit];
      const Map& map = maps[block.map];
      for (int64_t t = 0; t < block.count; ++t) {
        const float* cells[36];
        FindCells(map, map.data, channels, block.first + t, 6, 1, zeros.data(), cells);
        run.transform_input(cells, channels, inputs->data() + t * channels, input_plane, channels, 0);
      }
      const int64_t tiles = RoundUp(block.count, run.rows);
      for (int p = 0; p < kPlanes; ++p) {
        run.multiply(inputs->data() + p * input_plane, tiles, channels, factors.data() + p * factor_plane, panels,
                     products->data() + p * product_plane, width);
      }
      for (int64_t t = 0; t < block.count; ++t) {
        float* cells[16];
        FindCells<float>(map, outputs[block.map], filters, block.first + t, 4, 0, nullptr, cells);
        run.transform_output(products->data() + t * width, product_plane, filters, bias, relu, cells);
      }
    };
  });
}

// Gradient of the kernel --------------------------------------------------------------------------------------------

void KernelGradientByWinograd(const Convolution& convolution, const std::vector<const float*>& upstreams,
                              float* gradient) {
  const Routines& run = *routines;
  const std::vector<Map>& maps = convolution.maps;
  const int64_t channels = convolution.channels, filters = convolution.filters;
  const int threads = convolution.threads;
  const int64_t left_plane = RoundUp(channels, run.panel) * kGradientTiles + kPad;
  const int64_t right_plane = RoundUp(filters, run.panel) * kGradientTiles + kPad;
  const int64_t sum_plane = channels * filters + kPad;
  Buffer left(kPlanes * left_plane), right(kPlanes * right_plane), sums(kPlanes * sum_plane);
  // Padding of panels is multiplied but never stored, so it only has to be no signalling NaN.
  std::memset(right.data(), 0, sizeof(float) * kPlanes * right_plane);
  std::memset(sums.data(), 0, sizeof(float) * kPlanes * sum_plane);
  const std::vector<float> zeros(std::max(channels, filters), 0.0f);
  for (const Block& block : MakeBlocks(Tiles(maps), kGradientTiles)) {
    const Map& map = maps[block.map];
    const int64_t panel = block.count * run.panel;  // floats
    Share(block.count, threads, 8, [&] {
      return [&](int64_t t) {
        const float* cells[36];
        FindCells(map, map.data, channels, block.first + t, 6, 1, zeros.data(), cells);
        run.transform_input(cells, channels, left.data() + t * run.panel, left_plane, run.panel, panel);
        FindCells(map, upstreams[block.map], filters, block.first + t, 4, 0, zeros.data(), cells);
        run.transform_upstream(cells, filters, right.data() + t * run.panel, right_plane, panel);
      };
    });
    Share(kPlanes, threads, 1, [&] {
      return [&](int64_t p) {
        run.add_products(left.data() + p * left_plane, right.data() + p * right_plane, block.count, channels, filters,
                         sums.data() + p * sum_plane);
      };
    });
  }
  Share(channels, threads, 8, [&] {
    return [&](int64_t c) { run.transform_kernel_back(sums.data(), sum_plane, channels, filters, c, gradient); };
  });
}

void ChooseWinogradWidth() { ChooseWidth(); }
