// Direct 3x3 convolutions: with strides, or of maps so small that transforming the kernel for Winograd would take
// longer than the sums. The arithmetic is in direct.inc; this file has the blocks and threads. Each sum is taken in the
// order of taps and channels (of cells in the gradient), so results are bit-identical for any number of threads.

#include <algorithm>
#include <cstring>

#include "convolution.h"
#include "operators.h"
#include "threads.h"

namespace {

constexpr int kTaps = 9;

struct Routines {
  int rows, panel;
  void (*pack_panel)(const float*, int64_t, int64_t, int64_t, float*);
  void (*sum_taps)(const float* const*, int64_t, int64_t, const float*, const float*, bool, bool, int64_t, float*,
                   int64_t);
  void (*add_outer_products)(const float* const*, int64_t, const float*, int64_t, int64_t, int64_t, float*);
};

#define WIDTH_ROUTINES {kRows, kPanel, PackPanel, SumTaps, AddOuterProducts}
#define WIDTH_SOURCE "direct.inc"
#include "widths.inc"

constexpr int64_t kForwardCells = 48;    // outputs per block, a multiple of every register tile's rows
constexpr int64_t kGradientCells = 240;  // cells per block: the input for a panel stays in the L1 cache

// Addresses of the cells that each tap reads for `count` outputs from number `first` on; `outside` replaces cells
// outside the map. Addresses of one tap are contiguous, `pitch` apart from those of the next tap.
void FindCells(const Convolution& convolution, size_t l, int64_t first, int64_t count, const float* outside,
               int64_t pitch, const float** cells) {
  const Map &map = convolution.maps[l], output = convolution.Output(l);
  int64_t x = first % output.columns, y = first / output.columns % output.rows;
  int64_t image = first / (output.columns * output.rows);
  for (int64_t t = 0; t < count; ++t) {
    for (int tap = 0; tap < kTaps; ++tap) {
      const int64_t row = y * convolution.stride + tap / 3 - 1;
      const int64_t column = x * convolution.stride + tap % 3 - 1;
      const bool inside = row >= 0 && row < map.rows && column >= 0 && column < map.columns;
      cells[tap * pitch + t] =
          inside ? map.data + ((image * map.rows + row) * map.columns + column) * map.channels : outside;
    }
    if (++x == output.columns) {
      x = 0;
      if (++y == output.rows) y = 0, ++image;
    }
  }
}

std::vector<int64_t> OutputCells(const Convolution& convolution) {
  std::vector<int64_t> counts;
  for (size_t l = 0; l < convolution.maps.size(); ++l) counts.push_back(convolution.Output(l).Cells());
  return counts;
}

}  // namespace

void ConvolveDirectly(const Convolution& convolution, const float* kernel, const float* bias, bool relu,
                      const std::vector<float*>& outputs) {
  const Routines& run = *routines;
  const int64_t channels = convolution.channels, filters = convolution.filters, threads = convolution.threads;
  const int64_t panels = RoundUp(filters, run.panel) / run.panel, panel_size = kTaps * channels * run.panel;
  Buffer packed(panels * panel_size);
  Share(panels, threads, 1, [&] {
    return [&](int64_t p) { run.pack_panel(kernel, kTaps * channels, filters, p, packed.data() + p * panel_size); };
  });
  const std::vector<float> zeros(channels, 0.0f);
  const std::vector<Block> blocks = MakeBlocks(OutputCells(convolution), kForwardCells);
  if (blocks.empty()) return;
  // If there are few blocks, divide them by panels too, so that every thread has work.
  const int64_t wanted = (4 * threads + static_cast<int64_t>(blocks.size()) - 1) / static_cast<int64_t>(blocks.size());
  const int64_t groups = std::min(panels, wanted), group = (panels + groups - 1) / groups;
  Share(static_cast<int64_t>(blocks.size()) * groups, threads, 1, [&] {
    return [&](int64_t unit) {
      const Block& block = blocks[unit / groups];
      const float* cells[kTaps * kForwardCells];
      std::fill(cells, cells + kTaps * kForwardCells, zeros.data());  // rows that fill up a register tile
      FindCells(convolution, block.map, block.first, block.count, zeros.data(), kForwardCells, cells);
      float* to = outputs[block.map] + block.first * filters;
      const int64_t first = unit % groups * group;
      for (int64_t p = first; p < std::min(panels, first + group); ++p) {
        const int64_t k = p * run.panel;
        for (int64_t t = 0; t < block.count; t += run.rows) {
          run.sum_taps(cells + t, kForwardCells, channels, packed.data() + p * panel_size, bias + k, relu,
                       k + run.panel / 2 < filters, block.count - t, to + t * filters + k, filters);
        }
      }
    };
  });
}

void KernelGradientDirectly(const Convolution& convolution, const std::vector<const float*>& upstreams,
                            float* gradient) {
  const Routines& run = *routines;
  const int64_t channels = convolution.channels, filters = convolution.filters;
  const int64_t panels = RoundUp(filters, run.panel) / run.panel, slices = RoundUp(channels, run.panel) / run.panel;
  std::memset(gradient, 0, sizeof(float) * kTaps * channels * filters);
  const std::vector<float> zeros(channels, 0.0f);
  Buffer packed(kGradientCells * panels * run.panel);
  std::vector<const float*> cells(kTaps * kGradientCells);
  for (const Block& block : MakeBlocks(OutputCells(convolution), kGradientCells)) {
    FindCells(convolution, block.map, block.first, block.count, zeros.data(), kGradientCells, cells.data());
    const float* upstream = upstreams[block.map] + block.first * filters;
    for (int64_t p = 0; p < panels; ++p) {
      run.pack_panel(upstream, block.count, filters, p, packed.data() + p * block.count * run.panel);
    }
    Share(kTaps * slices, convolution.threads, 1, [&] {
      return [&](int64_t unit) {
        const int64_t tap = unit / slices, first = unit % slices * run.panel;
        run.add_outer_products(cells.data() + tap * kGradientCells, channels, packed.data(), block.count, first,
                               filters, gradient + tap * channels * filters);
      };
    });
  }
}

void ChooseDirectWidth() { ChooseWidth(); }
