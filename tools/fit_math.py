"""Fits the polynomials of src/cpu/math.h: weighted minimax by Lawson's reweighted least squares."""

import numpy as np
from mpmath import erfc, expm1, log, mp, mpf, sqrt

mp.dps = 40


def chebyshev_nodes(low, high, count=2000):
    angles = (np.arange(count) + 0.5) * np.pi / count
    return (low + high) / 2 + (high - low) / 2 * np.cos(angles)


def minimax(x, y, weight, degree, steps=300):
    """Coefficients, lowest power first, that make max |weight * (p(x) - y)| small."""
    basis = np.vander(x, degree + 1, increasing=True) * weight[:, None]
    scale = np.abs(basis).max(axis=0)
    lawson = np.ones_like(x) / len(x)
    best, best_error = None, np.inf
    for _ in range(steps):
        root = np.sqrt(lawson)
        c = np.linalg.lstsq(basis / scale * root[:, None], weight * y * root, rcond=None)[0] / scale
        error = np.abs(basis @ c - weight * y)
        if error.max() < best_error:
            best, best_error = c, error.max()
        lawson *= error + 1e-3 * error.max()
        lawson /= lawson.sum()
    return best, best_error


def show(name, coefficients, error):
    print(f"{name}: max weighted error {error:.2e}")
    print("  " + ", ".join(f"{c:.9g}f" for c in np.float32(coefficients)))


def vectorize(f, x):
    return np.array([float(f(mpf(float(v)))) for v in x])


def fit_expm1():
    """q in expm1(r) = r + r^2 q(r), |r| <= ln(2)/2: error relative to expm1."""
    for degree in (4, 5):
        r = chebyshev_nodes(-0.3478, 0.3478)
        y = vectorize(lambda v: (expm1(v) - v) / v**2, r)
        weight = np.abs(r * r / vectorize(expm1, r))
        show(f"expm1 q, degree {degree}", *minimax(r, y, weight, degree))


def fit_exp():
    """q in exp(r) = 1 + r q(r), |r| <= ln(2)/2: error relative to exp."""
    r = chebyshev_nodes(-0.3478, 0.3478)
    y = vectorize(lambda v: expm1(v) / v, r)
    weight = np.abs(r) / np.exp(r)
    for degree in (4, 5):
        show(f"exp q, degree {degree}", *minimax(r, y, weight, degree))


def fit_erf():
    """p in erf(x) = -expm1(-x (1 + p(x))), 0 <= x <= 4: error relative to erf."""
    x = chebyshev_nodes(1e-6, 4.0)
    y = vectorize(lambda v: -log(erfc(v)) / v - 1, x)
    tail = vectorize(erfc, x)
    weight = x * tail / (1 - tail)
    for degree in (6, 7, 8, 9, 10):
        show(f"erf p, degree {degree}", *minimax(x, y, weight, degree))


def fit_tail():
    """g in Phi(-x) = exp(-x^2/2) t g(t), t = 1/(1 + k x), 0 <= x <= 15: error relative to Phi."""
    x = chebyshev_nodes(0.0, 1.0) ** 2 * 15
    h = vectorize(lambda v: erfc(v / sqrt(2)) * mp.exp(v * v / 2) / 2, x)
    for k in (0.125, 0.1875, 0.25, 0.3125, 0.375, 0.4375, 0.5):
        for degree in (7, 8, 9, 10):
            t = 1 / (1 + k * x)
            show(f"tail g, k {k}, degree {degree}", *minimax(t, h / t, t / h, degree))


if __name__ == "__main__":
    fit_expm1()
    fit_exp()
    fit_erf()
    fit_tail()
