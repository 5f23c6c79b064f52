// The end of a layer in one pass over memory: the sum of maps, ReLU, and zeros in the padding of the canvas.
//
// Operator, registered through TensorFlow's C API:
//   KerasMaskrcnnAddMaps(maps: N * T (B, H, W, C), cells: T (B, H, W, 1) or without numbers) -> T (B, H, W, C)
// There are one or two maps. Where `cells` is 0 the output is 0. Attributes: relu, 0 or 1; coarse, 1 if the second map
// has half the rows and columns, so that each of its cells counts four times; threads.

#include <algorithm>
#include <string>
#include <vector>

#include "numbers.h"
#include "operators.h"
#include "threads.h"

namespace {

constexpr int64_t kGrain = 1 << 14;  // numbers that are worth a thread's turn

struct Options {
  int32_t maps = 0, relu = 0, coarse = 0, threads = 1;
};

struct Map {
  const void* data;
  int64_t images, rows, columns, channels;
};

void* MakeOptions(TF_OpKernelConstruction* construction) {
  Options* options = new Options();
  ReadAttributes(construction, {{"N", &options->maps},
                                {"relu", &options->relu},
                                {"coarse", &options->coarse},
                                {"threads", &options->threads}});
  return options;
}

void DeleteOptions(void* options) { delete static_cast<Options*>(options); }

// Returns an error message, or "" if the inputs are valid.
std::string Read(const Inputs& inputs, const Options& options, std::vector<Map>* maps) {
  const int count = options.maps;
  if (TF_GetCode(inputs.status()) != TF_OK) return TF_Message(inputs.status());
  if (count > 2) return "there must be one or two maps. Received " + std::to_string(count) + ".";
  for (int i = 0; i < count; ++i) {
    const TF_Tensor* tensor = inputs[i];
    const std::string wrong = WrongMap(tensor, i);
    if (!wrong.empty()) return wrong;
    maps->push_back({TF_TensorData(tensor), TF_Dim(tensor, 0), TF_Dim(tensor, 1), TF_Dim(tensor, 2),
                     TF_Dim(tensor, 3)});
    const Map &first = maps->front(), &map = maps->back();
    const int64_t times = options.coarse != 0 && i == 1 ? 2 : 1;
    if (map.images != first.images || map.rows * times != first.rows || map.columns * times != first.columns ||
        map.channels != first.channels) {
      return "maps must have one shape, or with coarse=1 the second half the rows and columns. Received " +
             ShapeOf(inputs[0]) + " and " + ShapeOf(tensor) + ".";
    }
  }
  const TF_Tensor* cells = inputs[count];
  const int64_t expected[4] = {maps->front().images, maps->front().rows, maps->front().columns, 1};
  bool empty = TF_NumDims(cells) != 4, same = TF_NumDims(cells) == 4;
  for (int d = 0; d < TF_NumDims(cells); ++d) {
    empty = empty || TF_Dim(cells, d) == 0;
    same = same && TF_Dim(cells, d) == expected[d];
  }
  if (TF_NumDims(cells) == 4 && (same || empty)) return "";
  return "cells must be (B, H, W, 1) for maps (B, H, W, C). Received " + ShapeOf(cells) + " for " +
         ShapeOf(inputs[0]) + ".";
}

// One row of cells. `first` and, if `two`, `second` are rows of the maps; each cell of a `half` row counts twice.
template <typename T, bool two, bool relu>
void AddRow(const T* first, const T* second, bool half, const T* cells, int64_t columns, int64_t channels, T* to) {
  for (int64_t x = 0; x < columns; ++x, first += channels, to += channels) {
    if (cells != nullptr && ToFloat(cells[x]) == 0.0f) {
      std::fill(to, to + channels, T{});
      continue;
    }
    if (!two && !relu && first == to) continue;
    const T* other = two ? second + (half ? x / 2 : x) * channels : nullptr;
#pragma GCC ivdep  // the output may be one of the maps, number by number
    for (int64_t c = 0; c < channels; ++c) {
      const float sum = two ? ToFloat(first[c]) + ToFloat(other[c]) : ToFloat(first[c]);
      Store(relu && sum < 0.0f ? 0.0f : sum, to + c);  // keeps NaN, as TensorFlow's ReLU does
    }
  }
}

template <typename T>
void Add(const Options& options, const std::vector<Map>& maps, const T* cells, T* output) {
  const Map &first = maps.front(), &second = maps.back();
  const int64_t row = first.columns * first.channels;
  const bool two = maps.size() == 2, half = options.coarse != 0, relu = options.relu != 0;
  const auto add = two ? (relu ? AddRow<T, true, true> : AddRow<T, true, false>)
                       : (relu ? AddRow<T, false, true> : AddRow<T, false, false>);
  Share(first.images * first.rows, options.threads, std::max<int64_t>(1, kGrain / row), [&] {
    return [&](int64_t unit) {
      const int64_t image = unit / first.rows, y = unit % first.rows;
      const int64_t other = (image * second.rows + (half ? y / 2 : y)) * second.columns * second.channels;
      add(static_cast<const T*>(first.data) + unit * row, static_cast<const T*>(second.data) + other, half,
          cells == nullptr ? nullptr : cells + unit * first.columns, first.columns, first.channels,
          output + unit * row);
    };
  });
}

template <typename T>
void Compute(void* kernel, TF_OpKernelContext* context) {
  const Options& options = *static_cast<Options*>(kernel);
  Inputs inputs(context, options.maps + 1, "AddMaps");
  std::vector<Map> maps;
  const std::string wrong = Read(inputs, options, &maps);
  if (!wrong.empty()) return inputs.Fail(wrong);
  const bool has_cells = TF_Dim(inputs[options.maps], 0) * TF_Dim(inputs[options.maps], 1) > 0;
  const T* cells = has_cells ? inputs.Data<T>(options.maps) : nullptr;
  const int64_t shape[4] = {maps[0].images, maps[0].rows, maps[0].columns, maps[0].channels};
  TF_Tensor* output = inputs.ForwardOrAllocate(options.maps, shape, 4);
  if (output == nullptr) return;
  inputs.Run([&] { Add(options, maps, cells, static_cast<T*>(TF_TensorData(output))); });
  TF_DeleteTensor(output);
}

void CheckMapAndCellRanks(TF_ShapeInferenceContext* context, TF_Status* status) { CheckRanks(context, {4}, status); }

}  // namespace

void RegisterAddMaps() {
  RegisterOperator("KerasMaskrcnnAddMaps",
                   {"N: int >= 1", "T: {float, bfloat16}", "relu: int >= 0", "coarse: int >= 0", "threads: int >= 1"},
                   {"maps: N * T", "cells: T"}, "output: T", CheckMapAndCellRanks);
  RegisterKernel("KerasMaskrcnnAddMaps", MakeOptions, Compute<float>, DeleteOptions, TF_FLOAT);
  RegisterKernel("KerasMaskrcnnAddMaps", MakeOptions, Compute<Bfloat16>, DeleteOptions, TF_BFLOAT16);
}
