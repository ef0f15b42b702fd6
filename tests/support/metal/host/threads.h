// Threads of a threadgroup as fibres of one thread of the CPU.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace standin {

// What a kernel's library gives (prepare.ts): it runs one thread.
typedef void (*Kernel)(void* const* buffers, const unsigned* group, unsigned index);

enum class State { ready, threadgroup, simdgroup, done };

struct Thread {
  State state = State::ready;
  // Where it waits.
  const char* what = nullptr;
  int line = 0;
  // What it shows to the other lanes of its simdgroup.
  void* slot = nullptr;
  // How often it has met the others: two meetings that follow one another are told apart by it.
  unsigned group_meetings = 0, simd_meetings = 0;

  void* stack = nullptr;
  size_t stack_bytes = 0;
  void* stack_pointer = nullptr;
  void* tsan = nullptr;
  void* asan = nullptr;
};

struct Launch {
  Kernel kernel;
  void* const* buffers;
  unsigned grid[3];
  unsigned threads;
  // Bytes of the arrays that a group has.
  std::vector<size_t> arrays;
  // 0: threads run in order, 1: backwards, more: shuffled.
  unsigned order;
};

void run(const Launch& launch);

}
