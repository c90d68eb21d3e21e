// The product that all kernels of linear_act compute, y = act(x weightᵀ + bias), in 16-bit types.
#pragma once

#include "activation_name.h"
#include "element.cuh"
#include "launch.h"

namespace fusewright::cuda {

struct Product {
    ScalarType dtype;  // of everything here, fp16 or bf16
    int64_t rows, columns, inner;
    const void* x;  // rows × inner, each row dense
    int64_t x_stride;
    const void* weight;  // columns × inner, each row dense
    int64_t weight_stride;
    const void* bias;  // dense, or null
    void* y;           // rows × columns, dense
    void* pre;         // as y, what the activation gets; null if nobody needs it
    Activation activation;
};

// Whether every access of 16 bytes that a kernel wants to make is aligned.
inline bool packs(const Product& p) {
    const auto aligned = [](const void* at) { return reinterpret_cast<uintptr_t>(at) % 16 == 0; };
    return p.columns % 8 == 0 && p.inner % 8 == 0 && p.x_stride % 8 == 0 &&
           p.weight_stride % 8 == 0 && aligned(p.x) && aligned(p.weight) && aligned(p.bias) &&
           aligned(p.y) && aligned(p.pre);
}

// Tiles of y as the kernels have them.
inline int64_t product_tiles(const Product& p) {
    return ceil_div<int64_t>(p.rows, 128) * ceil_div<int64_t>(p.columns, 128);
}

// Tensor cores of Hopper, fed by TMA.
#ifdef FUSEWRIGHT_SM90
bool product_sm90_serves(const Launch& launch, const Product& p);
bool product_sm90_pays(const Launch& launch, const Product& p);
void product_sm90(const Launch& launch, const Product& p);
#else
inline bool product_sm90_serves(const Launch&, const Product&) { return false; }
inline bool product_sm90_pays(const Launch&, const Product&) { return false; }
inline void product_sm90(const Launch&, const Product&) {}
#endif

// Tensor cores as sm_80 has them; any product.
void product_sm80(const Launch& launch, const Product& p);

// Few rows, where reading the weight is all the work.
constexpr int64_t kFewRows = 16;
inline bool product_few_rows_serves(const Product& p) {
    return p.rows <= kFewRows && p.inner <= int64_t{1} << 30 && packs(p);
}
bool product_few_rows_pays(const Launch& launch, const Product& p);
void product_few_rows(const Launch& launch, const Product& p);

// All gradients of such a product with its activation, in one pass over the weight. `serves` looks
// at the inputs alone.
struct FewRowsGradient {
    ScalarType dtype;  // of all but dbias, fp16 or bf16
    int64_t rows, columns, inner;
    const void *dy, *pre;  // rows × columns, dense; without an activation pre is dy
    const void* x;         // rows × inner, each row dense
    int64_t x_stride;
    const void* weight;  // columns × inner, each row dense
    int64_t weight_stride;
    Activation activation;
    Tensor dx, dweight;  // dense
    Untyped dbias;       // nothing where nobody needs it
};
bool few_rows_backward_serves(const FewRowsGradient& p);
void few_rows_backward(const Launch& launch, const FewRowsGradient& p);

}  // namespace fusewright::cuda
