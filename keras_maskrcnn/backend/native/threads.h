// Multithreading, shared by the operators.

#ifndef KERAS_MASKRCNN_THREADS_H_
#define KERAS_MASKRCNN_THREADS_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

constexpr int64_t kMostThreads = 1024;

// Calls work(unit) for every unit in [0, count); each thread creates its own worker with make(). If one throws, the
// others stop and the exception is thrown here: in a thread of its own it would end the process.
template <typename Make>
void Share(int64_t count, int threads, int64_t grain, Make make) {
  std::atomic<int64_t> next(0);
  std::exception_ptr failure;
  std::mutex lock;
  auto run = [&] {
    try {
      auto work = make();
      for (;;) {
        const int64_t first = next.fetch_add(grain);
        if (first >= count) return;
        for (int64_t unit = first; unit < std::min(count, first + grain); ++unit) work(unit);
      }
    } catch (...) {
      next.store(count);
      const std::lock_guard<std::mutex> held(lock);
      failure = std::current_exception();
    }
  };
  const int64_t useful = std::min<int64_t>({threads, kMostThreads, (count + grain - 1) / grain});
  std::vector<std::thread> others;
  others.reserve(useful > 0 ? useful : 0);
  try {
    for (int64_t i = 1; i < useful; ++i) others.emplace_back(run);
  } catch (const std::system_error&) {  // no more threads available: the existing ones do the work
  }
  run();
  for (std::thread& other : others) other.join();
  if (failure) std::rethrow_exception(failure);
}

#endif  // KERAS_MASKRCNN_THREADS_H_
