// Looks up TensorFlow's C API when the library is loaded, and implements operators.h on top of it.

#include "operators.h"

#include <dlfcn.h>

#include <cstdio>

#define TF_DEFINE(name, result, parameters) result(*name) parameters = nullptr;
TF_FUNCTIONS(TF_DEFINE)
#undef TF_DEFINE

void RegisterRoiAlign();
void RegisterConvolution();

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
  for (int i = 0; i < rank; ++i) size *= shape[i];
  TF_Tensor* tensor = TF_AllocateOutput(context_, index, type, shape, rank, size, status_);
  if (TF_GetCode(status_) == TF_OK) return tensor;
  TF_OpKernelContext_Failure(context_, status_);
  return nullptr;
}

void Inputs::Fail(const std::string& message) const {
  TF_SetStatus(status_, TF_INVALID_ARGUMENT, (std::string(name_) + ": " + message).c_str());
  TF_OpKernelContext_Failure(context_, status_);
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

static void UnknownShape(TF_ShapeInferenceContext* context, TF_Status* status) {
  TF_ShapeInferenceContextSetUnknownShape(context, status);
}

void RegisterOperator(const char* name, const std::vector<const char*>& attributes,
                      const std::vector<const char*>& inputs, const char* output) {
  TF_Status* status = TF_NewStatus();
  TF_OpDefinitionBuilder* definition = TF_NewOpDefinitionBuilder(name);
  for (const char* attribute : attributes) TF_OpDefinitionBuilderAddAttr(definition, attribute);
  for (const char* input : inputs) TF_OpDefinitionBuilderAddInput(definition, input);
  TF_OpDefinitionBuilderAddOutput(definition, output);
  TF_OpDefinitionBuilderSetShapeInferenceFunction(definition, UnknownShape);
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
}
