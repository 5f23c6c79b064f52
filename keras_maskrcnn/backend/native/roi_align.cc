// RoIAlign on all levels of a feature pyramid, forward and gradient (He et al. 2017, section 3, "RoIAlign").
//
// Bilinear sampling is separable: along each axis a bin is a weighted sum of a few cells, for any number of sample
// points. So the points of a bin are first merged into the cells they read; then only sums of rows of channels remain.
// Maps are (B, H, W, C); a box is in cells of its level, from `generic.box_frames`. The arithmetic of the sample points
// is the same as in `bilinear.py`, operation by operation, so that points on an edge fall on the same side.
//
// In the gradient, one thread handles each band of rows of a map and visits the boxes in their order, so results are
// bit-identical for any number of threads.
//
// Operators, registered through TensorFlow's C API:
//   KerasMaskrcnnRoiAlign(pyramid: L * T, frame: float (R, [y, x, height, width]), images: int32 (R,),
//                         levels: int32 (R,)) -> T (R, bins_y, bins_x, C)
//   KerasMaskrcnnRoiAlignGrad(upstream: T (R, bins_y, bins_x, C), pyramid: L * T (read for their shapes), frame,
//                             images, levels) -> L * T
// Attributes: bins_y, bins_x; ratio, points per bin and axis, 0 for one per cell; threads.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "numbers.h"
#include "operators.h"
#include "threads.h"

namespace {

// Sums of rows, for the current processor --------------------------------------------------------------------------

#if defined(__x86_64__)
#define COMBINE_NAMESPACE wide512
#define COMBINE_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,fma")))
#define COMBINE_BYTES 64
#include "combine.inc"

#define COMBINE_NAMESPACE wide256
#define COMBINE_TARGET __attribute__((target("avx2,fma")))
#define COMBINE_BYTES 32
#include "combine.inc"
#endif

#define COMBINE_NAMESPACE baseline
#define COMBINE_TARGET
#define COMBINE_BYTES 16
#include "combine.inc"

typedef void (*CombineFloat)(const float* const*, const float*, int, float*, int64_t, bool);
typedef void (*CombineBfloat16)(const Bfloat16* const*, const float*, int, float*, int64_t, bool);
CombineFloat combine_float = baseline::OfFloat;
CombineBfloat16 combine_bfloat16 = baseline::OfBfloat16;

inline void Combine(const float* const* rows, const float* weights, int count, float* sums, int64_t channels,
                    bool add) {
  combine_float(rows, weights, count, sums, channels, add);
}

inline void Combine(const Bfloat16* const* rows, const float* weights, int count, float* sums, int64_t channels,
                    bool add) {
  combine_bfloat16(rows, weights, count, sums, channels, add);
}

// Taps: what bins read along one axis ------------------------------------------------------------------------------

// The cells that each bin reads, with weights that average its points: cells of bin b are entries first[b] ..
// first[b + 1] of `cell` and `weight`, in ascending order of cells.
struct Taps {
  std::vector<int> first, cell;
  std::vector<float> weight;

  void Build(float start, float length, int bins, int ratio, int64_t extent) {
    first.assign(1, 0);
    cell.clear();
    weight.clear();
    const int64_t points = ratio > 0 ? ratio : Count(length / bins);
    const float last = static_cast<float>(extent - 1);
    for (int bin = 0; bin < bins; ++bin) {
      int64_t begin = 0, end = points;
      if (points > 2 * extent && ratio == 0) SkipOutside(start, length, bins, bin, extent, points, &begin, &end);
      for (int64_t k = begin; k < end; ++k) {
        const float at = Point(start, length, bins, points, bin, k, ratio);
        if (!(at >= -1.0f && at <= last + 1.0f)) continue;
        const float inside = std::max(std::min(at, last), 0.0f);
        const int low = static_cast<int>(inside);
        const float fraction = inside - static_cast<float>(low);
        Add(low, (1.0f - fraction) / points);
        if (fraction > 0.0f) Add(low + 1, fraction / points);
      }
      first.push_back(static_cast<int>(cell.size()));
    }
  }

  bool Empty() const { return cell.empty(); }
  int Lowest() const { return *std::min_element(cell.begin(), cell.end()); }
  int Highest() const { return *std::max_element(cell.begin(), cell.end()); }

 private:
  // One point per cell: the length of a bin, rounded up. Boxes of any length have a count that an int64 holds.
  static int64_t Count(float length) {
    return length > 0.0f ? static_cast<int64_t>(std::min(std::ceil(length), 1e15f)) : 0;
  }

  // Of a bin much longer than the map, only the points near the map count: begin..end, with two more on each side.
  static void SkipOutside(double start, double length, int bins, int bin, int64_t extent, int64_t points,
                          int64_t* begin, int64_t* end) {
    const double bin_length = length / bins, step = bin_length / static_cast<double>(points);
    const double first = start + bin_length * bin + 0.5 * step, count = static_cast<double>(points);
    *begin = static_cast<int64_t>(std::min(std::max((-1.0 - first) / step - 2.0, 0.0), count));
    *end = static_cast<int64_t>(std::min(std::max((static_cast<double>(extent) - first) / step + 3.0, 0.0), count));
  }

  // As bilinear.sample_points, or bilinear.adaptive_bin_weights for ratio 0.
  static float Point(float start, float length, int bins, int64_t points, int bin, int64_t k, int ratio) {
    if (ratio > 0) {
      const float fraction = (static_cast<float>(bin * points + k) + 0.5f) / static_cast<float>(bins * points);
      const float along = length * fraction;
      return start + along;
    }
    const float bin_length = length / static_cast<float>(bins);
    const float step = bin_length / static_cast<float>(points);
    const float bin_start = start + bin_length * static_cast<float>(bin);
    const float along = (static_cast<float>(k) + 0.5f) * step;
    return bin_start + along;
  }

  // Points of a bin are in ascending order, so a cell that was read before is one of the last two.
  void Add(int at, float share) {
    const int begin = first.back();
    for (int k = static_cast<int>(cell.size()) - 1; k >= begin && k >= static_cast<int>(cell.size()) - 2; --k) {
      if (cell[k] == at) {
        weight[k] += share;
        return;
      }
    }
    cell.push_back(at);
    weight.push_back(share);
  }
};

// The inverse table: the bins that read each cell from `origin` on, in ascending order of bins.
struct Readers {
  int origin = 0, cells = 0;
  std::vector<int> first, bin;
  std::vector<float> weight;

  void Build(const Taps& taps) {
    cells = 0;
    if (taps.Empty()) return;
    origin = taps.Lowest();
    cells = taps.Highest() - origin + 1;
    first.assign(cells + 1, 0);
    for (int cell : taps.cell) ++first[cell - origin + 1];
    std::partial_sum(first.begin(), first.end(), first.begin());
    bin.resize(taps.cell.size());
    weight.resize(taps.cell.size());
    std::vector<int> free(first.begin(), first.end() - 1);
    for (int b = 0; b + 1 < static_cast<int>(taps.first.size()); ++b) {
      for (int k = taps.first[b]; k < taps.first[b + 1]; ++k) {
        const int place = free[taps.cell[k] - origin]++;
        bin[place] = b;
        weight[place] = taps.weight[k];
      }
    }
  }
};

// Arguments ---------------------------------------------------------------------------------------------------------

struct Options {
  int32_t levels = 0, bins_y = 0, bins_x = 0, ratio = 0, threads = 1;
};

struct Map {
  int64_t images, rows, columns, channels;
};

struct Boxes {
  const float* frame;
  const int32_t* images;
  const int32_t* levels;
  int64_t count;
};

// Reads maps and boxes, which start at `first_map` and `first_box`. Returns an error message, or "" if they are valid.
std::string Read(const Inputs& inputs, int first_map, int first_box, const Options& options, std::vector<Map>* maps,
                 Boxes* boxes) {
  if (TF_GetCode(inputs.status()) != TF_OK) return TF_Message(inputs.status());
  for (int l = 0; l < options.levels; ++l) {
    const TF_Tensor* tensor = inputs[first_map + l];
    const std::string wrong = WrongMap(tensor, l);
    if (!wrong.empty()) return wrong;
    maps->push_back({TF_Dim(tensor, 0), TF_Dim(tensor, 1), TF_Dim(tensor, 2), TF_Dim(tensor, 3)});
    if (maps->back().channels != maps->front().channels) {
      return "all maps must have the same channels. Received " + ShapeOf(inputs[first_map]) + " and " +
             ShapeOf(tensor) + ".";
    }
  }
  const int64_t points = std::max<int64_t>(options.ratio, 1);
  if (std::max(options.bins_y, options.bins_x) * points > kMostPoints) {
    return "bins times points per bin must be at most " + std::to_string(kMostPoints) + " along an axis. Received " +
           std::to_string(options.bins_y) + " and " + std::to_string(options.bins_x) + " bins with ratio " +
           std::to_string(options.ratio) + ".";
  }
  const TF_Tensor *frame = inputs[first_box], *images = inputs[first_box + 1], *levels = inputs[first_box + 2];
  if (TF_NumDims(frame) != 2 || TF_Dim(frame, 1) != 4) return "frame must be (R, 4). Received " + ShapeOf(frame) + ".";
  const int64_t count = TF_Dim(frame, 0);
  if (TF_NumDims(images) != 1 || TF_Dim(images, 0) != count || TF_NumDims(levels) != 1 || TF_Dim(levels, 0) != count) {
    return "images and levels must be (R,), one for each of the " + std::to_string(count) + " boxes. Received " +
           ShapeOf(images) + " and " + ShapeOf(levels) + ".";
  }
  const int64_t bins = static_cast<int64_t>(options.bins_y) * options.bins_x, channels = maps->front().channels;
  if (count > 0 && bins > kMostCropped / channels / count) {
    return "crops must have at most " + std::to_string(kMostCropped) + " numbers. Received " + std::to_string(count) +
           " boxes of " + std::to_string(options.bins_y) + "x" + std::to_string(options.bins_x) + " bins and " +
           std::to_string(channels) + " channels.";
  }
  *boxes = {inputs.Data<float>(first_box), inputs.Data<int32_t>(first_box + 1), inputs.Data<int32_t>(first_box + 2),
            count};
  for (int64_t r = 0; r < count; ++r) {
    const int32_t level = boxes->levels[r], image = boxes->images[r];
    if (level < 0 || level >= options.levels) return "level " + std::to_string(level) + " of a box does not exist.";
    if (image < 0 || image >= (*maps)[level].images) {
      return "image " + std::to_string(image) + " of a box does not exist.";
    }
    for (int side = 0; side < 4; ++side) {
      if (!std::isfinite(boxes->frame[4 * r + side])) {
        return "frames must be finite. Received " + std::to_string(boxes->frame[4 * r + side]) + " for box " +
               std::to_string(r) + ".";
      }
    }
  }
  return "";
}

// Forward ---------------------------------------------------------------------------------------------------------

void Write(const std::vector<const float*>& sources, const std::vector<float>& weights, int64_t channels, float*,
           float* crop) {
  Combine(sources.data(), weights.data(), static_cast<int>(weights.size()), crop, channels, false);
}

void Write(const std::vector<const Bfloat16*>& sources, const std::vector<float>& weights, int64_t channels,
           float* sums, Bfloat16* crop) {
  Combine(sources.data(), weights.data(), static_cast<int>(weights.size()), sums, channels, false);
  for (int64_t c = 0; c < channels; ++c) Store(sums[c], crop + c);
}

template <typename T>
void Crop(const std::vector<const T*>& features, const std::vector<Map>& maps, const Boxes& boxes,
          const Options& options, T* crops) {
  const int64_t channels = maps[0].channels;
  // Nearby boxes read the same cells, so process them one after the other while these cells are in the cache.
  std::vector<int64_t> order(boxes.count);
  std::iota(order.begin(), order.end(), 0);
  auto key = [&](int64_t r) { return boxes.frame[4 * r] + 0.5f * boxes.frame[4 * r + 2]; };
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    if (boxes.levels[a] != boxes.levels[b]) return boxes.levels[a] < boxes.levels[b];
    if (boxes.images[a] != boxes.images[b]) return boxes.images[a] < boxes.images[b];
    return key(a) < key(b);
  });
  Share(boxes.count, options.threads, 8, [&] {
    struct Scratch {
      Taps rows, columns;
      std::vector<const T*> sources;
      std::vector<float> weights, sums;
    };
    return [&, scratch = Scratch()](int64_t unit) mutable {
      const int64_t r = order[unit];
      const Map& map = maps[boxes.levels[r]];
      const float* frame = boxes.frame + 4 * r;
      scratch.rows.Build(frame[0], frame[2], options.bins_y, options.ratio, map.rows);
      scratch.columns.Build(frame[1], frame[3], options.bins_x, options.ratio, map.columns);
      const T* image = features[boxes.levels[r]] + boxes.images[r] * map.rows * map.columns * channels;
      scratch.sums.resize(channels);
      for (int y = 0; y < options.bins_y; ++y) {
        for (int x = 0; x < options.bins_x; ++x) {
          scratch.sources.clear();
          scratch.weights.clear();
          for (int i = scratch.rows.first[y]; i < scratch.rows.first[y + 1]; ++i) {
            const T* row = image + scratch.rows.cell[i] * map.columns * channels;
            for (int j = scratch.columns.first[x]; j < scratch.columns.first[x + 1]; ++j) {
              scratch.sources.push_back(row + scratch.columns.cell[j] * channels);
              scratch.weights.push_back(scratch.rows.weight[i] * scratch.columns.weight[j]);
            }
          }
          T* crop = crops + ((r * options.bins_y + y) * options.bins_x + x) * channels;
          Write(scratch.sources, scratch.weights, channels, scratch.sums.data(), crop);
        }
      }
    };
  });
}

// Gradient --------------------------------------------------------------------------------------------------------

constexpr int64_t kBand = 8;  // rows of a map that one thread handles at a time

struct Band {
  int level;
  int64_t image, begin, end;    // rows
  std::vector<int64_t> boxes;   // that read them, in ascending order
};

template <typename T>
float* BandSums(T* gradient, std::vector<float>* scratch, int64_t count);

template <>
float* BandSums(float* gradient, std::vector<float>*, int64_t) {
  return gradient;
}

template <>
float* BandSums(Bfloat16*, std::vector<float>* scratch, int64_t count) {
  scratch->resize(count);
  return scratch->data();
}

void BandStore(const float*, int64_t, float*) {}

void BandStore(const float* sums, int64_t count, Bfloat16* gradient) {
  for (int64_t i = 0; i < count; ++i) Store(sums[i], gradient + i);
}

template <typename T>
void Spread(const T* upstream, const std::vector<Map>& maps, const Boxes& boxes, const Options& options,
            const std::vector<T*>& gradients) {
  const int64_t channels = maps[0].channels;
  std::vector<Readers> rows(boxes.count), columns(boxes.count);
  Share(boxes.count, options.threads, 64, [&] {
    return [&, taps = Taps()](int64_t r) mutable {
      const Map& map = maps[boxes.levels[r]];
      const float* frame = boxes.frame + 4 * r;
      taps.Build(frame[0], frame[2], options.bins_y, options.ratio, map.rows);
      rows[r].Build(taps);
      taps.Build(frame[1], frame[3], options.bins_x, options.ratio, map.columns);
      columns[r].Build(taps);
    };
  });
  std::vector<Band> bands;
  std::vector<std::vector<int64_t>> first_band(maps.size());  // of each image
  for (size_t l = 0; l < maps.size(); ++l) {
    for (int64_t image = 0; image < maps[l].images; ++image) {
      first_band[l].push_back(static_cast<int64_t>(bands.size()));
      for (int64_t begin = 0; begin < maps[l].rows; begin += kBand) {
        bands.push_back({static_cast<int>(l), image, begin, std::min(maps[l].rows, begin + kBand), {}});
      }
    }
  }
  for (int64_t r = 0; r < boxes.count; ++r) {
    if (!rows[r].cells || !columns[r].cells) continue;
    const int64_t base = first_band[boxes.levels[r]][boxes.images[r]];
    const int64_t highest = rows[r].origin + rows[r].cells - 1;
    for (int64_t k = rows[r].origin / kBand; k <= highest / kBand; ++k) bands[base + k].boxes.push_back(r);
  }
  Share(static_cast<int64_t>(bands.size()), options.threads, 1, [&] {
    struct Scratch {
      std::vector<float> sums, row;
      std::vector<const T*> sources;
      std::vector<const float*> bins;
      std::vector<float> weights;
    };
    return [&, scratch = Scratch()](int64_t unit) mutable {
      const Band& band = bands[unit];
      const Map& map = maps[band.level];
      const int64_t offset = (band.image * map.rows + band.begin) * map.columns * channels;
      const int64_t count = (band.end - band.begin) * map.columns * channels;
      float* sums = BandSums(gradients[band.level] + offset, &scratch.sums, count);
      std::memset(sums, 0, sizeof(float) * count);
      scratch.row.resize(options.bins_x * channels);
      for (int64_t r : band.boxes) {
        const Readers &by_row = rows[r], &by_column = columns[r];
        const int64_t begin = std::max<int64_t>(band.begin, by_row.origin);
        const int64_t end = std::min<int64_t>(band.end, by_row.origin + by_row.cells);
        for (int64_t y = begin; y < end; ++y) {
          // The contributions of the bins to this row of cells, one vector of channels for each column of bins.
          scratch.sources.clear();
          const int from = by_row.first[y - by_row.origin], to = by_row.first[y - by_row.origin + 1];
          if (from == to) continue;
          for (int k = from; k < to; ++k) {
            scratch.sources.push_back(upstream + (r * options.bins_y + by_row.bin[k]) * options.bins_x * channels);
          }
          Combine(scratch.sources.data(), by_row.weight.data() + from, to - from, scratch.row.data(),
                  options.bins_x * channels, false);
          float* cells = sums + (y - band.begin) * map.columns * channels;
          for (int x = 0; x < by_column.cells; ++x) {
            const int first = by_column.first[x], last = by_column.first[x + 1];
            if (first == last) continue;
            scratch.bins.clear();
            for (int k = first; k < last; ++k) scratch.bins.push_back(scratch.row.data() + by_column.bin[k] * channels);
            Combine(scratch.bins.data(), by_column.weight.data() + first, last - first,
                    cells + (by_column.origin + x) * channels, channels, true);
          }
        }
      }
      BandStore(sums, count, gradients[band.level] + offset);
    };
  });
}

// Operators -------------------------------------------------------------------------------------------------------

void* MakeOptions(TF_OpKernelConstruction* construction) {
  Options* options = new Options();
  ReadAttributes(construction, {{"L", &options->levels},
                                {"bins_y", &options->bins_y},
                                {"bins_x", &options->bins_x},
                                {"ratio", &options->ratio},
                                {"threads", &options->threads}});
  return options;
}

void DeleteOptions(void* options) { delete static_cast<Options*>(options); }

template <typename T, int type>
void ComputeCrops(void* kernel, TF_OpKernelContext* context) {
  const Options& options = *static_cast<Options*>(kernel);
  Inputs inputs(context, options.levels + 3, "RoIAlign");
  std::vector<Map> maps;
  Boxes boxes;
  const std::string wrong = Read(inputs, 0, options.levels, options, &maps, &boxes);
  if (!wrong.empty()) return inputs.Fail(wrong);
  std::vector<const T*> features;
  for (int l = 0; l < options.levels; ++l) features.push_back(inputs.Data<T>(l));
  const int64_t shape[4] = {boxes.count, options.bins_y, options.bins_x, maps[0].channels};
  TF_Tensor* crops = inputs.Allocate(0, type, sizeof(T), shape, 4);
  if (crops == nullptr) return;
  if (boxes.count) {
    inputs.Run([&] { Crop(features, maps, boxes, options, static_cast<T*>(TF_TensorData(crops))); });
  }
  TF_DeleteTensor(crops);
}

template <typename T, int type>
void ComputeGradients(void* kernel, TF_OpKernelContext* context) {
  const Options& options = *static_cast<Options*>(kernel);
  Inputs inputs(context, options.levels + 4, "RoIAlign");
  std::vector<Map> maps;
  Boxes boxes;
  const std::string wrong = Read(inputs, 1, options.levels + 1, options, &maps, &boxes);
  if (!wrong.empty()) return inputs.Fail(wrong);
  const int64_t expected[4] = {boxes.count, options.bins_y, options.bins_x, maps[0].channels};
  for (int d = 0; d < 4; ++d) {
    if (TF_NumDims(inputs[0]) != 4 || TF_Dim(inputs[0], d) != expected[d]) {
      return inputs.Fail("upstream must have the shape of the crops. Received " + ShapeOf(inputs[0]) + ".");
    }
  }
  std::vector<TF_Tensor*> outputs;
  std::vector<T*> gradients;
  for (int l = 0; l < options.levels; ++l) {
    const int64_t shape[4] = {maps[l].images, maps[l].rows, maps[l].columns, maps[l].channels};
    outputs.push_back(inputs.Allocate(l, type, sizeof(T), shape, 4));
    if (outputs.back() == nullptr) {
      outputs.pop_back();
      for (TF_Tensor* output : outputs) TF_DeleteTensor(output);
      return;
    }
    gradients.push_back(static_cast<T*>(TF_TensorData(outputs.back())));
  }
  inputs.Run([&] { Spread(inputs.Data<T>(0), maps, boxes, options, gradients); });
  for (TF_Tensor* output : outputs) TF_DeleteTensor(output);
}

// Maps (and in the gradient the upstream) have rank 4, frame 2, images and levels 1.
void CheckBoxRanks(TF_ShapeInferenceContext* context, TF_Status* status) { CheckRanks(context, {2, 1, 1}, status); }

}  // namespace

void RegisterRoiAlign() {
#if defined(__x86_64__)
  if (HasAvx512()) {
    combine_float = wide512::OfFloat;
    combine_bfloat16 = wide512::OfBfloat16;
  } else if (HasAvx2()) {
    combine_float = wide256::OfFloat;
    combine_bfloat16 = wide256::OfBfloat16;
  }
#endif
  const std::vector<const char*> attributes = {"L: int >= 1",      "T: {float, bfloat16}", "bins_y: int >= 1",
                                               "bins_x: int >= 1", "ratio: int >= 0",      "threads: int >= 1"};
  RegisterOperator("KerasMaskrcnnRoiAlign", attributes,
                   {"pyramid: L * T", "frame: float", "images: int32", "levels: int32"}, "crops: T", CheckBoxRanks);
  RegisterOperator("KerasMaskrcnnRoiAlignGrad", attributes,
                   {"upstream: T", "pyramid: L * T", "frame: float", "images: int32", "levels: int32"},
                   "gradients: L * T", CheckBoxRanks);
  RegisterKernel("KerasMaskrcnnRoiAlign", MakeOptions, ComputeCrops<float, TF_FLOAT>, DeleteOptions, TF_FLOAT);
  RegisterKernel("KerasMaskrcnnRoiAlign", MakeOptions, ComputeCrops<Bfloat16, TF_BFLOAT16>, DeleteOptions, TF_BFLOAT16);
  RegisterKernel("KerasMaskrcnnRoiAlignGrad", MakeOptions, ComputeGradients<float, TF_FLOAT>, DeleteOptions, TF_FLOAT);
  RegisterKernel("KerasMaskrcnnRoiAlignGrad", MakeOptions, ComputeGradients<Bfloat16, TF_BFLOAT16>, DeleteOptions,
                 TF_BFLOAT16);
}
