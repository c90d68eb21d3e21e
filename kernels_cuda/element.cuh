// Elements of tensors on the device: native types, accumulators, 16-byte packs.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "dtype.h"
#include "stable.h"

namespace fusewright::cuda {

template <class T>
struct Native {
    using type = T;
};
template <>
struct Native<torch::headeronly::BFloat16> {
    using type = __nv_bfloat16;
};
template <>
struct Native<torch::headeronly::Half> {
    using type = __half;
};

// As fusewright::with_dtype, with CUDA's own 16-bit types.
template <class F>
auto with_native(torch::headeronly::ScalarType dtype, const char* op, F&& f) {
    return with_dtype(dtype, op, [&](auto type) {
        return f(Type<typename Native<typename decltype(type)::type>::type>{});
    });
}

// What sums over T are kept in.
template <class T>
using acc_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

__device__ inline float to_acc(float v) { return v; }
__device__ inline double to_acc(double v) { return v; }
__device__ inline float to_acc(__half v) { return __half2float(v); }
__device__ inline float to_acc(__nv_bfloat16 v) { return __bfloat162float(v); }

template <class T, class A>
__device__ inline T from_acc(A v) {
    if constexpr (std::is_same_v<T, __half>) {
        return __float2half_rn(static_cast<float>(v));
    } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
        return __float2bfloat16_rn(static_cast<float>(v));
    } else {
        return static_cast<T>(v);
    }
}

// N elements that travel as one access of up to 16 bytes.
template <class T, int N>
struct alignas(sizeof(T) * N > 16 ? 16 : sizeof(T) * N) Pack {
    T values[N];
    __device__ T& operator[](int i) { return values[i]; }
    __device__ const T& operator[](int i) const { return values[i]; }
};

// A pack as accumulators. A bf16 is the upper half of a float: in pairs that is one instruction
// each.
template <class T, int N>
__device__ inline void accumulators(const Pack<T, N>& pack, float (&values)[N]) {
    if constexpr (std::is_same_v<T, __nv_bfloat16> && N % 2 == 0) {
        const auto* words = reinterpret_cast<const unsigned*>(pack.values);
#pragma unroll
        for (int j = 0; j < N; j += 2) {
            values[j] = __uint_as_float(words[j / 2] << 16);
            values[j + 1] = __uint_as_float(words[j / 2] & 0xffff0000u);
        }
    } else {
#pragma unroll
        for (int j = 0; j < N; ++j) values[j] = to_acc(pack[j]);
    }
}

// Accumulators as a pack: two 16-bit elements take one instruction.
template <class T, int N>
__device__ inline Pack<T, N> pack_of(const float (&values)[N]) {
    Pack<T, N> pack;
    if constexpr (sizeof(T) == 2 && N % 2 == 0) {
        using Pair = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
#pragma unroll
        for (int j = 0; j < N; j += 2) {
            Pair pair;
            if constexpr (std::is_same_v<T, __half>) {
                pair = __floats2half2_rn(values[j], values[j + 1]);
            } else {
                pair = __floats2bfloat162_rn(values[j], values[j + 1]);
            }
            *reinterpret_cast<Pair*>(&pack.values[j]) = pair;
        }
    } else {
#pragma unroll
        for (int j = 0; j < N; ++j) pack[j] = from_acc<T>(values[j]);
    }
    return pack;
}

template <class T>
constexpr int kPack = 16 / sizeof(T);

// A tensor whose dtype is known at run time only: small parameters and second inputs, which would
// otherwise double the number of kernels. The branches on it are the same for a whole grid.
struct Untyped {
    void* data = nullptr;
    ScalarType dtype = ScalarType::Float;

    Untyped() = default;
    explicit Untyped(const Tensor& t) : data(t.data_ptr()), dtype(t.scalar_type()) {
        with_dtype(dtype, "cuda", [](auto) {});  // refuses any other
    }
    explicit Untyped(const std::optional<Tensor>& t) {
        if (present(t)) *this = Untyped(*t);
    }
    __host__ __device__ explicit operator bool() const { return data != nullptr; }
};

// Calls f with a null pointer of the element type; `f64` off keeps doubles out of float kernels.
template <bool f64, class F>
__device__ inline void with_element(ScalarType dtype, F&& f) {
    if (dtype == ScalarType::Float) {
        f(static_cast<float*>(nullptr));
    } else if (dtype == ScalarType::BFloat16) {
        f(static_cast<__nv_bfloat16*>(nullptr));
    } else if (dtype == ScalarType::Half) {
        f(static_cast<__half*>(nullptr));
    } else if constexpr (f64) {
        f(static_cast<double*>(nullptr));
    }
}

template <class A>
__device__ inline A load_one(const Untyped& t, int64_t i) {
    A value{};
    with_element<true>(t.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        value = static_cast<A>(to_acc(static_cast<const T*>(t.data)[i]));
    });
    return value;
}

template <class A>
__device__ inline void store_one(const Untyped& t, int64_t i, A value) {
    with_element<true>(t.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        static_cast<T*>(t.data)[i] = from_acc<T>(value);
    });
}

// N elements from index i on, which is a multiple of N; not for doubles.
template <int N>
__device__ inline void load_pack(const Untyped& t, int64_t i, float (&values)[N]) {
    with_element<false>(t.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const Pack<T, N> pack =
            *reinterpret_cast<const Pack<T, N>*>(static_cast<const T*>(t.data) + i);
        accumulators(pack, values);
    });
}

inline bool aligned(const void* p, size_t bytes) {
    return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

template <class T>
T* data(const Tensor& t) {
    return static_cast<T*>(t.data_ptr());
}
template <class T>
T* data(const std::optional<Tensor>& t) {
    return present(t) ? static_cast<T*>(t->data_ptr()) : nullptr;
}

}  // namespace fusewright::cuda
