// Elementary functions of vectors. Those of double go through the C library lane by lane.
//
// The float ones are within about 2 units in the last place; denormal results may flush to zero.
// Their polynomials are our own weighted minimax fits, computed by tools/fit_math.py.
#pragma once

#include <cmath>

#include "cpu/vec.h"

namespace fusewright::cpu::FW_ISA {

template <int n>
inline Vec<float> polynomial(Vec<float> x, const float (&coefficients)[n]) {
    Vec<float> y = coefficients[n - 1];
    for (int i = n - 2; i >= 0; --i) y = fma(y, x, coefficients[i]);
    return y;
}

// min and max give their second argument where it is NaN, so NaN stays NaN.
template <class A>
inline Vec<A> clamp(Vec<A> x, A low, A high) {
    return max(low, min(high, x));
}

// x = n ln(2) + r with n integral and |r| <= ln(2) / 2, for |x| < 1000.
struct Reduced {
    Vec<float> n, r;
};

inline Reduced reduce(Vec<float> x) {
    // Adding 1.5 * 2^23 leaves no bits for a fraction: it rounds to the nearest integer.
    const Vec<float> shift = 0x1.8p23f;
    const Vec<float> n = fma(x, 1.44269504f, shift) - shift;
    // The first part of ln(2) has so few bits that its product with n is exact without FMA too.
    const Vec<float> r = fma(n, -0x1.62ep-1f, x);
    return {n, fma(n, -0x1.0bfbe8p-15f, r)};
}

// exp(r) - 1 for |r| <= 0.42.
inline Vec<float> expm1_reduced(Vec<float> r) {
    static constexpr float q[] = {0.5f,           0.166666657f,   0.041666355f,
                                  0.00833339058f, 0.00139409828f, 0.000198459064f};
    return fma(r * r, polynomial(r, q), r);
}

inline native_t<int32_t> to_int(Vec<float> n) {
    return __builtin_convertvector(n.v, native_t<int32_t>);
}

// 2^n for integers -127 <= n <= 127.
inline Vec<float> power_of_two(native_t<int32_t> n) {
    return Vec<float>(reinterpret<native_t<float>>((n + 127) << 23));
}

// x 2^n for integers |n| <= 250, beyond the exponents that a float holds.
inline Vec<float> scale(Vec<float> x, Vec<float> n) {
#if defined(__AVX512F__)
    return Vec<float>((native_t<float>)_mm512_maskz_scalef_ps(0xffff, (__m512)x.v, (__m512)n.v));
#else
    const native_t<int32_t> i = to_int(n);
    const native_t<int32_t> half = i >> 1;
    return x * power_of_two(half) * power_of_two(i - half);
#endif
}

inline Vec<float> exp(Vec<float> x) {
    // The power of r without the care for small ones that expm1 takes.
    static constexpr float q[] = {0.999999702f, 0.499991387f, 0.166676506f, 0.0418995619f,
                                  0.00829001237f};
    const Reduced a = reduce(clamp(x, -104.f, 89.f));
    return scale(fma(a.r, polynomial(a.r, q), 1.f), a.n);
}

// exp(x) - 1 for |x| <= 80, to full precision near 0.
inline Vec<float> expm1_bounded(Vec<float> x) {
    const Reduced x_reduced = reduce(x);
    const Vec<float> power = power_of_two(to_int(x_reduced.n));
    return fma(power, expm1_reduced(x_reduced.r), power - 1.f);
}

inline Vec<float> tanh(Vec<float> x) {
    // 1 is the nearest float from 9.01 on.
    const Vec<float> a = min(10.f, abs(x));
    const Vec<float> t = expm1_bounded(a + a);
    return copysign(t / (t + 2.f), x);
}

// erf(a) = -expm1(-a (1 + p(a))): p = -log(erfc(a)) / a - 1 is smooth. Apart from the 1, its first
// coefficient is small and so is the rounding error of that.
inline Vec<float> erf(Vec<float> x) {
    static constexpr float p[] = {0.128379167f,     0.636619389f,    0.102777831f,
                                  -0.0191530641f,   -0.00016039575f, 0.00166702713f,
                                  -0.000632836716f, 0.000117641233f, -9.25626136e-06f};
    // 1 is the nearest float from 3.92 on.
    const Vec<float> a = min(4.f, abs(x));
    return copysign(expm1_bounded(-fma(a, polynomial(a, p), a)), x);
}

// The standard normal distribution at -x, for 0 <= x <= 15: its tail P(X < -x) and its density.
template <class A>
struct Gaussian {
    Vec<A> tail, density;
};

inline Gaussian<float> gaussian(Vec<float> x) {
    // tail / exp(-x^2 / 2) = t g(t), t = 1 / (1 + 0.375 x).
    static constexpr float g[] = {0.149593696f,   0.149870187f, 0.125410795f,  0.107456312f,
                                  -0.0541116521f, 0.211478457f, -0.418795913f, 0.340719551f,
                                  -0.132170245f,  0.0205487851f};
    const Vec<float> t = 1.f / fma(x, 0.375f, 1.f);
    // x^2 is summed from two parts: its rounding error would become that of the exponential.
    // The square of the upper 12 bits is exact.
    using V = Vec<float>;
    const V upper = V(reinterpret<V::native>(reinterpret<V::bits>(x.v) & 0xfffff000));
    const Reduced square = reduce(upper * upper * -0.5f);
    const V rest = (x - upper) * (x + upper) * -0.5f;
    const V e = scale(1.f + expm1_reduced(square.r + rest), square.n);
    return {e * t * polynomial(t, g), e * 0.398942280f};
}

inline Vec<float> sigmoid(Vec<float> x) { return 1.f / (1.f + exp(-x)); }

template <class F>
inline Vec<double> map(Vec<double> x, F f) {
    Vec<double> y;
    for (int i = 0; i < Vec<double>::size; ++i) y.v[i] = f(x[i]);
    return y;
}

inline Vec<double> exp(Vec<double> x) {
    return map(x, [](double a) { return std::exp(a); });
}

inline Vec<double> tanh(Vec<double> x) {
    return map(x, [](double a) { return std::tanh(a); });
}

inline Vec<double> erf(Vec<double> x) {
    return map(x, [](double a) { return std::erf(a); });
}

inline Vec<double> sigmoid(Vec<double> x) { return 1. / (1. + exp(-x)); }

inline Gaussian<double> gaussian(Vec<double> x) {
    const Vec<double> tail =
        map(x, [](double a) { return 0.5 * std::erfc(a * 0.70710678118654752440); });
    return {tail, exp(x * x * -0.5) * 0.39894228040143267794};
}

}  // namespace fusewright::cpu::FW_ISA
