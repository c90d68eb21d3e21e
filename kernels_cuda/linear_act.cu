// Linear and activation. In 16-bit types one kernel does it all, except where cuBLAS's product with
// an activation behind it is faster; in fp32 and fp64 the product is torch's own, which alone knows
// whether tf32 is allowed. The gradients of few rows come from one kernel, other products of the
// gradient are torch's as well; what is fused there is the activation's derivative with the bias
// gradient.

#include <array>

#include "linear_act/pointwise.cuh"
#include "linear_act/product.h"
#include "prototypes.h"

// Of torch's stable shim, absent from builds without CUDA; null where the running torch has none.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_cuda__addmm_activation(
    AtenTensorHandle bias, AtenTensorHandle x, AtenTensorHandle turned, double beta, double alpha,
    int32_t gelu, AtenTensorHandle* result);

namespace fusewright::cuda {
namespace {

constexpr const char* kOp = "linear_act";

bool is_16_bit(ScalarType dtype) {
    return dtype == ScalarType::Half || dtype == ScalarType::BFloat16;
}

Tensor linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
    using torch::stable::detail::from;
    std::array<StableIValue, 3> stack{from(x), from(weight), from(bias)};
    TORCH_ERROR_CODE_CHECK(
        torch_call_dispatcher("aten::linear", "", stack.data(), TORCH_ABI_VERSION));
    return as_contiguous(torch::stable::detail::to<Tensor>(stack[0]));
}

struct Shape {
    int64_t rows, columns, inner;
    std::vector<int64_t> y;

    Shape(const Tensor& x, const Tensor& weight) : rows(1), y(shape_of(x)) {
        FW_CHECK(weight.dim() == 2 && x.dim() >= 1, kOp, "x must have rows and weight be a matrix");
        columns = weight.size(0);
        inner = weight.size(1);
        FW_CHECK(y.back() == inner, kOp, "x.shape[-1] is ", y.back(), ", must be ", inner);
        for (size_t d = 0; d + 1 < y.size(); ++d) rows *= y[d];
        y.back() = columns;
        constexpr int64_t most = std::numeric_limits<int>::max();
        FW_CHECK(columns <= most && inner <= most, kOp,
                 "weight must have at most 2^31 - 1 rows and "
                 "columns");
    }
};

// Whether cuBLAS has the activation in the epilogue of its own product, relu or the tanh form of
// gelu behind a bias. It then is as fast as ours or faster: it chooses among sizes of tiles.
bool cublas_fuses(const Launch& launch, const Product& p) {
    if (p.activation != Activation::relu && p.activation != Activation::gelu_tanh) return false;
    if (p.bias == nullptr || aoti_torch_cuda__addmm_activation == nullptr) return false;
    return product_sm90_serves(launch, p) && !product_few_rows_serves(p);
}

Tensor linear_in_cublas(const Tensor& x, const Tensor& weight, const Tensor& bias,
                        Activation activation, const Shape& shape) {
    const Tensor flat = torch::stable::reshape(x, {shape.rows, shape.inner});
    const Tensor turned = torch::stable::transpose(weight, 0, 1);
    AtenTensorHandle result = nullptr;
    TORCH_ERROR_CODE_CHECK(
        aoti_torch_cuda__addmm_activation(bias.get(), flat.get(), turned.get(), 1.0, 1.0,
                                          activation == Activation::gelu_tanh, &result));
    return torch::stable::view(Tensor(result), shape.y);
}

// A matrix with dense rows, a copy only where the tensor is none.
struct Matrix {
    Tensor tensor;
    int64_t stride = 0;

    Matrix(const Tensor& t, int64_t rows, int64_t columns) : tensor(t) {
        if (!describe(rows, columns)) {
            tensor = torch::stable::contiguous(t);
            stride = columns;
        }
    }

  private:
    // All leading dimensions must count as one, in which rows do not overlap.
    bool describe(int64_t rows, int64_t columns) {
        const int64_t last = tensor.dim() - 1;
        if (columns > 1 && tensor.stride(last) != 1) return false;
        stride = columns;
        int64_t count = 1;
        for (int64_t d = last - 1; d >= 0; --d) {
            const int64_t size = tensor.size(d);
            if (size == 1) continue;
            if (count == 1) stride = tensor.stride(d);
            if (tensor.stride(d) != stride * count) return false;
            count *= size;
        }
        return count == rows && stride >= columns;
    }
};

// Rows are counted in int by CUTLASS, so a longer matrix is served in parts.
constexpr int64_t kMostRows = int64_t{1} << 30;

void multiply(const Launch& launch, const Product& whole) {
    for (int64_t row = 0; row < whole.rows; row += kMostRows) {
        Product p = whole;
        p.rows = std::min(kMostRows, whole.rows - row);
        p.x = static_cast<const char*>(whole.x) + 2 * row * whole.x_stride;
        p.y = static_cast<char*>(whole.y) + 2 * row * whole.columns;
        if (p.pre != nullptr) p.pre = static_cast<char*>(whole.pre) + 2 * row * whole.columns;
        if (product_few_rows_serves(p)) {
            product_few_rows(launch, p);
        } else if (product_sm90_serves(launch, p)) {
            product_sm90(launch, p);
        } else {
            product_sm80(launch, p);
        }
    }
}

// Whether one kernel of ours is the fastest.
bool fuses(const Launch& launch, const Product& p) {
    if (!product_sm90_serves(launch, p)) return true;
    return product_few_rows_serves(p) ? product_few_rows_pays(launch, p)
                                      : product_sm90_pays(launch, p);
}

struct Result {
    Tensor y;
    std::optional<Tensor> pre;
};

Result forward(const Launch& launch, const Tensor& x, const Tensor& weight,
               const std::optional<Tensor>& bias, Activation activation, bool keep) {
    const Shape shape(x, weight);
    const ScalarType dtype = x.scalar_type();
    check_shape(bias, {shape.columns}, kOp, "bias");
    const Tensor w = in_dtype(weight, dtype);
    const std::optional<Tensor> b = in_dtype(bias, dtype);
    keep = keep && activation != Activation::none;
    if (is_16_bit(dtype) && shape.rows * shape.columns * shape.inner != 0) {
        const Matrix left(x, shape.rows, shape.inner), right(w, shape.columns, shape.inner);
        const std::optional<Tensor> dense = as_contiguous(b);
        Product product{dtype,
                        shape.rows,
                        shape.columns,
                        shape.inner,
                        left.tensor.data_ptr(),
                        left.stride,
                        right.tensor.data_ptr(),
                        right.stride,
                        data<char>(dense),
                        nullptr,
                        nullptr,
                        activation};
        if (!keep && cublas_fuses(launch, product)) {
            return {linear_in_cublas(x, w, *dense, activation, shape), std::nullopt};
        }
        if (fuses(launch, product)) {
            const Tensor y = fresh(x, shape.y);
            std::optional<Tensor> pre;
            if (keep) pre = fresh(x, shape.y);
            product.y = y.data_ptr();
            product.pre = data<char>(pre);
            multiply(launch, product);
            return {y, pre};
        }
    }
    const Tensor pre = linear(x, w, b);
    const Tensor y = keep ? fresh_like(pre) : pre;
    activation_of(launch, activation, pre, y);
    return {y, keep ? std::optional(pre) : std::nullopt};
}

// `value` with the strides and dtype of `like`, as the gradient of an argument must be.
Tensor gradient_like(const Tensor& like, const Tensor& value) {
    if (like.is_contiguous() && value.is_contiguous() &&
        like.scalar_type() == value.scalar_type()) {
        return value;
    }
    Tensor result = fresh_like(like);
    torch::stable::copy_(result, value);
    return result;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor>;

// The gradients from one kernel, where it serves; `pre` is what the activation got.
std::optional<Gradients> few_rows_gradients(const Launch& launch, const Tensor& dy, const Tensor& x,
                                            const Tensor& weight, const std::optional<Tensor>& bias,
                                            const Tensor& pre, Activation activation,
                                            const Shape& shape, int64_t needs) {
    if (!is_16_bit(x.scalar_type()) || shape.rows > kFewRows || (needs & 3) != 3 ||
        shape.rows * shape.columns * shape.inner == 0) {
        return std::nullopt;
    }
    // Others are left to cuBLAS, as they were not measured.
    if (launch.attribute(cudaDevAttrComputeCapabilityMajor) != 9) return std::nullopt;
    const Tensor w = in_dtype(weight, x.scalar_type());
    const Matrix left(x, shape.rows, shape.inner), right(w, shape.columns, shape.inner);
    FewRowsGradient p{x.scalar_type(),
                      shape.rows,
                      shape.columns,
                      shape.inner,
                      dy.data_ptr(),
                      activation == Activation::none ? dy.data_ptr() : pre.data_ptr(),
                      left.tensor.data_ptr(),
                      left.stride,
                      right.tensor.data_ptr(),
                      right.stride,
                      activation,
                      none_like(x),
                      none_like(x),
                      Untyped()};
    if (!few_rows_backward_serves(p)) return std::nullopt;
    p.dx = fresh(x, shape_of(x));
    p.dweight = fresh(x, shape_of(weight));
    Tensor dbias = none_like(x);
    if ((needs & 4) && present(bias)) {
        dbias = fresh(*bias, {shape.columns});
        p.dbias = Untyped(dbias);
    }
    few_rows_backward(launch, p);
    return Gradients{gradient_like(x, p.dx), gradient_like(weight, p.dweight), dbias};
}

}  // namespace
}  // namespace fusewright::cuda

namespace k = fusewright::cuda;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor> k::linear_act(const Tensor& x, const Tensor& weight,
                                         const std::optional<Tensor>& bias,
                                         const std::string& activation, bool keep) {
    const Launch launch(x);
    const Result result = forward(launch, x, weight, bias, parse_activation(activation), keep);
    return {result.y, result.pre ? *result.pre : none_like(x)};
}

std::tuple<Tensor, Tensor, Tensor> k::linear_act_backward(
    const Tensor& grad_y, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
    const Tensor& pre, const std::string& activation, int64_t needs) {
    const Launch launch(x);
    const Activation act = parse_activation(activation);
    const ScalarType dtype = x.scalar_type();
    const Shape shape(x, weight);
    check_shape(grad_y, shape.y, kOp, "grad_y");
    check_shape(bias, {shape.columns}, kOp, "bias");
    if (pre.numel() > 0) check_dtype(pre, dtype, kOp, "pre");

    Tensor dpre = none_like(x);
    std::optional<Tensor> dbias;
    {  // gone before the products need room
        const Tensor dy = as_contiguous(in_dtype(grad_y, dtype));
        const bool kept = pre.numel() == dy.numel();
        Tensor saved = dy;  // without an activation nobody reads it
        if (act != Activation::none) {
            saved = kept ? as_contiguous(pre)
                         : forward(launch, x, weight, bias, Activation::none, false).y;
        }
        if (const auto all =
                few_rows_gradients(launch, dy, x, weight, bias, saved, act, shape, needs))
            return *all;
        // what is nobody else's becomes the result: a copy of dy, or the product made anew
        const bool copied = dy.data_ptr() != grad_y.data_ptr();
        if (act == Activation::none || copied) {
            dpre = dy;
        } else {
            dpre = kept ? fresh(dy, shape.y) : saved;
        }
        dbias = derivative_of(launch, act, dy, saved, dpre, shape.rows, shape.columns,
                              needs & 4 ? bias : std::nullopt);
    }
    const Tensor flat = torch::stable::view(dpre, {shape.rows, shape.columns});
    Tensor dx = none_like(x), dweight = none_like(x);
    if (needs & 1) {
        const Tensor product = torch::stable::matmul(flat, in_dtype(weight, dtype));
        dx = gradient_like(x, torch::stable::view(product, shape_of(x)));
    }
    if (needs & 2) {
        const Tensor flat_x = torch::stable::reshape(x, {shape.rows, shape.inner});
        const Tensor turned = torch::stable::transpose(flat, 0, 1);
        dweight = gradient_like(weight, torch::stable::matmul(turned, flat_x));
    }
    return {dx, dweight, dbias ? *dbias : none_like(x)};
}
