// The activations for results that are rounded to 16 bits: few instructions, the hardware's
// approximate exponential and reciprocal, relative errors below 2^-11 wherever fp16 is normal.
#pragma once

#include "activation.cuh"

namespace fusewright::cuda {

__device__ __forceinline__ float fast_sigmoid(float x) { return __fdividef(1.f, 1.f + __expf(-x)); }

// x Φ(x) with logit Φ(x) = x q(x²): a polynomial for q, fitted up to |x| = 5.6.
__device__ __forceinline__ float gelu_logit(float x) {
    const float t = fminf(x * x, 31.36f);
    float q = -1.5550986e-8f;
    q = fmaf(q, t, 1.1957566e-6f);
    q = fmaf(q, t, -2.3549534e-5f);
    q = fmaf(q, t, -6.1189665e-4f);
    q = fmaf(q, t, 7.4138112e-2f);
    q = fmaf(q, t, 1.5946374f);
    return q * x;
}

template <Activation act>
__device__ __forceinline__ float fast_activate(float x) {
    if constexpr (act == Activation::relu) return x < 0.f ? 0.f : x;  // keeps NaN
    if constexpr (act == Activation::gelu) return __fdividef(x, 1.f + __expf(-gelu_logit(x)));
    if constexpr (act == Activation::gelu_tanh) {
        return __fdividef(x, 1.f + __expf(-gelu_tanh_inner(x)));
    }
    if constexpr (act == Activation::silu) return __fdividef(x, 1.f + __expf(-x));
    if constexpr (act == Activation::sigmoid) return fast_sigmoid(x);
    if constexpr (act == Activation::tanh) {
        // near 0 the quotient would cancel
        const float s = x * x, near = x - x * s * (0.33333333f - s * (0.13333333f - s * 0.053968f));
        const float far = 1.f - __fdividef(2.f, 1.f + __expf(2.f * x));
        return fabsf(x) < 0.25f ? near : far;
    }
    if constexpr (act == Activation::mish) {
        const float e = __expf(fminf(x, 40.f)), n = e * (e + 2.f);
        return x < 40.f || x != x ? x * __fdividef(n, n + 2.f) : x;
    }
    if constexpr (act == Activation::none) return x;
}

template <Activation act>
__device__ __forceinline__ float fast_activate_grad(float x) {
    if constexpr (act == Activation::gelu) {
        return fast_sigmoid(gelu_logit(x)) + x * 0.39894228f * __expf(-0.5f * x * x);
    }
    if constexpr (act == Activation::gelu_tanh) {
        const float c = fminf(fmaxf(x, -20.f), 20.f);
        const float s = fast_sigmoid(gelu_tanh_inner(c));
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

// Calls f with the activation as a type, in device code; the branch is the same for a whole grid.
// Everything is inlined: a call inside a kernel would serialise Hopper's asynchronous products.
template <class F>
__device__ __forceinline__ void dispatch(Activation a, F&& f) {
    using T = Activation;
    if (a == T::relu) f(std::integral_constant<T, T::relu>{});
    if (a == T::gelu) f(std::integral_constant<T, T::gelu>{});
    if (a == T::gelu_tanh) f(std::integral_constant<T, T::gelu_tanh>{});
    if (a == T::silu) f(std::integral_constant<T, T::silu>{});
    if (a == T::sigmoid) f(std::integral_constant<T, T::sigmoid>{});
    if (a == T::tanh) f(std::integral_constant<T, T::tanh>{});
    if (a == T::mish) f(std::integral_constant<T, T::mish>{});
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
