// Shared by all operators: inputs and outputs of a call, registration of the operator and its kernel, and the vectors
// of the processor.

#ifndef KERAS_MASKRCNN_OPERATORS_H_
#define KERAS_MASKRCNN_OPERATORS_H_

#include <string>
#include <vector>

#include "tensorflow_c_api.h"

// Inputs and outputs of one call. The destructor releases the inputs. After a failure the call must return.
class Inputs {
 public:
  Inputs(TF_OpKernelContext* context, int count, const char* name);
  ~Inputs();
  Inputs(const Inputs&) = delete;
  Inputs& operator=(const Inputs&) = delete;

  TF_Tensor* operator[](int i) const { return tensors_[i]; }
  TF_Status* status() const { return status_; }
  template <typename T>
  const T* Data(int i) const {
    return static_cast<const T*>(TF_TensorData(tensors_[i]));
  }

  // Output number `index` of a TF_DataType whose elements have `size` bytes; nullptr after a failure.
  TF_Tensor* Allocate(int index, int type, size_t size, const int64_t* shape, int rank) const;

  // Ends the call with an error that names the operator.
  void Fail(const std::string& message) const;

 private:
  TF_OpKernelContext* context_;
  const char* name_;
  std::vector<TF_Tensor*> tensors_;
  TF_Status* status_;
};

struct Attribute {
  const char* name;
  int32_t* value;
};

// Reads int attributes during kernel construction.
void ReadAttributes(TF_OpKernelConstruction* construction, const std::vector<Attribute>& attributes);

// Output shapes stay unknown to TensorFlow. Python sets them (backend/native/__init__.py), because the C API does not
// expose attributes to shape functions.
void RegisterOperator(const char* name, const std::vector<const char*>& attributes,
                      const std::vector<const char*>& inputs, const char* output);

// The CPU kernel of an operator, for attribute T = `type` where it has one (else 0).
void RegisterKernel(const char* name, void* (*make)(TF_OpKernelConstruction*),
                    void (*compute)(void*, TF_OpKernelContext*), void (*destroy)(void*), int type = 0);

bool HasAvx512();
bool HasAvx2();

#endif  // KERAS_MASKRCNN_OPERATORS_H_
