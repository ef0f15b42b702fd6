// What threads of a group do together. Each call is known by its line: threads that meet must be at the same one.
#pragma once
#include "types.h"

namespace standin {
constexpr int LANES = 32;
unsigned lane();
// The lanes of a simdgroup meet, each with something to show; the last to come runs `combine` on what all of them have.
typedef void (*Combine)(void* const* lanes);
void meet(void* mine, Combine combine, const char* what, int line);
void simdgroup_meets(bool memory, int line);
void threadgroup_meets(bool memory, int line);
[[noreturn]] void fail(const char* what, int line);
}

namespace metal {
enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
inline constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }

inline void threadgroup_barrier(mem_flags flags, int line = __builtin_LINE()) { standin::threadgroup_meets(flags != mem_flags::mem_none, line); }
inline void simdgroup_barrier(mem_flags flags, int line = __builtin_LINE()) { standin::simdgroup_meets(flags != mem_flags::mem_none, line); }

template <class T>
STANDIN_UNSEEN inline T simd_shuffle_xor(T x, ushort mask, int line = __builtin_LINE()) {
  struct Shown {
    T given, got;
    ushort mask;
  } mine{x, x, mask};
  standin::meet(
      &mine,
      [](void* const* lanes) STANDIN_UNSEEN {
        for (int i = 0; i < standin::LANES; i++) {
          Shown* s = (Shown*)lanes[i];
          s->got = ((Shown*)lanes[(i ^ s->mask) & (standin::LANES - 1)])->given;
        }
      },
      "simd_shuffle_xor", line);
  return mine.got;
}
}
