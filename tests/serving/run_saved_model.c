/* Runs an export without Python: TensorFlow's C API, whose loader is that of TF Serving.
 *
 *     run_saved_model DIRECTORY serving_default picture.ppm...   raw RGB (P6), all of one size
 *     run_saved_model DIRECTORY serve_bytes photo.jpg...         encoded files of any sizes
 *
 * As a server does, it looks up the names of tensors in the SignatureDef, not in the graph. It prints a line for each
 * image ("image 0 480x640 2 detections <problem>"), and below it one for each detection: box, score, label, class name,
 * and the mask at 0.5 as hexadecimal digits, row by row. Built and run by tests/test_serving.py.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

enum { MAX_TENSORS = 16 };
enum { META_GRAPH_SIGNATURES = 5, SIGNATURE_INPUTS = 1, SIGNATURE_OUTPUTS = 2, MAP_KEY = 1, MAP_VALUE = 2, NAME = 1 };

static void fail(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static void check(const TF_Status *status, const char *what) {
  if (TF_GetCode(status) != TF_OK) fail(what, TF_Message(status));
}

/* Protocol buffers, as far as a SignatureDef needs them. --------------------------------------------------------- */

typedef struct {
  const uint8_t *at, *end;
} Bytes;

static uint64_t varint(Bytes *from) {
  uint64_t value = 0;
  for (int shift = 0; from->at < from->end && shift < 64; shift += 7) {
    uint8_t byte = *from->at++;
    value |= (uint64_t)(byte & 127) << shift;
    if (byte < 128) return value;
  }
  fail("MetaGraphDef", "is cut off");
  return 0;
}

/* The next field: its number and, where it has a length, its payload. 0 at the end. */
static int next_field(Bytes *message, Bytes *payload) {
  if (message->at >= message->end) return 0;
  uint64_t tag = varint(message), size = 0;
  switch (tag & 7) {
    case 0: varint(message); break;
    case 1: size = 8; break;
    case 2: size = varint(message); break;
    case 5: size = 4; break;
    default: fail("MetaGraphDef", "has a field of unknown type");
  }
  if (size > (uint64_t)(message->end - message->at)) fail("MetaGraphDef", "is cut off");
  payload->at = message->at;
  payload->end = message->at += size;
  return (int)(tag >> 3);
}

static Bytes find_field(Bytes message, int number) {
  Bytes payload;
  int field;
  while ((field = next_field(&message, &payload)))
    if (field == number) return payload;
  payload.at = payload.end = NULL;
  return payload;
}

static int is_text(Bytes bytes, const char *text) {
  return (size_t)(bytes.end - bytes.at) == strlen(text) && !memcmp(bytes.at, text, strlen(text));
}

/* Value of a key in a map field of a message. */
static int find_entry(Bytes message, int map, const char *key, Bytes *value) {
  Bytes entry;
  int field;
  while ((field = next_field(&message, &entry))) {
    if (field != map || !is_text(find_field(entry, MAP_KEY), key)) continue;
    *value = find_field(entry, MAP_VALUE);
    return 1;
  }
  return 0;
}

/* The graph's output behind a TensorInfo, whose name is "operation:index". */
static TF_Output tensor(TF_Graph *graph, Bytes signature, int map, const char *key) {
  Bytes info, name;
  char text[512];
  if (!find_entry(signature, map, key, &info)) fail("the signature has no tensor", key);
  name = find_field(info, NAME);
  size_t size = (size_t)(name.end - name.at);
  if (!name.at || size >= sizeof text) fail("a tensor's name is missing or too long", key);
  memcpy(text, name.at, size);
  text[size] = 0;
  char *colon = strrchr(text, ':');
  if (!colon) fail("a tensor's name has no index", text);
  *colon = 0;
  TF_Output output = {TF_GraphOperationByName(graph, text), atoi(colon + 1)};
  if (!output.oper) fail("the graph has no operation", text);
  return output;
}

/* Inputs. ----------------------------------------------------------------------------------------------------------- */

static char *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (!file) fail("cannot open", path);
  fseek(file, 0, SEEK_END);
  *size = (size_t)ftell(file);
  rewind(file);
  char *data = malloc(*size + 1);
  if (!data || fread(data, 1, *size, file) != *size) fail("cannot read", path);
  fclose(file);
  data[*size] = 0;
  return data;
}

static TF_Tensor *encoded_files(int count, char **paths) {
  int64_t shape[] = {count};
  TF_Tensor *batch = TF_AllocateTensor(TF_STRING, shape, 1, (size_t)count * sizeof(TF_TString));
  TF_TString *strings = TF_TensorData(batch);
  for (int i = 0; i < count; i++) {
    size_t size;
    char *data = read_file(paths[i], &size);
    TF_TString_Init(&strings[i]);
    TF_TString_Copy(&strings[i], data, size);
    free(data);
  }
  return batch;
}

static TF_Tensor *raw_images(int count, char **paths) {
  TF_Tensor *batch = NULL;
  int64_t shape[] = {count, 0, 0, 3};
  for (int i = 0; i < count; i++) {
    size_t size;
    int width, height, start;
    char *data = read_file(paths[i], &size);
    if (sscanf(data, "P6 %d %d 255%n", &width, &height, &start) != 2) fail("not a PPM (P6) with 8 bits", paths[i]);
    size_t pixels = (size_t)width * height * 3;
    if (size != (size_t)start + 1 + pixels) fail("a PPM of another size than its header says", paths[i]);
    if (!batch) {
      shape[1] = height, shape[2] = width;
      batch = TF_AllocateTensor(TF_UINT8, shape, 4, pixels * (size_t)count);
    }
    if (shape[1] != height || shape[2] != width) fail("images of one batch must have one size", paths[i]);
    memcpy((char *)TF_TensorData(batch) + pixels * (size_t)i, data + start + 1, pixels);
    free(data);
  }
  return batch;
}

/* Outputs. ---------------------------------------------------------------------------------------------------------- */

static const char *const OUTPUTS[] = {"boxes",          "scores",      "labels", "class_names", "masks", "valid",
                                      "num_detections", "image_sizes", "problems"};
enum { BOXES, SCORES, LABELS, CLASS_NAMES, MASKS, VALID, NUM_DETECTIONS, IMAGE_SIZES, PROBLEMS };

static void print_text(const TF_Tensor *from, int64_t index) {
  const TF_TString *text = (const TF_TString *)TF_TensorData(from) + index;
  fwrite(TF_TString_GetDataPointer(text), 1, TF_TString_GetSize(text), stdout);
}

static void print_mask(const float *mask, int64_t cells) {
  for (int64_t i = 0; i < cells; i += 4) {
    int digit = 0;
    for (int64_t j = i; j < i + 4; j++) digit = digit * 2 + (j < cells && mask[j] > 0.5f);
    printf("%x", digit);
  }
}

static void print_answer(TF_Tensor **answer, int has_problems) {
  int64_t images = TF_Dim(answer[VALID], 0), rows = TF_Dim(answer[VALID], 1);
  int64_t cells = TF_Dim(answer[MASKS], 2) * TF_Dim(answer[MASKS], 3);
  const float *boxes = TF_TensorData(answer[BOXES]), *scores = TF_TensorData(answer[SCORES]);
  const float *masks = TF_TensorData(answer[MASKS]);
  const int32_t *labels = TF_TensorData(answer[LABELS]), *sizes = TF_TensorData(answer[IMAGE_SIZES]);
  const int32_t *counts = TF_TensorData(answer[NUM_DETECTIONS]);
  const unsigned char *valid = TF_TensorData(answer[VALID]);
  for (int64_t i = 0; i < images; i++) {
    printf("image %d %dx%d %d detections ", (int)i, sizes[2 * i], sizes[2 * i + 1], counts[i]);
    if (has_problems) print_text(answer[PROBLEMS], i);
    printf("\n");
    for (int64_t j = i * rows; j < (i + 1) * rows; j++) {
      if (!valid[j]) continue;
      const float *box = boxes + 4 * j;
      printf("%.9g %.9g %.9g %.9g %.9g %d ", box[0], box[1], box[2], box[3], scores[j], labels[j]);
      print_mask(masks + cells * j, cells);
      printf(" ");
      print_text(answer[CLASS_NAMES], j);
      printf("\n");
    }
  }
}

int main(int argc, char **argv) {
  if (argc < 4) fail("usage", "run_saved_model DIRECTORY serving_default|serve_bytes FILE...");
  const char *name = argv[2], *tags[] = {"serve"};
  int encoded = !strcmp(name, "serve_bytes");
  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  TF_Buffer *meta_graph = TF_NewBuffer();
  TF_Session *session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, meta_graph, status);
  check(status, "loading");

  Bytes meta = {meta_graph->data, (const uint8_t *)meta_graph->data + meta_graph->length}, signature;
  if (!find_entry(meta, META_GRAPH_SIGNATURES, name, &signature)) fail("there is no signature", name);
  TF_Output input = tensor(graph, signature, SIGNATURE_INPUTS, encoded ? "image_bytes" : "images");
  TF_Output outputs[MAX_TENSORS];
  TF_Tensor *answer[MAX_TENSORS] = {NULL};
  int count = encoded ? PROBLEMS + 1 : PROBLEMS;
  for (int i = 0; i < count; i++) outputs[i] = tensor(graph, signature, SIGNATURE_OUTPUTS, OUTPUTS[i]);

  TF_Tensor *batch = encoded ? encoded_files(argc - 3, argv + 3) : raw_images(argc - 3, argv + 3);
  TF_SessionRun(session, NULL, &input, &batch, 1, outputs, answer, count, NULL, 0, NULL, status);
  check(status, "running");
  print_answer(answer, encoded);

  for (int i = 0; i < count; i++) TF_DeleteTensor(answer[i]);
  TF_DeleteTensor(batch);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  check(status, "closing");
  TF_DeleteBuffer(meta_graph);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
