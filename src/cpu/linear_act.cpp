// Linear and activation. The matrix products are torch's own, but for few rows (see
// linear_few_rows.h) and small products (see linear_small.h): its libraries nobody beats by hand
// where there is much to do. What is fused is everything around them: the activation in place where
// no gradient needs its input, and its derivative with the bias gradient in one pass.

#include <torch/csrc/stable/ops.h>

#include <array>

#include "cpu/activation.h"
#include "cpu/alloc.h"
#include "cpu/linear_few_rows.h"
#include "cpu/linear_small.h"
#include "cpu/tensor.h"
#include "cpu/vec.h"
#include "prototypes.h"

namespace fusewright::cpu::FW_ISA {
namespace {

constexpr const char* kOp = "linear_act";
constexpr int64_t kGrain = 16384;           // elements that are worth a thread
constexpr int64_t kFewRowsGrain = 1 << 18;  // multiply-adds that are
// Multiply-adds that take as long as to wake a thread: a million in the widest vectors.
constexpr int64_t kSmall = int64_t{Vec<float>::size} << 16;

// The product of all dimensions but the last.
int64_t rows_of(const Tensor& x) {
    int64_t rows = 1;
    for (int64_t d = 0; d + 1 < x.dim(); ++d) rows *= x.size(d);
    return rows;
}

// Torch's products, into tensors of ours: the first touch of one that torch makes can take as long
// as the product (see alloc.h). The last argument is the result.
template <size_t count>
Tensor call_out(const char* name, std::array<StableIValue, count> stack) {
    TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, "out", stack.data(), TORCH_ABI_VERSION));
    return torch::stable::detail::to<Tensor>(stack[0]);
}

Tensor product(const Tensor& a, const Tensor& b, const Tensor& out) {
    using torch::stable::detail::from;
    return call_out<3>("aten::mm", {from(a), from(b), from(out)});
}
Tensor product(const Tensor& a, const Tensor& b) {
    return product(a, b, fresh(a, {a.size(0), b.size(1)}));
}

template <class A, class T, class F>
void for_elements(int64_t begin, int64_t end, F&& f) {
    constexpr int lanes = Vec<A>::size;
    int64_t i = begin;
    for (; i + lanes <= end; i += lanes) f(i, lanes);
    if (i < end) f(i, static_cast<int>(end - i));
}

template <class A, class T>
Vec<A> load_n(const T* p, int n) {
    return n == Vec<A>::size ? load<A>(p) : load_partial<A>(p, n);
}
template <class A, class T>
void store_n(T* p, Vec<A> v, int n) {
    n == Vec<A>::size ? store(p, v) : store_partial(p, v, n);
}

// Of x as (rows, inner). Measured on x86-64 alone.
bool few_rows_serve(const Tensor& x, const Tensor& weight) {
#if defined(FW_X86)
    return x.scalar_type() == ScalarType::Float && x.size(0) >= FewRows::least &&
           x.size(0) <= FewRows::most && weight.numel() > 0 && weight.stride(1) == 1;
#else
    (void)x, (void)weight;
    return false;
#endif
}

// y = act(x weightᵀ + bias) for few rows; `pre`, where given, is what the activation gets.
void few_rows(Activation activation, const Tensor& x, const Tensor& weight,
              const std::optional<Tensor>& bias, const Tensor& y, float* pre) {
    constexpr int panel = FewRows::panel;
    const FewRows p{x.size(0), weight.size(0), weight.size(1), weight.const_data_ptr<float>(),
                    weight.stride(0)};
    const auto packed = pack_rows(p, x.const_data_ptr<float>(), x.stride(0), x.stride(1));
    const auto dense = as_contiguous(bias);
    const float* shifts = present(dense) ? dense->const_data_ptr<float>() : nullptr;
    float* out = y.mutable_data_ptr<float>();
    const int64_t panels = (p.columns + panel - 1) / panel;
    const int64_t grain = kFewRowsGrain / (p.rows * p.inner * panel) + 1;
    with_activation(activation, [&](auto act) {
        torch::stable::parallel_for(0, panels, grain, [&](int64_t begin, int64_t end) {
            Vec<float> sums[FewRows::most * panel];
            for (int64_t n = begin * panel; n < std::min(end * panel, p.columns); n += panel) {
                const int count = static_cast<int>(std::min<int64_t>(panel, p.columns - n));
                panel_products(p, packed.data(), n, sums);
                const Vec<float> shift = shifts ? load_n<float>(shifts + n, count) : Vec<float>();
                for (int64_t m = 0; m < p.rows; ++m) {
                    const Vec<float> v = sum_each(sums + m * panel) + shift;
                    if (pre != nullptr) store_n(pre + m * p.columns + n, v, count);
                    store_n(out + m * p.columns + n, activate<act>(v), count);
                }
            }
        });
    });
}

// grad weight for few rows. A thread has a part of the inner dimension, for which it goes through
// all of the weight's rows.
Tensor few_rows_gradient(const Tensor& grad, const Tensor& weight) {
    constexpr int panel = FewRows::panel;
    const int64_t rows = grad.size(0), columns = weight.size(0), inner = weight.size(1);
    const Tensor dx = fresh(grad, {rows, inner});
    const float* dy = grad.const_data_ptr<float>();
    const float* w = weight.const_data_ptr<float>();
    float* out = dx.mutable_data_ptr<float>();
    constexpr int64_t part = 64;  // columns: whole lines
    constexpr int64_t run_length = 2048;
    const int64_t grain = kFewRowsGrain / (rows * columns * part) + 1;
    torch::stable::parallel_for(
        0, (inner + part - 1) / part, grain, [&](int64_t begin, int64_t end) {
            const int64_t first = begin * part, last = std::min(end * part, inner);
            const FewRows p{rows, columns, last - first, w + first, weight.stride(0)};
            auto total = zero_rows(p);
            Vec<float> factors[FewRows::most];
            for (int64_t run = 0; run < columns;
                 run += run_length) {  // the fewer sums, the less rounding
                auto sums = zero_rows(p);
                for (int64_t n = run; n < std::min(run + run_length, columns); n += panel) {
                    const int count = static_cast<int>(std::min<int64_t>(panel, columns - n));
                    for (int64_t m = 0; m < rows; ++m) {
                        factors[m] = load_n<float>(dy + m * columns + n, count);
                    }
                    add_panel(p, factors, n, sums.data());
                }
                for (size_t i = 0; i < sums.size(); ++i) total[i] += sums[i];
            }
            unpack_rows(p, total.data(), out + first, inner);
        });
    return dx;
}

// Of x as (rows, inner).
bool small_serves(const Tensor& x, const Tensor& weight) {
    const int64_t columns = weight.size(0) + Vec<float>::size - 1;
    return x.scalar_type() == ScalarType::Float && x.size(0) >= FewRows::most &&
           columns * x.size(1) <= SmallProduct::most && x.numel() * weight.size(0) <= kSmall &&
           weight.stride(1) == 1 && x.stride(1) == 1;
}

void small_product(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                   const Tensor& y) {
    const auto dense = as_contiguous(bias);
    const SmallProduct p{x.size(0),
                         weight.size(0),
                         weight.size(1),
                         x.const_data_ptr<float>(),
                         weight.const_data_ptr<float>(),
                         present(dense) ? dense->const_data_ptr<float>() : nullptr,
                         x.stride(0),
                         weight.stride(0),
                         y.mutable_data_ptr<float>()};
    // On the stack, as the C library gives back what is freed at the end of its heap.
    SmallProduct::vector packed[SmallProduct::most / Vec<float>::size];
    pack_weight(p, packed);
    small_rows(p, packed);
}

enum class Product { small, few_rows, torch };

// Which product x and the weight, as matrices, take.
Product choose_product(const Tensor& x, const Tensor& weight) {
    if (small_serves(x, weight)) return Product::small;
    return few_rows_serve(x, weight) ? Product::few_rows : Product::torch;
}

// x as (rows, columns); a call of torch takes as long as many a small product.
Tensor as_matrix(const Tensor& x, int64_t columns) {
    return x.dim() == 2 ? x : torch::stable::reshape(x, {rows_of(x), columns});
}

// out = x weightᵀ + bias, of matrices and a dense `out` of any shape.
void linear(Product by, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
            const Tensor& out) {
    using torch::stable::detail::from;
    if (by == Product::small) return small_product(x, weight, bias, out);
    if (by == Product::few_rows) {
        return few_rows(Activation::none, x, weight, bias, out, nullptr);
    }
    const Tensor flat = as_matrix(out, weight.size(0));
    call_out<4>("aten::linear", {from(x), from(weight), from(bias), from(flat)});
}

// pre += bias, if any, and y = act(pre). The two may be the same, of which y is kept.
void apply(Activation activation, const Tensor& pre, const std::optional<Tensor>& bias,
           const Tensor& y) {
    const auto dense = as_contiguous(bias);
    const int64_t columns = present(dense) ? dense->numel() : pre.numel();
    with_dtype(pre.scalar_type(), kOp, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = acc_t<T>;
        T *const in = pre.mutable_data_ptr<T>(), *const out = y.mutable_data_ptr<T>();
        const T* const shift = present(dense) ? dense->const_data_ptr<T>() : nullptr;
        with_activation_in<A>(activation, [&](auto act) {
            torch::stable::parallel_for(0, pre.numel(), kGrain, [&](int64_t begin, int64_t end) {
                while (begin < end) {  // to the end of a row
                    const int64_t column = begin % columns;
                    const int64_t last = std::min(begin + columns - column, end);
                    for_elements<A, T>(begin, last, [&](int64_t i, int n) {
                        Vec<A> v = load_n<A>(in + i, n);
                        if (shift != nullptr) {
                            v += load_n<A>(shift + column + (i - begin), n);
                            if (in != out) store_n(in + i, v, n);
                        }
                        store_n(out + i, activate(act, v), n);
                    });
                    begin = last;
                }
            });
        });
    });
}

// dpre = dy · act'(pre) and, per column, its sum over the rows; blocks of rows that depend on the
// shape alone keep the sums the same for any number of threads.
std::vector<double> derive(Activation activation, const Tensor& grad, const Tensor& pre,
                           const Tensor& dpre, int64_t columns, bool sums_wanted) {
    std::vector<double> total(columns);
    const int64_t rows = columns == 0 ? 0 : grad.numel() / columns;
    const int64_t blocks = std::max<int64_t>(1, std::min<int64_t>(32, rows / 8));
    with_dtype(grad.scalar_type(), kOp, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = acc_t<T>;
        const T* dy = grad.const_data_ptr<T>();
        const bool derived = activation != Activation::none;
        const T* x = derived ? pre.const_data_ptr<T>() : nullptr;
        T* out = derived ? dpre.mutable_data_ptr<T>() : nullptr;
        std::vector<A> sums(sums_wanted ? blocks * columns : 0);
        const int64_t grain = std::max<int64_t>(1, kGrain / (grad.numel() / blocks + 1));
        with_activation_in<A>(activation, [&](auto act) {
            torch::stable::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
                for (int64_t block = begin; block < end; ++block) {
                    const int64_t last = (block + 1) * rows / blocks;
                    for (int64_t r = block * rows / blocks; r < last; ++r) {
                        for_elements<A, T>(0, columns, [&](int64_t c, int n) {
                            const int64_t i = r * columns + c;
                            Vec<A> g = load_n<A>(dy + i, n);
                            if (act != Activation::none) {
                                g *= activate_grad(act, load_n<A>(x + i, n));
                                store_n(out + i, g, n);
                            }
                            if (sums_wanted) {
                                A* sum = &sums[block * columns + c];
                                store_n(sum, load_n<A>(sum, n) + g, n);
                            }
                        });
                    }
                }
            });
        });
        for (size_t i = 0; i < sums.size(); ++i) total[i % columns] += sums[i];
    });
    return total;
}

void check_arguments(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
    check_rank(weight, 2, kOp, "weight");
    FW_CHECK(x.dim() >= 1, kOp, "x.dim() is 0, must be at least 1");
    FW_CHECK(x.size(x.dim() - 1) == weight.size(1), kOp, "x.size(-1) is ", x.size(x.dim() - 1),
             ", must be ", weight.size(1), " as weight.size(1)");
    check_shape(bias, {weight.size(0)}, kOp, "bias");
}

// `value` with the strides and dtype of `like`, as the gradient of an argument must be.
Tensor gradient_like(const Tensor& like, const Tensor& value) {
    const bool same = like.scalar_type() == value.scalar_type();
    if (same && like.is_contiguous() && value.is_contiguous()) return value;
    Tensor result = fresh_like(like);
    torch::stable::copy_(result, value);
    return result;
}

}  // namespace
}  // namespace fusewright::cpu::FW_ISA

namespace k = fusewright::cpu::FW_ISA;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor> k::linear_act(const Tensor& x, const Tensor& weight,
                                         const std::optional<Tensor>& bias,
                                         const std::string& activation, bool keep) {
    const Activation act = parse_activation(activation);
    check_arguments(x, weight, bias);
    const Tensor w = in_dtype(weight, x.scalar_type());
    const std::optional<Tensor> shift = in_dtype(bias, x.scalar_type());
    std::vector<int64_t> shape = shape_of(x);
    shape.back() = w.size(0);
    const Tensor flat = as_matrix(x, w.size(1));
    keep = keep && act != Activation::none;
    const Tensor y = fresh(x, shape), pre = keep ? fresh(x, shape) : none_like(x);
    const Tensor& first = keep ? pre : y;
    const Product by = choose_product(flat, w);
    if (act == Activation::none) {
        linear(by, flat, w, shift, first);
    } else if (by == Product::few_rows) {
        few_rows(act, flat, w, shift, y, keep ? pre.mutable_data_ptr<float>() : nullptr);
    } else if (by == Product::torch && x.element_size() >= 4) {
        // Torch's product would read and write everything once more for the bias. In 16 bits the
        // product must not be rounded before it.
        product(flat, torch::stable::transpose(w, 0, 1), as_matrix(first, w.size(0)));
        apply(act, first, shift, y);
    } else {
        linear(by, flat, w, shift, first);
        apply(act, first, std::nullopt, y);
    }
    return {y, pre};
}

std::tuple<Tensor, Tensor, Tensor> k::linear_act_backward(
    const Tensor& grad_y, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
    const Tensor& pre, const std::string& activation, int64_t needs) {
    const Activation act = parse_activation(activation);
    std::vector<int64_t> shape = shape_of(x);
    check_arguments(x, weight, bias);
    const int64_t columns = weight.size(0), inner = weight.size(1);
    shape.back() = columns;
    check_shape(grad_y, shape, kOp, "grad_y");
    const int64_t rows = rows_of(x);
    const Tensor w = in_dtype(weight, x.scalar_type());
    const Tensor grad = as_contiguous(in_dtype(grad_y, x.scalar_type()));
    Tensor saved = pre, dpre = grad;
    if (act != Activation::none) {
        if (pre.numel() == grad.numel()) {
            saved = as_contiguous(in_dtype(pre, x.scalar_type()));
        } else {
            saved = fresh_like(grad);
            const Tensor flat_x = as_matrix(x, inner);
            linear(choose_product(flat_x, w), flat_x, w, in_dtype(bias, x.scalar_type()), saved);
        }
        dpre = fresh_like(grad);
    }
    const std::vector<double> sums = derive(act, grad, saved, dpre, columns, needs & 4);
    const Tensor flat = torch::stable::view(dpre, {rows, columns});
    Tensor dx = none_like(x), dweight = none_like(x), dbias = none_like(x);
    if (needs & 1) {
        // A smaller weight stays in the caches, where torch's product is as fast.
        const bool few = few_rows_serve(flat, w) && bytes_of(w) >= 4 * kLarge;
        const Tensor result = few ? few_rows_gradient(flat, w) : product(flat, w);
        dx = gradient_like(x, torch::stable::view(result, shape_of(x)));
    }
    if (needs & 2) {
        dweight = gradient_like(weight,
                                product(torch::stable::transpose(flat, 0, 1), as_matrix(x, inner)));
    }
    if ((needs & 4) && present(bias)) {
        dbias = fresh_like(*bias);
        Tensor dense = as_contiguous(dbias);
        write_acc(dense, sums.data(), kOp);
        torch::stable::copy_(dbias, dense);
    }
    return {dx, dweight, dbias};
}
