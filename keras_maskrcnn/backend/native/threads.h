// Multithreading, shared by the operators.

#ifndef KERAS_MASKRCNN_THREADS_H_
#define KERAS_MASKRCNN_THREADS_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

// Calls work(unit) for every unit in [0, count); each thread creates its own worker with make().
template <typename Make>
void Share(int64_t count, int threads, int64_t grain, Make make) {
  std::atomic<int64_t> next(0);
  auto run = [&] {
    auto work = make();
    for (;;) {
      const int64_t first = next.fetch_add(grain);
      if (first >= count) return;
      for (int64_t unit = first; unit < std::min(count, first + grain); ++unit) work(unit);
    }
  };
  const int64_t useful = std::min<int64_t>(threads, (count + grain - 1) / grain);
  std::vector<std::thread> others;
  try {
    for (int64_t i = 1; i < useful; ++i) others.emplace_back(run);
  } catch (const std::system_error&) {  // no more threads available: the existing ones do the work
  }
  run();
  for (std::thread& other : others) other.join();
}

#endif  // KERAS_MASKRCNN_THREADS_H_
