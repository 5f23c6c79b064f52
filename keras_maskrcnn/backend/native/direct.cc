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
  void (*pack_panel)(const float*, int64_t, int64_t, bool, float*);
  void (*sum_taps)(const float* const*, int64_t, int64_t, int64_t, const float*, const float*, bool, bool, int64_t,
                   float*, int64_t);
  void (*add_outer_products)(const float* const*, int64_t, int64_t, const float*, int64_t, int64_t, float*, int64_t);
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

// The filters are divided into panels, each within a group.
struct Panels {
  int64_t width, size, of_group, count;

  Panels(const Convolution& convolution, int64_t panel)
      : width(convolution.Width()),
        size(panel),
        of_group(RoundUp(width, panel) / panel),
        count(of_group * convolution.groups) {}

  int64_t Group(int64_t p) const { return p / of_group; }
  int64_t Column(int64_t p) const { return Group(p) * width + p % of_group * size; }
  bool Whole(int64_t p) const { return p % of_group * size + size / 2 < width; }  // else its second vector is padding
};

}  // namespace

void ConvolveDirectly(const Convolution& convolution, const float* kernel, const float* bias, bool relu,
                      const std::vector<float*>& outputs) {
  const Routines& run = *routines;
  const int64_t filters = convolution.filters, depth = convolution.Depth(), threads = convolution.threads;
  const Panels panels(convolution, run.panel);
  const int64_t panel_size = kTaps * depth * run.panel;
  Buffer packed(panels.count * panel_size);
  Share(panels.count, threads, 1, [&] {
    return [&](int64_t p) {
      const float* columns = kernel + panels.Column(p);
      run.pack_panel(columns, kTaps * depth, filters, panels.Whole(p), packed.data() + p * panel_size);
    };
  });
  const std::vector<float> zeros(convolution.channels, 0.0f);
  const std::vector<Block> blocks = MakeBlocks(OutputCells(convolution), kForwardCells);
  if (blocks.empty()) return;
  // If there are few blocks, divide them by panels too, so that every thread has work.
  const int64_t wanted = (4 * threads + static_cast<int64_t>(blocks.size()) - 1) / static_cast<int64_t>(blocks.size());
  const int64_t parts = std::min(panels.count, wanted), part = (panels.count + parts - 1) / parts;
  Share(static_cast<int64_t>(blocks.size()) * parts, threads, 1, [&] {
    return [&](int64_t unit) {
      const Block& block = blocks[unit / parts];
      const float* cells[kTaps * kForwardCells];
      std::fill(cells, cells + kTaps * kForwardCells, zeros.data());  // rows that fill up a register tile
      FindCells(convolution, block.map, block.first, block.count, zeros.data(), kForwardCells, cells);
      const int64_t first = unit % parts * part;
      for (int64_t p = first; p < std::min(panels.count, first + part); ++p) {
        const int64_t k = panels.Column(p);
        float* to = outputs[block.map] + block.first * filters + k;
        for (int64_t t = 0; t < block.count; t += run.rows) {
          run.sum_taps(cells + t, kForwardCells, panels.Group(p) * depth, depth, packed.data() + p * panel_size,
                       bias + k, relu, panels.Whole(p), block.count - t, to + t * filters, filters);
        }
      }
    };
  });
}

void KernelGradientDirectly(const Convolution& convolution, const std::vector<const float*>& upstreams,
                            float* gradient) {
  const Routines& run = *routines;
  const int64_t filters = convolution.filters, depth = convolution.Depth(), width = convolution.Width();
  const Panels panels(convolution, run.panel);
  const int64_t slices = RoundUp(depth, run.panel) / run.panel;
  std::memset(gradient, 0, sizeof(float) * kTaps * depth * filters);
  const std::vector<float> zeros(convolution.channels, 0.0f);
  const std::vector<Block> blocks = MakeBlocks(OutputCells(convolution), kGradientCells);
  // A unit is one tap, in one slice of the channels of one group. Each thread has its own units, for all blocks.
  const int64_t units = convolution.groups * kTaps * slices;
  const int64_t parts = std::min<int64_t>(units, convolution.threads), panel_size = kGradientCells * run.panel;
  Share(parts, convolution.threads, 1, [&] {
    return [&](int64_t part) {
      const int64_t begin = part * units / parts, end = (part + 1) * units / parts;
      const int64_t group = begin / (kTaps * slices), last = (end - 1) / (kTaps * slices);
      Buffer packed((last - group + 1) * panels.of_group * panel_size);
      std::vector<const float*> cells(kTaps * kGradientCells);
      for (const Block& block : blocks) {
        FindCells(convolution, block.map, block.first, block.count, zeros.data(), kGradientCells, cells.data());
        const float* upstream = upstreams[block.map] + block.first * filters;
        for (int64_t p = group * panels.of_group; p < (last + 1) * panels.of_group; ++p) {
          run.pack_panel(upstream + panels.Column(p), block.count, filters, panels.Whole(p),
                         packed.data() + (p - group * panels.of_group) * block.count * run.panel);
        }
        for (int64_t unit = begin; unit < end; ++unit) {
          const int64_t own = unit / (kTaps * slices), tap = unit / slices % kTaps;
          const int64_t first = unit % slices * run.panel;  // channel of the group
          run.add_outer_products(cells.data() + tap * kGradientCells, own * depth + first,
                                 std::min<int64_t>(run.panel, depth - first),
                                 packed.data() + (own - group) * panels.of_group * block.count * run.panel, block.count,
                                 width, gradient + (tap * depth + first) * filters + own * width, filters);
        }
      }
    };
  });
}

void ChooseDirectWidth() { ChooseWidth(); }
