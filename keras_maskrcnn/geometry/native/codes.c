// Masks of detections as COCO's compressed run lengths, straight from the squares that the mask head predicts.

#include <math.h>

#include "host.h"

typedef struct {  // pixels of an axis: the first one, how many, and for each the two mask cells that it mixes
  int first, count;
  int *cell;      // 2 a pixel
  float *weight;  // 2 a pixel; 0 for a cell beyond the mask
} Axis;

typedef struct {
  char *text;
  int64_t size, room;
  int64_t last, before, run;  // where the last run began; the run before the last one; how many there are
  int64_t runs[2];
  int failed;
} Text;

INLINE int between(int value, int low, int high) { return value < low ? low : value > high ? high : value; }

INLINE void weigh(Axis *axis, int pixel, double point, int cells) {
  const int low = (int)floor(point);
  for (int k = 0; k < 2; ++k) {
    const double share = 1.0 - fabs(point - (low + k));
    const int inside = low + k >= 0 && low + k < cells;
    axis->cell[2 * pixel + k] = inside ? low + k : 0;
    axis->weight[2 * pixel + k] = inside && share > 0 ? (float)share : 0;
  }
}

// `_subpixel_axis` of pasting.py.
INLINE void subpixel_axis(Axis *axis, double low, double high, int cells, int extent) {
  axis->first = between((int)ceil(low - 0.5), 0, extent);
  const int last = (int)ceil(high - 0.5);
  axis->count = high > low ? between(last, axis->first, extent > axis->first ? extent : axis->first) - axis->first : 0;
  for (int i = 0; i < axis->count; ++i) {
    const double centre = (axis->first + i) + 0.5;
    weigh(axis, i, (centre - low) / (high - low) * cells - 0.5, cells);
  }
}

// `_torchvision_axis` of pasting.py.
INLINE void torchvision_axis(Axis *axis, float low, float high, int cells, int extent) {
  const float scale = (float)((double)(cells + 2) / cells);
  const float half = (high - low) * 0.5f * scale, middle = (high + low) * 0.5f;
  const int start = (int)(middle - half), end = (int)(middle + half);
  const int size = end - start + 1 > 1 ? end - start + 1 : 1;
  axis->first = between(start, 0, extent);
  axis->count = between(end + 1, axis->first, extent > axis->first ? extent : axis->first) - axis->first;
  for (int i = 0; i < axis->count; ++i) {
    double point = (axis->first + i - start + 0.5) * ((double)(cells + 2) / size) - 0.5;
    point = point < 0 ? 0 : point > cells + 1 ? cells + 1 : point;
    weigh(axis, i, point - 1, cells);
  }
}

// Whether there is room for more characters; makes some. 0: there is no memory.
static int has_room(Text *out, int64_t more) {
  if (out->size + more <= out->room) return 1;
  const int64_t room = 2 * out->room + more;
  char *text = realloc(out->text, room);
  if (!text) {
    out->failed = 1;
    return 0;
  }
  out->text = text;
  out->room = room;
  return 1;
}

// A run ends at a position: pycocotools' rleToString, number by number.
INLINE void end_run(Text *out, int64_t position) {
  const int64_t length = position - out->last;
  int64_t rest = out->run > 2 ? length - out->runs[out->run & 1] : length;
  out->runs[out->run & 1] = length;
  out->last = position;
  ++out->run;
  if (!has_room(out, 16)) return;
  for (int more = 1; more;) {
    int code = (int)(rest & 0x1f);
    rest >>= 5;
    more = code & 0x10 ? rest != -1 : rest != 0;
    out->text[out->size++] = (char)((more ? code | 0x20 : code) + 48);
  }
}

// Rows of the window from those of the mask: `out` is (cells, rows), so that a column of the image lies in one piece.
INLINE void stretch(const float *mask, int cells, const Axis *rows, float *out) {
  for (int c = 0; c < cells; ++c)
    for (int y = 0; y < rows->count; ++y)
      out[c * rows->count + y] = rows->weight[2 * y] * mask[rows->cell[2 * y] * cells + c] +
                                 rows->weight[2 * y + 1] * mask[rows->cell[2 * y + 1] * cells + c];
}

// One column of the image: 1 where the mask is above the threshold. Returns whether a pixel is too near to tell.
INLINE int threshold_column(const float *restrict a, const float *restrict b, float of_a, float of_b, float threshold,
                            float margin, int count, uint8_t *restrict out) {
  int near = 0;
  for (int y = 0; y < count; ++y) {
    const float apart = of_a * a[y] + of_b * b[y] - threshold;
    out[y] = apart > 0;
    near |= fabsf(apart) < margin;
  }
  return near;
}

// The changes in a column that begins at `position`, eight pixels at a time. Returns the value at its end.
INLINE uint8_t scan(Text *out, const uint8_t *column, int count, int64_t position, uint8_t value) {
  int y = 0;
  while (y < count) {
    uint64_t eight;
    memcpy(&eight, column + y, 8);  // the buffer is padded
    if (eight == 0x0101010101010101u * value) {
      y += 8;
      continue;
    }
    const int stop = y + 8 < count ? y + 8 : count;
    for (; y < stop; ++y)
      if (column[y] != value) {
        value = column[y];
        end_run(out, position + y);
      }
  }
  return value;
}

INLINE int encode(const float *stretched, const Axis *rows, const Axis *columns, float threshold, float margin,
                  int height, int width, uint8_t *column, Text *out) {
  int near = 0;
  uint8_t value = 0;
  out->last = out->run = 0;
  for (int x = 0; x < columns->count && rows->count; ++x) {
    const int64_t position = (int64_t)(columns->first + x) * height + rows->first;
    near |= threshold_column(stretched + columns->cell[2 * x] * rows->count,
                             stretched + columns->cell[2 * x + 1] * rows->count, columns->weight[2 * x],
                             columns->weight[2 * x + 1], threshold, margin, rows->count, column);
    value = scan(out, column, rows->count, position, value);
    if (value && rows->count < height) {
      end_run(out, position + rows->count);
      value = 0;
    }
  }
  if (value) end_run(out, (int64_t)(columns->first + columns->count) * height);  // rows of all the height
  if (out->last < (int64_t)height * width || !out->run) end_run(out, (int64_t)height * width);
  return near;
}

static void free_axes(Axis *axes) {
  for (int k = 0; k < 2; ++k) {
    free(axes[k].cell);
    free(axes[k].weight);
  }
}

static int new_axis(Axis *axis, int extent) {
  axis->cell = malloc(2 * sizeof(int) * (size_t)extent);
  axis->weight = malloc(2 * sizeof(float) * (size_t)extent);
  return axis->cell && axis->weight;
}

EXPORT void km_free(char *text) { free(text); }

// Which functions there are and what they take: count it up with each change, here and in `__init__.py`.
EXPORT int km_interface(void) { return 2; }

// The codes of n masks (cells, cells), one after the other.
//
// `boxes`: (n, [x1, y1, x2, y2]), image pixels, finite and of less than 2^30. `torchvision`: the rule of pasting.
// `near`: 1 where a pixel is nearer to the threshold than `margin`, so that other roundings of the same sums could
// give another code. `ends`: where each code ends. Returns the text, for `km_free`; NULL where there is no memory.
EXPORT WIDTHS char *km_paste_codes(const float *masks, int n, int cells, const float *boxes, int height, int width,
                                   int torchvision, float threshold, float margin, uint8_t *near, int64_t *ends) {
  Axis axes[2] = {{0}};
  Text out = {malloc(256 * (size_t)(n + 1)), 0, 256 * (int64_t)(n + 1), 0, 0, 0, {0, 0}, 0};
  const int ready = new_axis(axes, height) & new_axis(axes + 1, width);
  float *stretched = malloc(sizeof(float) * (size_t)cells * height);
  uint8_t *column = calloc((size_t)height + 8, 1);
  out.failed = !(ready && out.text && stretched && column);
  for (int i = 0; i < n && !out.failed; ++i) {
    const float *box = boxes + 4 * i;
    for (int k = 0; k < 2; ++k) {
      const float low = box[1 - k], high = box[3 - k];
      if (torchvision)
        torchvision_axis(axes + k, low, high, cells, k ? width : height);
      else
        subpixel_axis(axes + k, low, high, cells, k ? width : height);
    }
    stretch(masks + (int64_t)i * cells * cells, cells, axes, stretched);
    near[i] = (uint8_t)encode(stretched, axes, axes + 1, threshold, margin, height, width, column, &out);
    ends[i] = out.size;
  }
  free_axes(axes);
  free(stretched);
  free(column);
  if (!out.failed) return out.text;
  free(out.text);
  return NULL;
}
