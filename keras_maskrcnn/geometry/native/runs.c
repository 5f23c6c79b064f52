// COCO's run lengths: from text to numbers, and from numbers to the pixels of a window.

#include "host.h"

// The run lengths in compressed text of `size` characters: pycocotools' rleFrString. `runs` has room for `size`.
// Returns how many there are, or -1 where the text is damaged or a run is no length of an image.
EXPORT int64_t km_parse_runs(const uint8_t *text, int64_t size, int64_t *runs) {
  const int longest = 8;  // characters of a run
  int64_t count = 0, at = 0;
  while (at < size) {
    int64_t value = 0;
    int shift = 0, code = 0;
    do {
      if (at == size || shift == 5 * longest || text[at] < 48 || text[at] > 111) return -1;
      code = text[at++] - 48;
      value |= (int64_t)(code & 0x1f) << shift;
      shift += 5;
    } while (code & 0x20);
    if (code & 0x10) value -= (int64_t)1 << shift;
    if (count > 2) value += runs[count - 2];
    if (value < 0 || value > (int64_t)1 << 38) return -1;
    runs[count++] = value;
  }
  return count ? count : -1;
}

// The box [x1, y1, x2, y2] of the runs of 1 in columns of `height` pixels; 0 where there are none.
EXPORT int km_runs_extent(const int64_t *runs, int64_t count, int64_t height, int64_t *box) {
  int64_t start = 0, low = height, high = 0, first = -1, last = 0;
  int spans_columns = 0;
  for (int64_t i = 0; i < count; start += runs[i++]) {
    if (!(i & 1) || !runs[i]) continue;
    const int64_t end = start + runs[i] - 1, column = start / height, top = start - column * height;
    if (first < 0) first = column;
    last = end / height;
    const int64_t bottom = end - last * height;
    spans_columns |= column != last;
    if (top < low) low = top;
    if (bottom > high) high = bottom;
  }
  if (first < 0) return 0;
  box[0] = first;
  box[1] = spans_columns ? 0 : low;
  box[2] = last + 1;
  box[3] = spans_columns ? height : high + 1;
  return 1;
}

// The pixels of the runs inside a box of whole image pixels: `out`, 0 before, is (y2 - y1, x2 - x1).
EXPORT void km_runs_window(const int64_t *runs, int64_t count, int64_t height, const int64_t *box, uint8_t *out) {
  const int64_t width = box[2] - box[0], first = box[0] * height, end = box[2] * height;
  for (int64_t i = 0, start = 0; i < count && start < end; start += runs[i++]) {
    if (!(i & 1)) continue;
    int64_t at = start > first ? start : first;
    const int64_t stop = start + runs[i] < end ? start + runs[i] : end;
    while (at < stop) {  // column by column
      const int64_t column = at / height, base = column * height;
      int64_t low = at - base, high = stop - base < height ? stop - base : height;
      at = base + height;
      if (low < box[1]) low = box[1];
      if (high > box[3]) high = box[3];
      for (int64_t row = low; row < high; ++row) out[(row - box[1]) * width + column - box[0]] = 1;
    }
  }
}
