// Shared by all operators: inputs and outputs of a call, registration of the operator and its kernel, and the vectors
// of the processor.

#ifndef KERAS_MASKRCNN_OPERATORS_H_
#define KERAS_MASKRCNN_OPERATORS_H_

#include <exception>
#include <new>
#include <string>
#include <vector>

#include "tensorflow_c_api.h"

// Limits of all operators. Beyond them, int and float arithmetic on indices would be wrong.
constexpr int64_t kLongestSide = int64_t{1} << 24;           // rows or columns of a map: float32 counts them exactly
constexpr int64_t kMostPoints = int64_t{1} << 20;            // bins times points per bin, along one axis
constexpr int64_t kMostCropped = (int64_t{1} << 31) - 1;     // numbers in all crops of a call
constexpr int64_t kMostNumbers = int64_t{1} << 40;           // numbers in any output
constexpr int32_t kLongestStride = 1 << 15;

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

  // Output number 0, in the memory of one of the first `count` inputs if it has the shape and nothing else needs it. The
  // inputs' tensors are released for that; their data stays where it is until the call ends. nullptr after a failure.
  TF_Tensor* ForwardOrAllocate(int count, const int64_t* shape, int rank);

  // Ends the call with an error that names the operator.
  void Fail(const std::string& message, int code = TF_INVALID_ARGUMENT) const;

  // Runs the body of a call. Exceptions must not leave an operator: TensorFlow would end the process.
  template <typename Body>
  void Run(Body body) const {
    try {
      body();
    } catch (const std::bad_alloc&) {
      Fail("There must be enough memory for the call. Received inputs that need more.", TF_RESOURCE_EXHAUSTED);
    } catch (const std::exception& error) {
      Fail(error.what());
    }
  }

 private:
  TF_OpKernelContext* context_;
  const char* name_;
  std::vector<TF_Tensor*> tensors_;
  TF_Status* status_;
};

// "(2, 3, 4)".
std::string ShapeOf(const TF_Tensor* tensor);

// What is wrong with a map (B, H, W, C), or "". A batch may be empty; rows, columns and channels may not.
std::string WrongMap(const TF_Tensor* tensor, int number);

struct Attribute {
  const char* name;
  int32_t* value;
};

// Reads int attributes during kernel construction.
void ReadAttributes(TF_OpKernelConstruction* construction, const std::vector<Attribute>& attributes);

// Output shapes stay unknown to TensorFlow. Python sets them (backend/native/__init__.py), because the C API does not
// expose attributes to shape functions. `check_ranks` checks the inputs' ranks while a graph is built.
void RegisterOperator(const char* name, const std::vector<const char*>& attributes,
                      const std::vector<const char*>& inputs, const char* output,
                      void (*check_ranks)(TF_ShapeInferenceContext*, TF_Status*));

// For `check_ranks`: the last inputs have these ranks, all before them are maps of rank 4.
void CheckRanks(TF_ShapeInferenceContext* context, const std::vector<int>& last, TF_Status* status);

// The CPU kernel of an operator, for attribute T = `type` where it has one (else 0).
void RegisterKernel(const char* name, void* (*make)(TF_OpKernelConstruction*),
                    void (*compute)(void*, TF_OpKernelContext*), void (*destroy)(void*), int type = 0);

bool HasAvx512();
bool HasAvx2();

#endif  // KERAS_MASKRCNN_OPERATORS_H_
