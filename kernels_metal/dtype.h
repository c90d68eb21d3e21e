// Loads and stores of every dtype, in fp32. A bfloat is kept as its bits: Metal 3.0 has no such
// type.
#pragma once

#include "args.h"

typedef ushort bfloat_bits;

static inline float to_acc(float v) { return v; }
static inline float to_acc(half v) { return float(v); }
static inline float to_acc(bfloat_bits v) { return as_type<float>(uint(v) << 16); }

// Rounded to the nearest, ties to even.
template <typename T>
inline T from_acc(float v);
template <>
inline float from_acc<float>(float v) {
    return v;
}
template <>
inline half from_acc<half>(float v) {
    return half(v);
}
template <>
inline bfloat_bits from_acc<bfloat_bits>(float v) {
    const uint bits = as_type<uint>(v);
    if ((bits & 0x7fffffff) > 0x7f800000) return bfloat_bits(bits >> 16 | 0x40);  // NaN stays NaN
    return bfloat_bits((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// An element of a tensor whose dtype is known at run time.
static inline float load_any(const device uchar* data, int dtype, int64_t i) {
    if (dtype == FW_HALF) return to_acc(((const device half*)data)[i]);
    if (dtype == FW_BFLOAT) return to_acc(((const device bfloat_bits*)data)[i]);
    return ((const device float*)data)[i];
}

static inline void store_any(device uchar* data, int dtype, int64_t i, float v) {
    if (dtype == FW_HALF) {
        ((device half*)data)[i] = from_acc<half>(v);
    } else if (dtype == FW_BFLOAT) {
        ((device bfloat_bits*)data)[i] = from_acc<bfloat_bits>(v);
    } else {
        ((device float*)data)[i] = v;
    }
}

// What a value becomes when it is stored in a dtype and loaded again.
static inline float through(int dtype, float v) {
    if (dtype == FW_HALF) return to_acc(from_acc<half>(v));
    if (dtype == FW_BFLOAT) return to_acc(from_acc<bfloat_bits>(v));
    return v;
}

static inline int64_t load_integer(const device uchar* data, int dtype, int64_t i) {
    return dtype == FW_LONG ? ((const device int64_t*)data)[i] : ((const device int32_t*)data)[i];
}

#define FW_KERNEL(name, function, ...) \
    template [[host_name(name)]] [[kernel]] decltype(function<__VA_ARGS__>) function<__VA_ARGS__>;

// A kernel for each dtype: `<name>_float` and so on.
#define FW_KERNELS(name, function)            \
    FW_KERNEL(name "_float", function, float) \
    FW_KERNEL(name "_half", function, half)   \
    FW_KERNEL(name "_bfloat", function, bfloat_bits)
