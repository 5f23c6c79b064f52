// The part of TensorFlow's C API that an operator needs, declared here and looked up when the library is loaded
// (operators.cc).
//
// So the library builds without TensorFlow and is not linked to it. One build works with all versions whose C API has
// these functions (tensorflow/c/{tf_status,tf_tensor,kernels,ops}.h; unchanged from 2.15 to 2.21).

#ifndef KERAS_MASKRCNN_TENSORFLOW_C_API_H_
#define KERAS_MASKRCNN_TENSORFLOW_C_API_H_

#include <cstddef>
#include <cstdint>

struct TF_Status;
struct TF_Tensor;
struct TF_KernelBuilder;
struct TF_OpDefinitionBuilder;
struct TF_OpKernelConstruction;
struct TF_OpKernelContext;
struct TF_ShapeInferenceContext;
struct TF_ShapeHandle;

enum { TF_FLOAT = 1, TF_INT32 = 3, TF_BFLOAT16 = 14 };  // TF_DataType
enum { TF_OK = 0, TF_INVALID_ARGUMENT = 3, TF_RESOURCE_EXHAUSTED = 8 };  // TF_Code

// name, result, parameters
#define TF_FUNCTIONS(F)                                                                                          \
  F(TF_NewStatus, TF_Status*, ())                                                                                \
  F(TF_DeleteStatus, void, (TF_Status*))                                                                         \
  F(TF_SetStatus, void, (TF_Status*, int, const char*))                                                          \
  F(TF_GetCode, int, (const TF_Status*))                                                                         \
  F(TF_Message, const char*, (const TF_Status*))                                                                 \
  F(TF_NumDims, int, (const TF_Tensor*))                                                                         \
  F(TF_Dim, int64_t, (const TF_Tensor*, int))                                                                    \
  F(TF_TensorData, void*, (const TF_Tensor*))                                                                    \
  F(TF_DeleteTensor, void, (TF_Tensor*))                                                                         \
  F(TF_NewOpDefinitionBuilder, TF_OpDefinitionBuilder*, (const char*))                                           \
  F(TF_OpDefinitionBuilderAddInput, void, (TF_OpDefinitionBuilder*, const char*))                                \
  F(TF_OpDefinitionBuilderAddOutput, void, (TF_OpDefinitionBuilder*, const char*))                               \
  F(TF_OpDefinitionBuilderAddAttr, void, (TF_OpDefinitionBuilder*, const char*))                                 \
  F(TF_OpDefinitionBuilderSetShapeInferenceFunction, void,                                                       \
    (TF_OpDefinitionBuilder*, void (*)(TF_ShapeInferenceContext*, TF_Status*)))                                  \
  F(TF_RegisterOpDefinition, void, (TF_OpDefinitionBuilder*, TF_Status*))                                        \
  F(TF_ShapeInferenceContextSetUnknownShape, void, (TF_ShapeInferenceContext*, TF_Status*))                      \
  F(TF_ShapeInferenceContextNumInputs, int64_t, (TF_ShapeInferenceContext*))                                     \
  F(TF_NewShapeHandle, TF_ShapeHandle*, ())                                                                      \
  F(TF_DeleteShapeHandle, void, (TF_ShapeHandle*))                                                               \
  F(TF_ShapeInferenceContextGetInput, void, (TF_ShapeInferenceContext*, int, TF_ShapeHandle*, TF_Status*))       \
  F(TF_ShapeInferenceContextWithRank, void,                                                                      \
    (TF_ShapeInferenceContext*, TF_ShapeHandle*, int64_t, TF_ShapeHandle*, TF_Status*))                          \
  F(TF_NewKernelBuilder, TF_KernelBuilder*,                                                                      \
    (const char*, const char*, void* (*)(TF_OpKernelConstruction*), void (*)(void*, TF_OpKernelContext*),        \
     void (*)(void*)))                                                                                           \
  F(TF_KernelBuilder_TypeConstraint, void, (TF_KernelBuilder*, const char*, int, TF_Status*))                    \
  F(TF_RegisterKernelBuilder, void, (const char*, TF_KernelBuilder*, TF_Status*))                                \
  F(TF_OpKernelConstruction_GetAttrInt32, void, (TF_OpKernelConstruction*, const char*, int32_t*, TF_Status*))   \
  F(TF_OpKernelConstruction_Failure, void, (TF_OpKernelConstruction*, TF_Status*))                               \
  F(TF_GetInput, void, (TF_OpKernelContext*, int, TF_Tensor**, TF_Status*))                                      \
  F(TF_AllocateOutput, TF_Tensor*, (TF_OpKernelContext*, int, int, const int64_t*, int, size_t, TF_Status*))     \
  F(TF_ForwardInputOrAllocateOutput, TF_Tensor*,                                                                 \
    (TF_OpKernelContext*, const int*, int, int, const int64_t*, int, int*, TF_Status*))                          \
  F(TF_OpKernelContext_Failure, void, (TF_OpKernelContext*, TF_Status*))

#define TF_DECLARE(name, result, parameters) extern result(*name) parameters;
TF_FUNCTIONS(TF_DECLARE)
#undef TF_DECLARE

#endif  // KERAS_MASKRCNN_TENSORFLOW_C_API_H_
