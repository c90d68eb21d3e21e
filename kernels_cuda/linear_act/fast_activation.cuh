// The activations for results that are rounded to 16 bits: few instructions, the hardware's
// approximate exponential and reciprocal. Relative errors are below 2^-11 wherever fp16 is normal,
// but gelu's, which are of the size of what fp16 loses by rounding x.
#pragma once

#include "activation.cuh"

namespace fusewright::cuda {

// 2^x and 1 / x of the hardware, with subnormal numbers as zeros, which spares their handling.
__device__ __forceinline__ float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float fast_reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

constexpr float kLog2E = 1.44269504f;

// sigmoid(z) from -z log2(e), into which others fold the factor.
__device__ __forceinline__ float sigmoid_of(float scaled) {
    return fast_reciprocal(1.f + fast_exp2(scaled));
}
__device__ __forceinline__ float fast_sigmoid(float x) { return sigmoid_of(-kLog2E * x); }

// gelu is x Φ(x) with logit Φ(x) = x q(x²): a polynomial for q, fitted up to |x| = 5.6. The error
// of Φ is below 2^-11.6 (1 + x²), as rounding x to 16 bits costs in proportion to x²; beyond, x q
// goes on to infinity.
__device__ __forceinline__ float gelu_scaled(float x) {
    const float t = x * x;
    float q = -1.092166e-5f;
    q = fmaf(q, t, 1.3338737e-3f);
    q = fmaf(q, t, -1.0842996e-1f);
    q = fmaf(q, t, -2.2997644f);
    return q * x;
}
__device__ __forceinline__ float gelu_sigmoid(float x) { return sigmoid_of(gelu_scaled(x)); }
__device__ __forceinline__ float gelu_tanh_sigmoid(float x) {
    return sigmoid_of(x * fmaf(x * x, -0.10294324f, -2.3022082f));
}

template <Activation act>
__device__ __forceinline__ float fast_activate(float x) {
    if constexpr (act == Activation::relu) return x < 0.f ? 0.f : x;  // keeps NaN
    if constexpr (act == Activation::gelu) return x * gelu_sigmoid(x);
    if constexpr (act == Activation::gelu_tanh) return x * gelu_tanh_sigmoid(x);
    if constexpr (act == Activation::silu) return x * fast_sigmoid(x);
    if constexpr (act == Activation::sigmoid) return fast_sigmoid(x);
    if constexpr (act == Activation::tanh) {
        // near 0 the quotient would cancel
        const float s = x * x, near = x - x * s * (0.33333333f - s * (0.13333333f - s * 0.053968f));
        const float far = 1.f - 2.f * sigmoid_of(2.f * kLog2E * x);
        return fabsf(x) < 0.25f ? near : far;
    }
    if constexpr (act == Activation::mish) {
        const float e = fast_exp2(kLog2E * fminf(x, 40.f)), n = e * (e + 2.f);
        return x < 40.f || x != x ? x * n * fast_reciprocal(n + 2.f) : x;
    }
    if constexpr (act == Activation::none) return x;
}

template <Activation act>
__device__ __forceinline__ float fast_activate_grad(float x) {
    if constexpr (act == Activation::gelu) {
        return gelu_sigmoid(x) + x * 0.39894228f * fast_exp2(-0.5f * kLog2E * x * x);
    }
    if constexpr (act == Activation::gelu_tanh) {
        const float c = fminf(fmaxf(x, -20.f), 20.f);
        const float s = gelu_tanh_sigmoid(c);
        return s + c * (1.5957691f + 0.21406859f * c * c) * s * (1.f - s);
    }
    if constexpr (act == Activation::silu) {
        const float s = fast_sigmoid(x), c = fmaxf(x, -100.f);
        return s + c * s * (1.f - s);
    }
    if constexpr (act == Activation::sigmoid) return fast_sigmoid(x) * fast_sigmoid(-x);
    if constexpr (act == Activation::tanh) {
        return 4.f * fast_sigmoid(x + x) * fast_sigmoid(-x - x);
    }
    return activate_grad<act>(x);
}

// max(x, least) that keeps NaN, which fmaxf drops.
__device__ __forceinline__ float at_least(float x, float least) {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(x), "f"(least));
    return y;
}

// The activation of many values. In silu and gelu two sigmoids share a reciprocal, that of the
// product of their divisors: finite from `least` on, below which y is as good as 0, and no NaN, as
// one would reach the neighbour.
template <Activation act, int n>
__device__ __forceinline__ void fast_activate_all(float (&values)[n]) {
    if constexpr (act == Activation::silu || act == Activation::gelu) {
        static_assert(n % 2 == 0);
        constexpr float least = act == Activation::silu ? -43.f : -8.f;
#pragma unroll
        for (int i = 0; i < n; i += 2) {
            float divisor[2];
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const float x = fmaxf(values[i + j], least);
                const float scaled = act == Activation::silu ? -kLog2E * x : gelu_scaled(x);
                divisor[j] = 1.f + fast_exp2(scaled);
            }
            const float shared = fast_reciprocal(divisor[0] * divisor[1]);
            values[i] = at_least(values[i], least) * (shared * divisor[1]);
            values[i + 1] = at_least(values[i + 1], least) * (shared * divisor[0]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < n; ++i) values[i] = fast_activate<act>(values[i]);
    }
}

// Calls f with the activation as a type, in device code; the branch is the same for a whole grid.
// Everything is inlined: a call inside a kernel would serialise Hopper's asynchronous products.
template <class F>
__device__ __forceinline__ void dispatch(Activation a, F&& f) {
    using T = Activation;
    if (a == T::none) {
    } else if (a == T::silu) {
        f(std::integral_constant<T, T::silu>{});
    } else if (a == T::gelu) {
        f(std::integral_constant<T, T::gelu>{});
    } else if (a == T::relu) {
        f(std::integral_constant<T, T::relu>{});
    } else if (a == T::gelu_tanh) {
        f(std::integral_constant<T, T::gelu_tanh>{});
    } else if (a == T::sigmoid) {
        f(std::integral_constant<T, T::sigmoid>{});
    } else if (a == T::tanh) {
        f(std::integral_constant<T, T::tanh>{});
    } else {
        f(std::integral_constant<T, T::mish>{});
    }
}

// Values for results of type T.
template <class T, Activation act, class A>
__device__ __forceinline__ A activate_for(A x) {
    if constexpr (sizeof(T) == 2) {
        return fast_activate<act>(x);
    } else {
        return activate<act>(x);
    }
}
template <class T, Activation act, class A>
__device__ __forceinline__ A derivative_for(A x) {
    if constexpr (sizeof(T) == 2) {
        return fast_activate_grad<act>(x);
    } else {
        return activate_grad<act>(x);
    }
}

}  // namespace fusewright::cuda
