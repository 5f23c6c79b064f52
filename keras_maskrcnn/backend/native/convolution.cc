// 3x3 convolutions by Winograd's minimal filtering (Lavin and Gray 2016, "Fast algorithms for convolutional neural
// networks"): four times fewer multiplications than a direct sum. Two thirds of the arithmetic of a Mask R-CNN is 3x3
// convolutions of 256 channels (pyramid, RPN, mask head), and TensorFlow's CPU kernels for them already run at the
// processor's speed; only fewer multiplications are faster.
//
// Maps are (B, H, W, C), stride 1, padded by a cell of zeros; C and K are multiples of 16. All maps of a call share one
// kernel (the RPN runs one convolution over five levels). The arithmetic is in winograd.inc; here are the tiles, the
// threads and the operators. Blocks of tiles are fixed and each sum is taken in their order: the same bits for any
// number of threads.
//
// Operators, registered through TensorFlow's C API:
//   KerasMaskrcnnConv3x3(maps: L * float, kernel: float (3, 3, C, K), bias: float (K,)) -> L * float (B, H, W, K)
//   KerasMaskrcnnConv3x3KernelGrad(maps: L * float, upstreams: L * float (B, H, W, K)) -> float (3, 3, C, K)
// Attributes: relu (of the first), 0 or 1; threads. The gradient of the maps is the first operator on the upstreams with
// the kernel turned around (backend/native/__init__.py).

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

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

#if defined(__x86_64__)
#define WINOGRAD_NAMESPACE wide512
#define WINOGRAD_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,fma")))
#define WINOGRAD_BYTES 64
#define WINOGRAD_ROWS 12
#include "winograd.inc"

#define WINOGRAD_NAMESPACE wide256
#define WINOGRAD_TARGET __attribute__((target("avx2,fma")))
#define WINOGRAD_BYTES 32
#define WINOGRAD_ROWS 6
#include "winograd.inc"
#endif

#define WINOGRAD_NAMESPACE baseline
#define WINOGRAD_TARGET
#define WINOGRAD_BYTES 16
#define WINOGRAD_ROWS 6
#include "winograd.inc"

const Routines* routines = &baseline::kRoutines;

constexpr int kPlanes = 36;
constexpr int64_t kForwardTiles = 48;   // of a block: its planes (1.8 MB at 256 channels) stay in a core's caches
constexpr int64_t kGradientTiles = 240; // a block is worth reading and writing the sums (9.4 MB) once
constexpr int64_t kPad = 16;            // floats between planes: without, all 36 fall on one set of the cache

// Buffers whose vectors do not straddle cache lines.
class Buffer {
 public:
  explicit Buffer(int64_t count) : memory_(new float[count + 16]) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(memory_.get());
    data_ = reinterpret_cast<float*>((at + 63) / 64 * 64);
  }
  float* data() const { return data_; }

 private:
  std::unique_ptr<float[]> memory_;  // not initialised
  float* data_;
};

int64_t RoundUp(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

struct Map {
  const float* data;
  int64_t images, rows, columns, channels;
  int64_t TileRows() const { return (rows + 3) / 4; }
  int64_t TileColumns() const { return (columns + 3) / 4; }
  int64_t Tiles() const { return images * TileRows() * TileColumns(); }
};

// The tiles of one map that are worked on together.
struct Block {
  int map;
  int64_t first, count;
};

std::vector<Block> MakeBlocks(const std::vector<Map>& maps, int64_t size) {
  std::vector<Block> blocks;
  for (size_t m = 0; m < maps.size(); ++m) {
    for (int64_t first = 0; first < maps[m].Tiles(); first += size) {
      blocks.push_back({static_cast<int>(m), first, std::min(size, maps[m].Tiles() - first)});
    }
  }
  return blocks;
}

// Addresses of a square of cells of tile `number`, `side` a side, from `before` cells up and left of its outputs;
// `outside` stands for cells beyond the map.
template <typename T>
void FindCells(const Map& map, T* data, int64_t channels, int64_t number, int side, int before, T* outside, T** cells) {
  const int64_t across = map.TileColumns(), down = map.TileRows();
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

// Forward -----------------------------------------------------------------------------------------------------------

void Convolve(const std::vector<Map>& maps, const float* kernel, const float* bias, int64_t filters, bool relu,
              int threads, const std::vector<float*>& outputs) {
  const Routines& run = *routines;
  const int64_t channels = maps[0].channels;
  const int64_t panels = RoundUp(filters, run.panel) / run.panel, width = panels * run.panel;
  const int64_t factor_plane = width * channels + kPad;
  Buffer factors(kPlanes * factor_plane);
  if (width != filters) std::memset(factors.data(), 0, sizeof(float) * kPlanes * factor_plane);
  Share(panels, threads, 1, [&] {
    return [&](int64_t p) { run.transform_kernel(kernel, channels, filters, p, factors.data(), factor_plane); };
  });
  const std::vector<float> zeros(channels, 0.0f);
  const std::vector<Block> blocks = MakeBlocks(maps, kForwardTiles);
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

void KernelGradient(const std::vector<Map>& maps, const std::vector<const float*>& upstreams, int64_t filters,
                    int threads, float* gradient) {
  const Routines& run = *routines;
  const int64_t channels = maps[0].channels;
  const int64_t left_plane = RoundUp(channels, run.panel) * kGradientTiles + kPad;
  const int64_t right_plane = RoundUp(filters, run.panel) * kGradientTiles + kPad;
  const int64_t sum_plane = channels * filters + kPad;
  Buffer left(kPlanes * left_plane), right(kPlanes * right_plane), sums(kPlanes * sum_plane);
  // Padding of panels is multiplied, and never stored: it must only be no NaN that traps.
  std::memset(right.data(), 0, sizeof(float) * kPlanes * right_plane);
  std::memset(sums.data(), 0, sizeof(float) * kPlanes * sum_plane);
  const std::vector<float> zeros(std::max(channels, filters), 0.0f);
  for (const Block& block : MakeBlocks(maps, kGradientTiles)) {
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

// Operators ---------------------------------------------------------------------------------------------------------

struct Options {
  int32_t maps = 0, relu = 0, threads = 1;
};

void* MakeForwardOptions(TF_OpKernelConstruction* construction) {
  Options* options = new Options();
  ReadAttributes(construction, {{"L", &options->maps}, {"relu", &options->relu}, {"threads", &options->threads}});
  return options;
}

void* MakeGradientOptions(TF_OpKernelConstruction* construction) {
  Options* options = new Options();
  ReadAttributes(construction, {{"L", &options->maps}, {"threads", &options->threads}});
  return options;
}

void DeleteOptions(void* options) { delete static_cast<Options*>(options); }

// Reads maps (B, H, W, channels) from input `first` on; says what is wrong with them, if anything.
std::string ReadMaps(const Inputs& inputs, int first, int count, std::vector<Map>* maps) {
  if (TF_GetCode(inputs.status()) != TF_OK) return TF_Message(inputs.status());
  for (int i = first; i < first + count; ++i) {
    const TF_Tensor* tensor = inputs[i];
    if (TF_NumDims(tensor) != 4) return "a map must be (B, H, W, C); map " + std::to_string(i) + " is not.";
    maps->push_back({inputs.Data<float>(i), TF_Dim(tensor, 0), TF_Dim(tensor, 1), TF_Dim(tensor, 2),
                     TF_Dim(tensor, 3)});
    if (maps->back().channels != maps->front().channels) return "all maps must have the same channels.";
  }
  if (maps->front().channels % 16 != 0) return "channels must be a multiple of 16.";
  return "";
}

void ComputeForward(void* kernel_options, TF_OpKernelContext* context) {
  const Options& options = *static_cast<Options*>(kernel_options);
  Inputs inputs(context, options.maps + 2, "Conv3x3");
  std::vector<Map> maps;
  const std::string wrong = ReadMaps(inputs, 0, options.maps, &maps);
  if (!wrong.empty()) return inputs.Fail(wrong);
  const TF_Tensor *kernel = inputs[options.maps], *bias = inputs[options.maps + 1];
  if (TF_NumDims(kernel) != 4 || TF_Dim(kernel, 0) != 3 || TF_Dim(kernel, 1) != 3 ||
      TF_Dim(kernel, 2) != maps[0].channels || TF_Dim(kernel, 3) % 16 != 0) {
    return inputs.Fail("kernel must be (3, 3, C, K), K a multiple of 16.");
  }
  const int64_t filters = TF_Dim(kernel, 3);
  if (TF_NumDims(bias) != 1 || TF_Dim(bias, 0) != filters) return inputs.Fail("bias must be (K,).");
  std::vector<TF_Tensor*> tensors;
  std::vector<float*> outputs;
  for (int l = 0; l < options.maps; ++l) {
    const int64_t shape[4] = {maps[l].images, maps[l].rows, maps[l].columns, filters};
    tensors.push_back(inputs.Allocate(l, TF_FLOAT, sizeof(float), shape, 4));
    if (tensors.back() == nullptr) return;
    outputs.push_back(static_cast<float*>(TF_TensorData(tensors.back())));
  }
  Convolve(maps, inputs.Data<float>(options.maps), inputs.Data<float>(options.maps + 1), filters, options.relu != 0,
           options.threads, outputs);
  for (TF_Tensor* tensor : tensors) TF_DeleteTensor(tensor);
}

void ComputeKernelGradient(void* kernel_options, TF_OpKernelContext* context) {
  const Options& options = *static_cast<Options*>(kernel_options);
  Inputs inputs(context, 2 * options.maps, "Conv3x3KernelGrad");
  std::vector<Map> maps, upstreams;
  std::string wrong = ReadMaps(inputs, 0, options.maps, &maps);
  if (wrong.empty()) wrong = ReadMaps(inputs, options.maps, options.maps, &upstreams);
  std::vector<const float*> data;
  for (int l = 0; wrong.empty() && l < options.maps; ++l) {
    data.push_back(upstreams[l].data);
    if (upstreams[l].images != maps[l].images || upstreams[l].rows != maps[l].rows ||
        upstreams[l].columns != maps[l].columns) {
      wrong = "upstreams must have the sizes of the maps.";
    }
  }
  if (!wrong.empty()) return inputs.Fail(wrong);
  const int64_t shape[4] = {3, 3, maps[0].channels, upstreams[0].channels};
  TF_Tensor* gradient = inputs.Allocate(0, TF_FLOAT, sizeof(float), shape, 4);
  if (gradient == nullptr) return;
  KernelGradient(maps, data, shape[3], options.threads, static_cast<float*>(TF_TensorData(gradient)));
  TF_DeleteTensor(gradient);
}

}  // namespace

void RegisterConvolution() {
#if defined(__x86_64__)
  if (HasAvx512()) {
    routines = &wide512::kRoutines;
  } else if (HasAvx2()) {
    routines = &wide256::kRoutines;
  }
#endif
  RegisterOperator("KerasMaskrcnnConv3x3", {"L: int >= 1", "relu: int >= 0", "threads: int >= 1"},
                   {"maps: L * float", "kernel: float", "bias: float"}, "outputs: L * float");
  RegisterOperator("KerasMaskrcnnConv3x3KernelGrad", {"L: int >= 1", "threads: int >= 1"},
                   {"maps: L * float", "upstreams: L * float"}, "gradient: float");
  RegisterKernel("KerasMaskrcnnConv3x3", MakeForwardOptions, ComputeForward, DeleteOptions);
  RegisterKernel("KerasMaskrcnnConv3x3KernelGrad", MakeGradientOptions, ComputeKernelGradient, DeleteOptions);
}
