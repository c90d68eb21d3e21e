// The activations that the kernels fuse: values and derivatives, with torch's definitions.
#pragma once

#include <stdexcept>
#include <type_traits>

#include "activation_name.h"
#include "cpu/math.h"

namespace fusewright::cpu::FW_ISA {

// From here on gelu's tails are zero in the working precision. The bound keeps infinity times
// zero out of the formulas.
template <class A>
constexpr A kGeluEnd = sizeof(A) == 4 ? A(15) : A(40);

// Within these bounds exp and the exponential in gelu's tanh form are finite and not zero, so that
// 1 - sigmoid(x) = exp(-x) sigmoid(x), which does not cancel, holds in floating point too.
template <class A>
constexpr A kExpEnd = sizeof(A) == 4 ? A(80) : A(700);
template <class A>
constexpr A kGeluTanhEnd = sizeof(A) == 4 ? A(9.5) : A(20);

// sqrt(2 / pi) and the cubic coefficient of gelu's tanh form.
template <class A>
constexpr A kGeluScale = A(0.79788456080286535588);
template <class A>
constexpr A kGeluCubic = A(0.044715);

template <class V>
inline V gelu(V x) {
    using A = typename V::scalar;
    const V a = min(kGeluEnd<A>, abs(x));
    const V relu = select(x < A(0), A(0), x);
    return relu - a * gaussian(a).tail;
}

template <class V>
inline V gelu_grad(V x) {
    using A = typename V::scalar;
    const V a = min(kGeluEnd<A>, abs(x));
    const auto normal = gaussian(a);
    const V negative = normal.tail - a * normal.density;
    return select(x < A(0), negative, A(1) - negative);
}

// (1 + tanh(u)) / 2 = sigmoid(2 u), which does not cancel for negative u.
template <class V>
inline V gelu_tanh(V x) {
    using A = typename V::scalar;
    return x * sigmoid(2 * kGeluScale<A> * x * fma(kGeluCubic<A>, x * x, A(1)));
}

template <class V>
inline V gelu_tanh_grad(V x) {
    using A = typename V::scalar;
    // At the ends, sigmoid is 1 or as good as 0.
    const V c = clamp(x, -kGeluTanhEnd<A>, kGeluTanhEnd<A>);
    const V square = c * c;
    const V e = exp(-2 * kGeluScale<A> * c * fma(kGeluCubic<A>, square, A(1)));
    const V s = A(1) / (A(1) + e);
    const V slope = 2 * kGeluScale<A> * fma(3 * kGeluCubic<A>, square, A(1));
    return s * fma(c * slope, e * s, A(1));
}

// Even in x, so that the larger exponential is never needed.
template <class V>
inline V sigmoid_grad(V x) {
    using A = typename V::scalar;
    const V e = exp(-abs(x));
    const V d = A(1) + e;
    return e / (d * d);
}

template <class V>
inline V silu(V x) {
    using A = typename V::scalar;
    return x / (A(1) + exp(-x));
}

template <class V>
inline V silu_grad(V x) {
    using A = typename V::scalar;
    const V c = clamp(x, -kExpEnd<A>, kExpEnd<A>);
    const V e = exp(-c);
    const V s = A(1) / (A(1) + e);
    return s * fma(c, e * s, A(1));
}

// With e = exp(x) and n = e (e + 2), tanh(softplus(x)) = n / (n + 2). At 40 the quotient is 1 long
// since and n is still finite.
template <class V>
inline V mish(V x) {
    using A = typename V::scalar;
    const V e = exp(min(A(40), x));
    const V n = e * (e + A(2));
    return x * (n / (n + A(2)));
}

template <class V>
inline V mish_grad(V x) {
    using A = typename V::scalar;
    const V c = min(A(40), x);
    const V e = exp(c);
    const V n = e * (e + A(2));
    const V d = n + A(2);
    return (n + A(4) * (c * e) * (A(1) + e) / d) / d;
}

template <Activation act, class V>
inline V activate(V x) {
    using A = typename V::scalar;
    if constexpr (act == Activation::relu) return select(x < A(0), A(0), x);
    if constexpr (act == Activation::gelu) return gelu(x);
    if constexpr (act == Activation::gelu_tanh) return gelu_tanh(x);
    if constexpr (act == Activation::silu) return silu(x);
    if constexpr (act == Activation::sigmoid) return sigmoid(x);
    if constexpr (act == Activation::tanh) return tanh(x);
    if constexpr (act == Activation::mish) return mish(x);
    if constexpr (act == Activation::none) return x;
}

// The derivative of activate<act> at x, the input of the activation.
template <Activation act, class V>
inline V activate_grad(V x) {
    using A = typename V::scalar;
    if constexpr (act == Activation::relu) return select(x <= A(0), V(A(0)), V(A(1)));
    if constexpr (act == Activation::gelu) return gelu_grad(x);
    if constexpr (act == Activation::gelu_tanh) return gelu_tanh_grad(x);
    if constexpr (act == Activation::silu) return silu_grad(x);
    if constexpr (act == Activation::sigmoid) return sigmoid_grad(x);
    if constexpr (act == Activation::tanh) return A(4) * sigmoid_grad(x + x);
    if constexpr (act == Activation::mish) return mish_grad(x);
    if constexpr (act == Activation::none) return A(1);
}

template <Activation first, Activation... rest, class F>
inline auto with_activation_of(Activation a, F&& f) {
    if (a == first) return f(std::integral_constant<Activation, first>{});
    if constexpr (sizeof...(rest) > 0) {
        return with_activation_of<rest...>(a, f);
    }
    // No STD_TORCH_CHECK: kernels call this, and its templates would be shared between the builds.
    throw std::runtime_error("this kernel does not implement the activation");
}

// Calls f with the activation as a type, std::integral_constant<Activation, a>.
template <class F>
inline auto with_activation(Activation a, F&& f) {
    using T = Activation;
    return with_activation_of<T::none, T::relu, T::gelu, T::gelu_tanh, T::silu, T::sigmoid, T::tanh,
                              T::mish>(a, f);
}

// The same for kernels that compute in A. In double f gets the activation as a value, which keeps
// down its instantiations.
template <class A, class F>
inline auto with_activation_in(Activation a, F&& f) {
    if constexpr (std::is_same_v<A, double>) {
        return f(a);
    } else {
        return with_activation(a, f);
    }
}

// The same for the common ones only.
template <class A, class F>
inline auto with_common_activation_in(Activation a, F&& f) {
    using T = Activation;
    if constexpr (std::is_same_v<A, double>) {
        return f(a);
    } else {
        return with_activation_of<T::none, T::relu, T::gelu, T::gelu_tanh, T::silu>(a, f);
    }
}

// Of what these functions give.
template <Activation act, class V>
inline V activate(std::integral_constant<Activation, act>, V x) {
    return activate<act>(x);
}
template <class V>
inline V activate(Activation a, V x) {
    return with_activation(a, [&](auto act) { return activate<act>(x); });
}
template <Activation act, class V>
inline V activate_grad(std::integral_constant<Activation, act>, V x) {
    return activate_grad<act>(x);
}
template <class V>
inline V activate_grad(Activation a, V x) {
    return with_activation(a, [&](auto act) { return activate_grad<act>(x); });
}

}  // namespace fusewright::cpu::FW_ISA
