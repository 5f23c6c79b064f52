// COCO's annotations from text to numbers, without an object for each number. An entry that has anything but plain
// numbers and outlines in the usual fields is left to the caller, as is each number that needs more than one rounding.

#include <float.h>
#include <math.h>

#include "host.h"

typedef struct {
  const uint8_t *text, *at, *end;
  int64_t *sizes, *slow;
  double *coordinates;
  int64_t num_parts, num_values, num_slow, most_slow;
} Scan;

// What `others` and `slow` hold of each entry and number, and `numbers` and `floats` of each row.
enum { OTHER = 3, SLOW = 4, NUMBERS = 6, FLOATS = 5 };
enum { OF_ROW, OF_OUTLINE };  // where a slow number belongs
enum { ID = 1, IMAGE = 2, CATEGORY = 4, OUTLINE = 8, CROWD = 16, AREA = 32, BOX = 64 };

static void skip_space(Scan *s) {
  while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\r' || *s->at == '\t')) s->at++;
}

// Whether the next sign that is no space is this one, which is then passed.
static int take(Scan *s, uint8_t sign) {
  skip_space(s);
  if (s->at == s->end || *s->at != sign) return 0;
  s->at++;
  return 1;
}

static int is_digit(const Scan *s) { return s->at < s->end && *s->at >= '0' && *s->at <= '9'; }

typedef struct {
  uint64_t digits;   // all digits as one whole number
  int count, power;  // digits from the first that is not 0; the power of ten that the number is to be multiplied with
  int negative, whole, has_exponent;
  const uint8_t *begin;
} Token;

static void take_digits(Scan *s, Token *token) {
  for (; is_digit(s); s->at++) {
    if (token->count || *s->at != '0') token->count++;
    if (token->count <= 19) token->digits = 10 * token->digits + (*s->at - '0');
  }
}

// A number by JSON's grammar, of at most 64 characters.
static int take_token(Scan *s, Token *token) {
  skip_space(s);
  memset(token, 0, sizeof *token);
  token->begin = s->at;
  token->negative = s->at < s->end && *s->at == '-';
  s->at += token->negative;
  const uint8_t *first = s->at;
  if (!is_digit(s)) return 0;
  take_digits(s, token);
  if (*first == '0' && s->at - first > 1) return 0;
  token->whole = 1;
  if (s->at < s->end && *s->at == '.') {
    const uint8_t *point = s->at++;
    take_digits(s, token);
    token->power = (int)(point + 1 - s->at);
    token->whole = 0;
    if (!token->power) return 0;
  }
  if (s->at < s->end && (*s->at == 'e' || *s->at == 'E')) {
    s->at++;
    const int minus = s->at < s->end && *s->at == '-';
    if (minus || (s->at < s->end && *s->at == '+')) s->at++;
    int power = 0, length = 0;
    for (; is_digit(s) && length < 4; s->at++, length++) power = 10 * power + (*s->at - '0');
    if (!length || is_digit(s)) return 0;
    token->power += minus ? -power : power;
    token->has_exponent = 1;
    token->whole = 0;
  }
  return s->at - token->begin <= 64;
}

static int take_int(Scan *s, int64_t *value) {
  Token token;
  if (!take_token(s, &token) || !token.whole || token.count > 18 || (token.negative && !token.digits)) return 0;
  *value = token.negative ? -(int64_t)token.digits : (int64_t)token.digits;
  return 1;
}

// A float64. One whose digits or power are not exact in float64 is noted in `slow`: the caller has to read its text.
static int take_float(Scan *s, int place, int64_t index, double *value, Token *token) {
  static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                  1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  if (!take_token(s, token) || (token->negative && token->whole && !token->digits)) return 0;
  const int power = token->power;
  if (token->count > 19 || token->digits > (uint64_t)1 << 53 || power < -22 || power > 22) {
    if (token->has_exponent || s->num_slow == s->most_slow) return 0;
    int64_t *slow = s->slow + SLOW * s->num_slow++;
    slow[0] = place;
    slow[1] = index;
    slow[2] = token->begin - s->text;
    slow[3] = s->at - s->text;
  }
  else {  // both are exact, so that the one product or quotient is rounded as the number itself (Clinger, 1990)
    const double digits = (double)token->digits;
    *value = power < 0 ? digits / powers[-power] : digits * powers[power];
    if (token->negative) *value = -*value;
  }
  return 1;
}

static int take_outline(Scan *s, int64_t most_values, int64_t *num_parts) {
  Token token;
  if (!take(s, '[')) return 0;
  do {
    const int64_t first = s->num_values;
    if (!take(s, '[')) return 0;
    do {
      if (!take_float(s, OF_OUTLINE, s->num_values, s->coordinates + s->num_values, &token)) return 0;
      s->num_values++;
    } while (take(s, ','));
    const int64_t size = s->num_values - first;
    if (!take(s, ']') || size < 6 || size % 2 || size > most_values) return 0;
    s->sizes[s->num_parts++] = size;
    ++*num_parts;
  } while (take(s, ','));
  return take(s, ']');
}

// Which field a key is; 0 of another one. The position is after its closing quote.
static int take_key(Scan *s) {
  static const char *const names[] = {"id", "image_id", "category_id", "segmentation", "iscrowd", "area", "bbox"};
  if (!take(s, '"')) return 0;
  const uint8_t *begin = s->at;
  while (s->at < s->end && *s->at != '"') s->at++;
  if (s->at == s->end) return 0;
  const size_t length = (size_t)(s->at++ - begin);
  for (int i = 0; i < 7; i++)
    if (strlen(names[i]) == length && !memcmp(names[i], begin, length)) return 1 << i;
  return 0;
}

static int take_box(Scan *s, int64_t row, double *box) {
  Token token;
  for (int i = 0; i < 4; i++)
    if (!take(s, i ? ',' : '[') || !take_float(s, OF_ROW, FLOATS * row + 1 + i, box + i, &token)) return 0;
  return take(s, ']');
}

static int take_area(Scan *s, int64_t row, double *area) {
  Token token;
  if (!take_float(s, OF_ROW, FLOATS * row, area, &token) || token.negative || !token.digits) return 0;
  return !token.whole || (token.count < 19 && token.digits < (uint64_t)1 << 53);
}

// `numbers`: id, image_id, category_id, iscrowd, parts of the row; `floats`: area, and x, y, width, height of the box.
static int take_entry(Scan *s, int64_t row, int64_t most_values, int64_t *numbers, double *floats) {
  int seen = 0;
  numbers[3] = numbers[4] = 0;
  for (int i = 0; i < FLOATS; i++) floats[i] = NAN;
  if (!take(s, '{')) return 0;
  do {
    const int key = take_key(s);
    int good = key && !(seen & key) && take(s, ':');
    seen |= key;
    if (!good) return 0;
    if (key == ID) good = take_int(s, numbers);
    if (key == IMAGE) good = take_int(s, numbers + 1);
    if (key == CATEGORY) good = take_int(s, numbers + 2);
    if (key == CROWD) good = take_int(s, numbers + 3) && (numbers[3] == 0 || numbers[3] == 1);
    if (key == OUTLINE) good = take_outline(s, most_values, numbers + 4);
    if (key == AREA) good = take_area(s, row, floats);
    if (key == BOX) good = take_box(s, row, floats + 1);
    if (!good) return 0;
  } while (take(s, ','));
  return take(s, '}') && (seen & 15) == 15;
}

// Pass a dictionary, whatever it holds. Whether it ends.
static int skip_entry(Scan *s) {
  int64_t depth = 0;
  do {
    if (s->at == s->end) return 0;
    const uint8_t sign = *s->at++;
    if (sign == '{' || sign == '[') depth++;
    if (sign == '}' || sign == ']') depth--;
    if (sign == '"') {
      while (s->at < s->end && *s->at != '"') s->at += *s->at == '\\' ? 2 : 1;
      if (s->at++ >= s->end) return 0;
    }
  } while (depth > 0);
  return 1;
}

// The entries of a list of dictionaries, without the brackets around it.
//
// text: of `size` bytes; the caller keeps a zero byte after it. most_values: of an outline.
// numbers: NUMBERS a row: id, image_id, category_id, iscrowd, parts, position of the entry; room for size / 60 + 1 rows.
// floats: FLOATS a row, NaN where there are none. sizes: values of each part; room for size / 13 + 1.
// coordinates: of all parts; room for size / 2 + 1. others: position, begin and end of each entry that is no row; room
// for size / 16 + 1. slow: place, index, begin and end of each number that is not yet written; room for size / 16 + 1.
// counts: 5 of them: rows, parts, others, slow numbers, entries.
//
// Returns 1; 0 where it is no such list, or has no row for many small entries.
EXPORT int km_scan_annotations(const uint8_t *text, int64_t size, int64_t most_values, int64_t *numbers, double *floats,
                               int64_t *sizes, double *coordinates, int64_t *others, int64_t *slow, int64_t *counts) {
#if FLT_EVAL_METHOD != 0
  return 0;  // products would be rounded twice
#endif
  Scan s = {text, text, text + size, sizes, slow, coordinates, 0, 0, 0, size / 16 + 1};
  int64_t rows = 0, num_others = 0, entries = 0;
  do {
    skip_space(&s);
    if (s.at == s.end || *s.at != '{') return 0;
    const Scan before = s;
    if (take_entry(&s, rows, most_values, numbers + NUMBERS * rows, floats + FLOATS * rows)) {
      numbers[NUMBERS * rows++ + 5] = entries;
    }
    else {
      s = before;
      if (!skip_entry(&s) || num_others > size / 16) return 0;
      int64_t *other = others + OTHER * num_others++;
      other[0] = entries;
      other[1] = before.at - text;
      other[2] = s.at - text;
    }
    entries++;
  } while (take(&s, ','));
  skip_space(&s);
  if (s.at != s.end) return 0;
  const int64_t found[] = {rows, s.num_parts, num_others, s.num_slow, entries};
  memcpy(counts, found, sizeof found);
  return 1;
}
