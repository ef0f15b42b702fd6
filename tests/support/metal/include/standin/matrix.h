// 8 x 8 matrices of a simdgroup, two elements a lane. Which ones is not documented by Apple, and nothing in a kernel may depend on it: here lanes have
// every fourth row and column, which no GPU does.
#pragma once
#include "simd.h"

namespace standin {
inline int row(unsigned lane, int i) { return int(lane % 4) + 4 * i; }
inline int col(unsigned lane) { return int(lane / 4); }

struct Where {
  ulong pointer, stride;
  bool transposed;
};
// All lanes of a simdgroup load or store one and the same matrix.
STANDIN_UNSEEN inline void same(Where mine, const char* what, int line) {
  struct Shown {
    Where where;
    bool differs;
  } shown{mine, false};
  meet(
      &shown,
      [](void* const* lanes) STANDIN_UNSEEN {
        const Where& first = ((Shown*)lanes[0])->where;
        for (int i = 0; i < LANES; i++) {
          Shown* s = (Shown*)lanes[i];
          s->differs = s->where.pointer != first.pointer || s->where.stride != first.stride || s->where.transposed != first.transposed;
        }
        for (int i = 0; i < LANES; i++)
          if (((Shown*)lanes[i])->differs) ((Shown*)lanes[0])->differs = true;
      },
      what, line);
  if (shown.differs) fail(what, line);
}
}

namespace metal {
template <class T, int Cols, int Rows>
struct simdgroup_matrix {
  static_assert(Cols == 8 && Rows == 8, "simdgroup matrices are 8 x 8");
  T held[2];
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

template <class T, int Cols, int Rows>
inline simdgroup_matrix<T, Cols, Rows> make_filled_simdgroup_matrix(T x) {
  return {{x, x}};
}

#define STANDIN_MATRIX_MEMORY(SPACE)                                                                                                       \
  template <class T>                                                                                                                       \
  inline void simdgroup_load(simdgroup_matrix<T, 8, 8>& m, SPACE const T* from, ulong stride, ulong2 origin, bool transposed,              \
                             int line = __builtin_LINE()) {                                                                                \
    from += origin.y * stride + origin.x;                                                                                                  \
    standin::same({ulong(from), stride, transposed}, "simdgroup_load", line);                                                              \
    for (int i = 0; i < 2; i++) {                                                                                                          \
      const ulong r = ulong(standin::row(standin::lane(), i)), c = ulong(standin::col(standin::lane()));                                   \
      m.held[i] = from[transposed ? c * stride + r : r * stride + c];                                                                      \
    }                                                                                                                                      \
  }                                                                                                                                        \
  template <class T>                                                                                                                       \
  inline void simdgroup_load(simdgroup_matrix<T, 8, 8>& m, SPACE const T* from, ulong stride, int line = __builtin_LINE()) {               \
    simdgroup_load(m, from, stride, make_ulong2(0, 0), false, line);                                                                       \
  }                                                                                                                                        \
  template <class T>                                                                                                                       \
  inline void simdgroup_store(simdgroup_matrix<T, 8, 8> m, SPACE T* to, ulong stride, int line = __builtin_LINE()) {                       \
    standin::same({ulong(to), stride, false}, "simdgroup_store", line);                                                                    \
    for (int i = 0; i < 2; i++) to[ulong(standin::row(standin::lane(), i)) * stride + ulong(standin::col(standin::lane()))] = m.held[i];   \
  }
STANDIN_MATRIX_MEMORY(device)
#ifndef STANDIN_FLAT
STANDIN_MATRIX_MEMORY(threadgroup)
#endif

// In f32, products in order: what the hardware rounds in between is not known.
template <class A, class B>
STANDIN_UNSEEN inline void simdgroup_multiply_accumulate(simdgroup_float8x8& d, simdgroup_matrix<A, 8, 8>& a, simdgroup_matrix<B, 8, 8>& b,
                                                         simdgroup_float8x8& c, int line = __builtin_LINE()) {
  struct Shown {
    const A* a;
    const B* b;
    const float* c;
    float* d;
  } mine{a.held, b.held, c.held, d.held};
  standin::meet(
      &mine,
      [](void* const* lanes) STANDIN_UNSEEN {
        float x[8][8], y[8][8], sum[8][8];
        for (int l = 0; l < standin::LANES; l++)
          for (int i = 0; i < 2; i++) {
            const Shown* s = (const Shown*)lanes[l];
            const int r = standin::row(unsigned(l), i), c = standin::col(unsigned(l));
            x[r][c] = float(s->a[i]), y[r][c] = float(s->b[i]), sum[r][c] = s->c[i];
          }
        for (int r = 0; r < 8; r++)
          for (int k = 0; k < 8; k++)
            for (int c = 0; c < 8; c++) sum[r][c] = __builtin_fmaf(x[r][k], y[k][c], sum[r][c]);
        for (int l = 0; l < standin::LANES; l++)
          for (int i = 0; i < 2; i++) ((Shown*)lanes[l])->d[i] = sum[standin::row(unsigned(l), i)][standin::col(unsigned(l))];
      },
      "simdgroup_multiply_accumulate", line);
}
}
