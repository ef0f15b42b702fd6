// A stand-in for Apple's <metal_stdlib>, of what emitted kernels use: they compile as C++14 with clang, and run on the CPU (host.cpp). It is
// stricter than Metal where it can be, and has nothing that Metal has not.
#pragma once
#ifndef __clang__
#error "this needs clang: vector types of C++, address spaces, __bf16"
#endif

// Sanitizers do not look at memory in address spaces, so that builds to be run have none; a build that is only checked has them.
#ifdef STANDIN_FLAT
#define STANDIN_SPACE(n)
#else
#define STANDIN_SPACE(n) __attribute__((address_space(n)))
#endif
#define device STANDIN_SPACE(1)
#define constant const STANDIN_SPACE(2)
#define threadgroup STANDIN_SPACE(3)
#define kernel __attribute__((noinline))

// What threads of a simdgroup give each other is no memory of the kernel.
#define STANDIN_UNSEEN __attribute__((no_sanitize("thread", "address")))

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef _Float16 half;
typedef __bf16 bfloat;
typedef uint uint3 __attribute__((ext_vector_type(3)));
typedef ulong ulong2 __attribute__((ext_vector_type(2)));

#define STANDIN_VECTORS(T)                              \
  typedef T T##2 __attribute__((ext_vector_type(2)));   \
  typedef T T##4 __attribute__((ext_vector_type(4)));   \
  inline T##2 make_##T##2(T x, T y) {                   \
    T##2 v;                                             \
    v.x = x, v.y = y;                                   \
    return v;                                           \
  }                                                     \
  inline T##4 make_##T##4(T x, T y, T z, T w) {         \
    T##4 v;                                             \
    v.x = x, v.y = y, v.z = z, v.w = w;                 \
    return v;                                           \
  }
STANDIN_VECTORS(int)
STANDIN_VECTORS(uint)
STANDIN_VECTORS(float)
STANDIN_VECTORS(half)
STANDIN_VECTORS(bfloat)

// clang takes no constructors of vectors. A name without a parenthesis behind it stays what it is.
#define int2(...) make_int2(__VA_ARGS__)
#define int4(...) make_int4(__VA_ARGS__)
#define uint2(...) make_uint2(__VA_ARGS__)
#define uint4(...) make_uint4(__VA_ARGS__)
#define float2(...) make_float2(__VA_ARGS__)
#define float4(...) make_float4(__VA_ARGS__)
#define half2(...) make_half2(__VA_ARGS__)
#define bfloat2(...) make_bfloat2(__VA_ARGS__)
inline ulong2 make_ulong2(ulong x, ulong y) {
  ulong2 v;
  v.x = x, v.y = y;
  return v;
}
#define ulong2(...) make_ulong2(__VA_ARGS__)

// What the preparer makes of a function constant (prepare.ts): a variable, and whether the pipeline has given it a value.
#define is_function_constant_defined(name) name##_defined

namespace standin {
// Memory of the threadgroup, full of NaN when the group begins.
void* array(unsigned long index);
}

namespace metal {
template <class To, class From>
inline To as_type(From x) {
  static_assert(sizeof(To) == sizeof(From), "as_type between types of different sizes");
  return __builtin_bit_cast(To, x);
}
}

// Words that are C++ and not Metal.
#pragma GCC poison std double virtual typeid dynamic_cast throw try catch goto thread_local new delete asm
