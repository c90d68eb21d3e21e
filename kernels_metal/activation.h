// The activations that kernels fuse: values and derivatives, with torch's definitions.
#pragma once

#include "dtype.h"

constant float kGeluScale = 0.79788456080286535588f;  // sqrt(2 / pi)
constant float kGeluCubic = 0.044715f;

// The standard normal distribution at -x, for 0 <= x <= 15: its tail P(X < -x) and its density.
struct Gaussian {
    float tail, density;
};

inline Gaussian gaussian(float x) {
    // tail / exp(-x^2 / 2) = t g(t), t = 1 / (1 + 0.375 x).
    const float t = 1.0f / fma(x, 0.375f, 1.0f);
    float g = 0.0205487851f;
    g = fma(g, t, -0.132170245f);
    g = fma(g, t, 0.340719551f);
    g = fma(g, t, -0.418795913f);
    g = fma(g, t, 0.211478457f);
    g = fma(g, t, -0.0541116521f);
    g = fma(g, t, 0.107456312f);
    g = fma(g, t, 0.125410795f);
    g = fma(g, t, 0.149870187f);
    g = fma(g, t, 0.149593696f);
    // x^2 in two parts: its rounding error would become that of the exponential. The square of the
    // upper 12 bits is exact.
    const float upper = as_type<float>(as_type<uint>(x) & 0xfffff000u);
    const float rest = (x - upper) * (x + upper) * -0.5f;
    const float e = precise::exp(upper * upper * -0.5f) * precise::exp(rest);
    Gaussian result = {e * t * g, e * 0.398942280f};
    return result;
}

// From here on gelu's tails are 0 in fp32. The bound keeps infinity times 0 out of the formulas.
constant float kGeluEnd = 15.0f;

inline float gelu(float x) {
    const float a = min(kGeluEnd, abs(x));
    return (x < 0 ? 0.0f : x) - a * gaussian(a).tail;
}

inline float gelu_grad(float x) {
    const float a = min(kGeluEnd, abs(x));
    const Gaussian normal = gaussian(a);
    const float negative = normal.tail - a * normal.density;
    return x < 0 ? negative : 1.0f - negative;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + precise::exp(-x)); }

// (1 + tanh(u)) / 2 = sigmoid(2 u), which does not cancel for negative u.
inline float gelu_tanh(float x) {
    return x * sigmoid(2.0f * kGeluScale * x * fma(kGeluCubic, x * x, 1.0f));
}

inline float gelu_tanh_grad(float x) {
    const float c = clamp(x, -9.5f, 9.5f), square = c * c;  // at the ends, sigmoid is 1 or nearly 0
    const float e = precise::exp(-2.0f * kGeluScale * c * fma(kGeluCubic, square, 1.0f));
    const float s = 1.0f / (1.0f + e);
    const float slope = 2.0f * kGeluScale * fma(3.0f * kGeluCubic, square, 1.0f);
    return s * fma(c * slope, e * s, 1.0f);
}

inline float silu(float x) { return x / (1.0f + precise::exp(-x)); }

inline float silu_grad(float x) {
    const float c = clamp(x, -80.0f, 80.0f);  // where exp is finite and not 0
    const float e = precise::exp(-c), s = 1.0f / (1.0f + e);
    return s * fma(c, e * s, 1.0f);  // 1 - s = e s does not cancel
}

inline float activate(int activation, float x) {
    if (activation == FW_ACT_RELU) return x < 0 ? 0.0f : x;
    if (activation == FW_ACT_GELU) return gelu(x);
    if (activation == FW_ACT_GELU_TANH) return gelu_tanh(x);
    if (activation == FW_ACT_SILU) return silu(x);
    return x;
}

// The derivative at x, the input of the activation.
inline float activate_grad(int activation, float x) {
    if (activation == FW_ACT_RELU) return x <= 0 ? 0.0f : 1.0f;
    if (activation == FW_ACT_GELU) return gelu_grad(x);
    if (activation == FW_ACT_GELU_TANH) return gelu_tanh_grad(x);
    if (activation == FW_ACT_SILU) return silu_grad(x);
    return 1.0f;
}
