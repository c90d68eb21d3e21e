// The activations that kernels fuse: values and derivatives, with torch's definitions.
#pragma once

#include <type_traits>

#include "activation_name.h"

namespace fusewright::cuda {

template <class A>
__device__ inline A sigmoid(A x) {
    return A(1) / (A(1) + exp(-x));
}

template <class A>
__device__ inline A gelu_tanh_inner(A x) {  // 2 sqrt(2 / pi) (x + 0.044715 x^3)
    return A(1.5957691216057308) * x * (A(1) + A(0.044715) * x * x);
}

template <Activation act, class A>
__device__ inline A activate(A x) {
    if constexpr (act == Activation::relu) return x < A(0) ? A(0) : x;  // keeps NaN
    if constexpr (act == Activation::gelu) {
        // erfc does not cancel for negative x
        return A(0.5) * x * erfc(A(-0.70710678118654752) * x);
    }
    if constexpr (act == Activation::gelu_tanh) return x * sigmoid(gelu_tanh_inner(x));
    if constexpr (act == Activation::silu) return x * sigmoid(x);
    if constexpr (act == Activation::sigmoid) return sigmoid(x);
    if constexpr (act == Activation::tanh) return tanh(x);
    if constexpr (act == Activation::mish) {
        // with e = exp(x) and n = e (e + 2), tanh(softplus(x)) = n / (n + 2)
        const A e = exp(x < A(40) ? x : A(40)), n = e * (e + A(2));
        return x * (n / (n + A(2)));
    }
    if constexpr (act == Activation::none) return x;
}

// The derivative at x, the input of the activation.
template <Activation act, class A>
__device__ inline A activate_grad(A x) {
    if constexpr (act == Activation::relu) return x > A(0) ? A(1) : A(0);
    if constexpr (act == Activation::gelu) {
        const A density = A(0.39894228040143268) * exp(A(-0.5) * x * x);
        return A(0.5) * erfc(A(-0.70710678118654752) * x) + x * density;
    }
    if constexpr (act == Activation::gelu_tanh) {
        const A c = x > A(20) ? A(20) : x < A(-20) ? A(-20) : x;  // infinity times zero otherwise
        const A s = sigmoid(gelu_tanh_inner(c));
        const A slope = A(1.5957691216057308) * (A(1) + A(3 * 0.044715) * c * c);
        return s + c * slope * s * sigmoid(-gelu_tanh_inner(c));
    }
    if constexpr (act == Activation::silu) {
        const A c = x > A(700) ? A(700) : x < A(-700) ? A(-700) : x;
        const A s = sigmoid(c);
        return s + c * s * sigmoid(-c);
    }
    if constexpr (act == Activation::sigmoid) return sigmoid(x) * sigmoid(-x);
    if constexpr (act == Activation::tanh) return A(4) * sigmoid(x + x) * sigmoid(-x - x);
    if constexpr (act == Activation::mish) {
        const A c = x < A(40) ? x : A(40), e = exp(c), n = e * (e + A(2)), d = n + A(2);
        return (n + A(4) * (c * e) * (A(1) + e) / d) / d;
    }
    if constexpr (act == Activation::none) return A(1);
}

// Calls f with the activation as a type, in device code.
template <class F>
__device__ inline void dispatch_common(Activation a, F&& f) {
    using T = Activation;
    if (a == T::relu) return f(std::integral_constant<T, T::relu>{});
    if (a == T::gelu) return f(std::integral_constant<T, T::gelu>{});
    if (a == T::gelu_tanh) return f(std::integral_constant<T, T::gelu_tanh>{});
    if (a == T::silu) return f(std::integral_constant<T, T::silu>{});
}

// v = act(v), for the common activations.
template <int N, class A>
__device__ inline void activate_all(Activation a, A (&v)[N]) {
    dispatch_common(a, [&](auto act) {
#pragma unroll
        for (int j = 0; j < N; ++j) v[j] = activate<act.value>(v[j]);
    });
}

// grad *= act'(pre), for the common activations.
template <int N, class A>
__device__ inline void differentiate_all(Activation a, const A (&pre)[N], A (&grad)[N]) {
    dispatch_common(a, [&](auto act) {
#pragma unroll
        for (int j = 0; j < N; ++j) grad[j] *= activate_grad<act.value>(pre[j]);
    });
}

}  // namespace fusewright::cuda
