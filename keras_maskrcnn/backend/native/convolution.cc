// The operators for convolutions, registered through TensorFlow's C API:
//   KerasMaskrcnnConv3x3(maps: L * float, kernel: float (3, 3, C / G, K), bias: float (K,)) -> L * float (B, h, w, K)
//   KerasMaskrcnnConv3x3Back(upstreams: L * float (B, H, W, K), kernel: as above) -> L * float (B, H, W, C)
//   KerasMaskrcnnConv3x3KernelGrad(maps: L * float, upstreams: L * float (B, h, w, K)) -> float (3, 3, C / G, K)
// Maps are (B, H, W, C), with one cell of zero padding. K / G filters read C / G channels each, in order; both numbers
// are multiples of 16. All maps of a call share one kernel (the RPN runs one convolution over five levels). Attributes:
// groups, G; stride; threads; relu (first operator only), 0 or 1; way: 0 the faster one, 1 Winograd if the stride is 1
// and there is one group, 2 direct. The second operator is the gradient of the maps for stride 1: a convolution of the
// upstreams with the rotated kernel.

#include "convolution.h"

#include <string>

#include "operators.h"
#include "threads.h"

namespace {

enum Way { kFaster = 0, kWinograd = 1, kDirect = 2 };

struct Options {
  int32_t maps = 0, relu = 0, stride = 1, groups = 1, way = kFaster, threads = 1;
};

void* MakeForwardOptions(TF_OpKernelConstruction* construction) {
  Options* options = new Options();
  ReadAttributes(construction, {{"L", &options->maps},
                                {"stride", &options->stride},
                                {"relu", &options->relu},
                                {"groups", &options->groups},
                                {"way", &options->way},
                                {"threads", &options->threads}});
  return options;
}

void* MakeBackOptions(TF_OpKernelConstruction* construction) {
  Options* options = new Options();
  ReadAttributes(construction, {{"L", &options->maps},
                                {"groups", &options->groups},
                                {"way", &options->way},
                                {"threads", &options->threads}});
  return options;
}

void* MakeKernelGradientOptions(TF_OpKernelConstruction* construction) {
  Options* options = new Options();
  ReadAttributes(construction, {{"L", &options->maps},
                                {"stride", &options->stride},
                                {"groups", &options->groups},
                                {"way", &options->way},
                                {"threads", &options->threads}});
  return options;
}

void DeleteOptions(void* options) { delete static_cast<Options*>(options); }

// Reads maps (B, H, W, channels) from input `first` on. Returns an error message, or "" if they are valid.
std::string ReadMaps(const Inputs& inputs, int first, int count, std::vector<Map>* maps) {
  if (TF_GetCode(inputs.status()) != TF_OK) return TF_Message(inputs.status());
  for (int i = first; i < first + count; ++i) {
    const TF_Tensor* tensor = inputs[i];
    const std::string wrong = WrongMap(tensor, i - first);
    if (!wrong.empty()) return wrong;
    maps->push_back({inputs.Data<float>(i), TF_Dim(tensor, 0), TF_Dim(tensor, 1), TF_Dim(tensor, 2),
                     TF_Dim(tensor, 3)});
    if (maps->back().channels != maps->front().channels) {
      return "all maps must have the same channels. Received " + ShapeOf(inputs[first]) + " and " + ShapeOf(tensor) +
             ".";
    }
  }
  if (maps->front().channels % 16 != 0) return "channels must be a multiple of 16. Received " + ShapeOf(inputs[first]);
  return "";
}

std::string WrongStride(int32_t stride) {
  return "stride must be at most " + std::to_string(kLongestStride) + ". Received " + std::to_string(stride) + ".";
}

// Winograd costs 36 products over channels per tile of 4x4 cells, the direct sum 9 per cell. Transforming the kernel
// costs as much as 80 tiles, or 200 if the factors (9.4 MB at 256 times 256) exceed the caches. Measured on two cores
// of an AMD EPYC with AVX2, where the chosen way is at most a fifth slower than the better one.
bool TakesWinograd(const Convolution& convolution, int way) {
  if (convolution.stride != 1 || convolution.groups != 1) return false;
  if (way != kFaster) return way == kWinograd;
  int64_t cells = 0, tiles = convolution.channels * convolution.filters > 256 * 256 ? 200 : 80;
  for (const Map& map : convolution.maps) {
    cells += map.images * map.rows * map.columns;
    tiles += map.images * ((map.rows + 3) / 4) * ((map.columns + 3) / 4);
  }
  return 36 * tiles < 9 * cells;
}

// Writes the kernel (3, 3, C / G, K) rotated by 180 degrees, as (3, 3, K / G, C).
void Turn(const float* kernel, int64_t channels, int64_t filters, int64_t groups, int threads, float* turned) {
  constexpr int64_t kSide = 16;  // side of the squares, whose rows and columns are whole cache lines
  const int64_t depth = channels / groups, width = filters / groups, down = depth / kSide;
  Share(9 * down, threads, 4, [&] {
    return [&](int64_t unit) {
      const int64_t tap = unit / down, first = unit % down * kSide;
      const float* from = kernel + (tap * depth + first) * filters;
      for (int64_t k = 0; k < filters; k += kSide) {
        float* to = turned + ((8 - tap) * width + k % width) * channels + k / width * depth + first;
        for (int64_t i = 0; i < kSide; ++i) {
          for (int64_t c = 0; c < kSide; ++c) to[i * channels + c] = from[c * filters + k + i];
        }
      }
    };
  });
}

// Convolves; with `back`, the kernel is for the opposite direction.
void Compute(const Options& options, TF_OpKernelContext* context, bool back) {
  Inputs inputs(context, options.maps + (back ? 1 : 2), back ? "Conv3x3Back" : "Conv3x3");
  Convolution convolution;
  const std::string wrong = ReadMaps(inputs, 0, options.maps, &convolution.maps);
  if (!wrong.empty()) return inputs.Fail(wrong);
  const TF_Tensor* kernel = inputs[options.maps];
  const int64_t groups = options.groups;
  const bool square = TF_NumDims(kernel) == 4 && TF_Dim(kernel, 0) == 3 && TF_Dim(kernel, 1) == 3;
  const int64_t depth = square ? TF_Dim(kernel, 2) * groups : 0, width = square ? TF_Dim(kernel, 3) : 0;
  convolution.channels = convolution.maps[0].channels;
  convolution.filters = back ? depth : width;
  convolution.groups = groups;
  if (depth == 0 || width == 0 || convolution.channels != (back ? width : depth) || depth % (16 * groups) != 0 ||
      width % (16 * groups) != 0) {
    return inputs.Fail("kernel must be (3, 3, C, K), with C channels and K / groups filters in a group, both multiples "
                       "of 16. Received " + ShapeOf(kernel) + " for maps of " + std::to_string(convolution.channels) +
                       " channels in " + std::to_string(groups) + " groups.");
  }
  if (options.stride > kLongestStride) return inputs.Fail(WrongStride(options.stride));
  convolution.stride = options.stride;
  convolution.threads = options.threads;
  if (!back) {
    const TF_Tensor* bias = inputs[options.maps + 1];
    if (TF_NumDims(bias) != 1 || TF_Dim(bias, 0) != convolution.filters) {
      return inputs.Fail("bias must be (K,), one for each filter. Received " + ShapeOf(bias) + " for " +
                         std::to_string(convolution.filters) + " filters.");
    }
  }
  std::vector<TF_Tensor*> tensors;
  std::vector<float*> outputs;
  for (int l = 0; l < options.maps; ++l) {
    const Map output = convolution.Output(l);
    const int64_t shape[4] = {output.images, output.rows, output.columns, output.channels};
    tensors.push_back(inputs.Allocate(l, TF_FLOAT, sizeof(float), shape, 4));
    if (tensors.back() == nullptr) {
      tensors.pop_back();
      for (TF_Tensor* tensor : tensors) TF_DeleteTensor(tensor);
      return;
    }
    outputs.push_back(static_cast<float*>(TF_TensorData(tensors.back())));
  }
  const auto run = TakesWinograd(convolution, options.way) ? ConvolveByWinograd : ConvolveDirectly;
  const float* weights = inputs.Data<float>(options.maps);
  inputs.Run([&] {
    if (back) {
      Buffer turned(9 * convolution.channels * convolution.Width());
      Turn(weights, convolution.filters, convolution.channels, groups, options.threads, turned.data());
      const std::vector<float> zeros(convolution.filters, 0.0f);
      run(convolution, turned.data(), zeros.data(), false, outputs);
    } else {
      run(convolution, weights, inputs.Data<float>(options.maps + 1), options.relu != 0, outputs);
    }
  });
  for (TF_Tensor* tensor : tensors) TF_DeleteTensor(tensor);
}

void ComputeForward(void* options, TF_OpKernelContext* context) {
  Compute(*static_cast<Options*>(options), context, false);
}

void ComputeBack(void* options, TF_OpKernelContext* context) {
  Compute(*static_cast<Options*>(options), context, true);
}

void ComputeKernelGradient(void* kernel_options, TF_OpKernelContext* context) {
  const Options& options = *static_cast<Options*>(kernel_options);
  Inputs inputs(context, 2 * options.maps, "Conv3x3KernelGrad");
  Convolution convolution;
  std::vector<Map> upstreams;
  std::string wrong = ReadMaps(inputs, 0, options.maps, &convolution.maps);
  if (wrong.empty()) wrong = ReadMaps(inputs, options.maps, options.maps, &upstreams);
  if (!wrong.empty()) return inputs.Fail(wrong);
  if (options.stride > kLongestStride) return inputs.Fail(WrongStride(options.stride));
  convolution.channels = convolution.maps[0].channels;
  convolution.filters = upstreams[0].channels;
  convolution.groups = options.groups;
  convolution.stride = options.stride;
  convolution.threads = options.threads;
  if (convolution.channels % (16 * convolution.groups) != 0 || convolution.filters % (16 * convolution.groups) != 0) {
    return inputs.Fail("a group must have channels and filters that are multiples of 16. Received " +
                       ShapeOf(inputs[0]) + " and " + ShapeOf(inputs[options.maps]) + " in " +
                       std::to_string(convolution.groups) + " groups.");
  }
  std::vector<const float*> data;
  for (int l = 0; l < options.maps; ++l) {
    const Map expected = convolution.Output(l);
    if (upstreams[l].images != expected.images || upstreams[l].rows != expected.rows ||
        upstreams[l].columns != expected.columns) {
      return inputs.Fail("upstreams must have the sizes of the outputs. Received " + ShapeOf(inputs[options.maps + l]) +
                         " for the map " + ShapeOf(inputs[l]) + ".");
    }
    data.push_back(upstreams[l].data);
  }
  const int64_t shape[4] = {3, 3, convolution.Depth(), convolution.filters};
  TF_Tensor* gradient = inputs.Allocate(0, TF_FLOAT, sizeof(float), shape, 4);
  if (gradient == nullptr) return;
  const auto run = TakesWinograd(convolution, options.way) ? KernelGradientByWinograd : KernelGradientDirectly;
  inputs.Run([&] { run(convolution, data, static_cast<float*>(TF_TensorData(gradient))); });
  TF_DeleteTensor(gradient);
}

void CheckForwardRanks(TF_ShapeInferenceContext* context, TF_Status* status) { CheckRanks(context, {4, 1}, status); }

void CheckMapRanks(TF_ShapeInferenceContext* context, TF_Status* status) { CheckRanks(context, {}, status); }

}  // namespace

void RegisterConvolution() {
  ChooseWinogradWidth();
  ChooseDirectWidth();
  const char* groups = "groups: int >= 1 = 1";
  RegisterOperator("KerasMaskrcnnConv3x3",
                   {"L: int >= 1", "stride: int >= 1", "relu: int >= 0", groups, "way: int >= 0 = 0",
                    "threads: int >= 1"},
                   {"maps: L * float", "kernel: float", "bias: float"}, "outputs: L * float", CheckForwardRanks);
  RegisterOperator("KerasMaskrcnnConv3x3Back", {"L: int >= 1", groups, "way: int >= 0 = 0", "threads: int >= 1"},
                   {"upstreams: L * float", "kernel: float"}, "gradients: L * float", CheckMapRanks);
  RegisterOperator("KerasMaskrcnnConv3x3KernelGrad",
                   {"L: int >= 1", "stride: int >= 1", groups, "way: int >= 0 = 0", "threads: int >= 1"},
                   {"maps: L * float", "upstreams: L * float"}, "gradient: float", CheckMapRanks);
  RegisterKernel("KerasMaskrcnnConv3x3", MakeForwardOptions, ComputeForward, DeleteOptions);
  RegisterKernel("KerasMaskrcnnConv3x3Back", MakeBackOptions, ComputeBack, DeleteOptions);
  RegisterKernel("KerasMaskrcnnConv3x3KernelGrad", MakeKernelGradientOptions, ComputeKernelGradient, DeleteOptions);
}
