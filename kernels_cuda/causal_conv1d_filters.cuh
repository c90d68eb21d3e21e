// Filters and biases that are asked for together with the input, and unpacked once that is on its
// way too.
#pragma once

#include "causal_conv1d.cuh"

namespace fusewright::cuda {

// n elements of a type known at run time, of 16 or 32 bits, as they travel. They stay so until the
// input has been asked for: the branch that unpacks them waits for them.
template <int n>
struct Elements {
    static constexpr bool packed = n % 2 == 0;
    uint32_t words[n] = {};

    // from i on, a multiple of n, where an even n is aligned
    __device__ void load(const Untyped& from, int64_t i) {
        if (from.dtype == ScalarType::Float) {
            copy<n>(static_cast<const uint32_t*>(from.data) + i);
        } else if constexpr (packed) {
            copy<n / 2>(
                reinterpret_cast<const uint32_t*>(static_cast<const uint16_t*>(from.data) + i));
        } else {
#pragma unroll
            for (int j = 0; j < n; ++j) words[j] = static_cast<const uint16_t*>(from.data)[i + j];
        }
    }
    template <class E>
    __device__ void unpack_as(float (&v)[n]) const {
        constexpr int in_word = packed ? 4 / sizeof(E) : 1;
#pragma unroll
        for (int j = 0; j < n; ++j) {
            const uint32_t word = words[j / in_word];
            if constexpr (packed && std::is_same_v<E, __nv_bfloat16>) {
                v[j] = __uint_as_float(j % 2 == 0 ? word << 16 : word & 0xffff0000u);
            } else {
                const auto bits = static_cast<Bits<E>>(word >> 16 * (j % in_word));
                v[j] = to_acc(*reinterpret_cast<const E*>(&bits));
            }
        }
    }
    __device__ void unpack(ScalarType dtype, float (&v)[n]) const {
        with_element<false>(
            dtype, [&](auto* type) { unpack_as<std::remove_pointer_t<decltype(type)>>(v); });
    }

  private:
    template <int count>
    __device__ void copy(const uint32_t* from) {
        constexpr int step = count % 4 == 0 ? 4 : packed && count % 2 == 0 ? 2 : 1;
        struct alignas(4 * step) Some {
            uint32_t words[step];
        };
#pragma unroll
        for (int j = 0; j < count; j += step) {
            const Some some = *reinterpret_cast<const Some*>(from + j);
#pragma unroll
            for (int i = 0; i < step; ++i) words[j + i] = some.words[i];
        }
    }
};

// The filters of C channels and their biases, of `has_elements`.
template <int W, int C>
struct Filters {
    Elements<W * C> weight;
    Elements<C> bias;

    template <class P>
    __device__ void load(const P& p, int64_t d) {
        weight.load(p.weight, d * W);
        if (p.bias) bias.load(p.bias, d);
    }
    // Calls f with weights and biases, in the branch for the weight's type: not all of the weights
    // need registers at once there.
    template <class P, class F>
    __device__ void with(const P& p, F&& f) const {
        float b[C];
        bias.unpack(p.bias.dtype, b);
        with_element<false>(p.weight.dtype, [&](auto* type) {
            float taps[W * C], w[W][C];
            weight.template unpack_as<std::remove_pointer_t<decltype(type)>>(taps);
#pragma unroll
            for (int i = 0; i < W * C; ++i) w[i % W][i / W] = taps[i];
            f(w, b);
        });
    }
    template <class P>
    __device__ void unpack(const P& p, float (&w)[W][C], float (&b)[C]) const {
        float taps[W * C];
        weight.unpack(p.weight.dtype, taps);
#pragma unroll
        for (int i = 0; i < W * C; ++i) w[i % W][i / W] = taps[i];
        bias.unpack(p.bias.dtype, b);
    }
    template <class P>
    __device__ void unpack(const P& p, float (&w)[W], float& b) const {
        float one[1];
        weight.unpack(p.weight.dtype, w);
        bias.unpack(p.bias.dtype, one);
        b = one[0];
    }
};

// Whether `Filters` can take these.
inline bool has_elements(const Untyped& weight, const Untyped& bias) {
    const auto fits = [](const Untyped& t) {
        return t.dtype != ScalarType::Double && aligned(t.data, 16);
    };
    return fits(weight) && fits(bias);
}

// Nothing is unpacked before this: the compiler would do so right after the load, and wait there
// before it asks for what comes next.
template <class T, int N>
__device__ inline void fence(Words<T, N>& w) {
#pragma unroll
    for (int i = 0; i < Words<T, N>::count; ++i) asm volatile("" : "+r"(w.words[i]));
}

}  // namespace fusewright::cuda
