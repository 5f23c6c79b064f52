// Looks up TensorFlow's C API when the library is loaded, and implements operators.h on top of it.

#include "operators.h"

#include <dlfcn.h>

#include <cstdio>

#define TF_DEFINE(name, result, parameters) result(*name) parameters = nullptr;
TF_FUNCTIONS(TF_DEFINE)
#undef TF_DEFINE

void RegisterRoiAlign();
void RegisterConvolution();
void RegisterAddMaps();

Inputs::Inputs(TF_OpKernelContext* context, int count, const char* name)
    : context_(context), name_(name), tensors_(count, nullptr), status_(TF_NewStatus()) {
  for (int i = 0; i < count; ++i) TF_GetInput(context, i, &tensors_[i], status_);
}

Inputs::~Inputs() {
  for (TF_Tensor* tensor : tensors_) {
    if (tensor != nullptr) TF_DeleteTensor(tensor);
  }
  TF_DeleteStatus(status_);
}

TF_Tensor* Inputs::Allocate(int index, int type, size_t size, const int64_t* shape, int rank) const {
  int64_t numbers = 1;
  for (int i = 0; i < rank; ++i) {
    if (shape[i] < 0 || (shape[i] > 0 && numbers > kMostNumbers / shape[i])) {
      Fail("An output must have at most " + std::to_string(kMostNumbers) + " numbers. Received inputs that need more.");
      return nullptr;
    }
    numbers *= shape[i];
  }
  size *= numbers;
  TF_Tensor* tensor = TF_AllocateOutput(context_, index, type, shape, rank, size, status_);
  if (TF_GetCode(status_) == TF_OK) return tensor;
  TF_OpKernelContext_Failure(context_, status_);
  return nullptr;
}

TF_Tensor* Inputs::ForwardOrAllocate(int count, const int64_t* shape, int rank) {
  std::vector<int> candidates(count);
  for (int i = 0; i < count; ++i) candidates[i] = i;
  for (TF_Tensor*& tensor : tensors_) {
    TF_DeleteTensor(tensor);
    tensor = nullptr;
  }
  int forwarded = -1;
  TF_Tensor* tensor =
      TF_ForwardInputOrAllocateOutput(context_, candidates.data(), count, 0, shape, rank, &forwarded, status_);
  if (TF_GetCode(status_) == TF_OK) return tensor;
  TF_OpKernelContext_Failure(context_, status_);
  return nullptr;
}

void Inputs::Fail(const std::string& message, int code) const {
  TF_SetStatus(status_, code, (std::string(name_) + ": " + message).c_str());
  TF_OpKernelContext_Failure(context_, status_);
}

std::string ShapeOf(const TF_Tensor* tensor) {
  std::string text = "(";
  for (int i = 0; i < TF_NumDims(tensor); ++i) text += (i ? ", " : "") + std::to_string(TF_Dim(tensor, i));
  return text + ")";
}

std::string WrongMap(const TF_Tensor* tensor, int number) {
  bool right = TF_NumDims(tensor) == 4;
  for (int axis = 1; right && axis < 4; ++axis) {
    right = TF_Dim(tensor, axis) >= 1 && (axis == 3 || TF_Dim(tensor, axis) <= kLongestSide);
  }
  if (right) return "";
  return "a map must be (B, H, W, C), with 1 to " + std::to_string(kLongestSide) +
         " rows and columns and at least one channel. Received map " + std::to_string(number) + " of shape " +
         ShapeOf(tensor) + ".";
}

void ReadAttributes(TF_OpKernelConstruction* construction, const std::vector<Attribute>& attributes) {
  TF_Status* status = TF_NewStatus();
  for (const Attribute& attribute : attributes) {
    TF_OpKernelConstruction_GetAttrInt32(construction, attribute.name, attribute.value, status);
    if (TF_GetCode(status) != TF_OK) {
      TF_OpKernelConstruction_Failure(construction, status);
      break;
    }
  }
  TF_DeleteStatus(status);
}

void CheckRanks(TF_ShapeInferenceContext* context, const std::vector<int>& last, TF_Status* status) {
  const int64_t count = TF_ShapeInferenceContextNumInputs(context);
  const int64_t maps = count - static_cast<int64_t>(last.size());
  TF_ShapeHandle* shape = TF_NewShapeHandle();
  for (int64_t i = 0; i < count; ++i) {
    TF_ShapeInferenceContextGetInput(context, static_cast<int>(i), shape, status);
    if (TF_GetCode(status) == TF_OK) {
      TF_ShapeInferenceContextWithRank(context, shape, i < maps ? 4 : last[i - maps], shape, status);
    }
    if (TF_GetCode(status) != TF_OK) break;
  }
  TF_DeleteShapeHandle(shape);
  if (TF_GetCode(status) == TF_OK) TF_ShapeInferenceContextSetUnknownShape(context, status);
}

void RegisterOperator(const char* name, const std::vector<const char*>& attributes,
                      const std::vector<const char*>& inputs, const char* output,
                      void (*check_ranks)(TF_ShapeInferenceContext*, TF_Status*)) {
  TF_Status* status = TF_NewStatus();
  TF_OpDefinitionBuilder* definition = TF_NewOpDefinitionBuilder(name);
  for (const char* attribute : attributes) TF_OpDefinitionBuilderAddAttr(definition, attribute);
  for (const char* input : inputs) TF_OpDefinitionBuilderAddInput(definition, input);
  TF_OpDefinitionBuilderAddOutput(definition, output);
  TF_OpDefinitionBuilderSetShapeInferenceFunction(definition, check_ranks);
  TF_RegisterOpDefinition(definition, status);
  if (TF_GetCode(status) != TF_OK) std::fprintf(stderr, "keras_maskrcnn: %s\n", TF_Message(status));
  TF_DeleteStatus(status);
}

void RegisterKernel(const char* name, void* (*make)(TF_OpKernelConstruction*),
                    void (*compute)(void*, TF_OpKernelContext*), void (*destroy)(void*), int type) {
  TF_Status* status = TF_NewStatus();
  TF_KernelBuilder* builder = TF_NewKernelBuilder(name, "CPU", make, compute, destroy);
  if (type != 0) TF_KernelBuilder_TypeConstraint(builder, "T", type, status);
  if (TF_GetCode(status) == TF_OK) TF_RegisterKernelBuilder(name, builder, status);
  if (TF_GetCode(status) != TF_OK) std::fprintf(stderr, "keras_maskrcnn: %s\n", TF_Message(status));
  TF_DeleteStatus(status);
}

bool HasAvx512() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

bool HasAvx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

// TensorFlow is already loaded in the process; only the addresses are needed.
static bool FindTensorFlow() {
  for (const char* name : {"libtensorflow_framework.so.2", "libtensorflow_cc.so.2", "libtensorflow_framework.2.dylib",
                           "libtensorflow_cc.2.dylib"}) {
    void* library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr) continue;
#define TF_LOOK_UP(function, result, parameters) \
  if (function == nullptr) function = reinterpret_cast<result(*) parameters>(dlsym(library, #function));
    TF_FUNCTIONS(TF_LOOK_UP)
#undef TF_LOOK_UP
  }
  bool all = true;
#define TF_CHECK_FOUND(function, result, parameters) all = all && function != nullptr;
  TF_FUNCTIONS(TF_CHECK_FOUND)
#undef TF_CHECK_FOUND
  return all;
}

__attribute__((constructor)) static void Register() {
  if (!FindTensorFlow()) return;  // no operators are registered; Python detects this and warns
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  RegisterRoiAlign();
  RegisterConvolution();
  RegisterAddMaps();
}
