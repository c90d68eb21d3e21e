// The forward of layer_norm and rms_norm, on the host.
#pragma once

#include "norm_plain.cuh"

namespace fusewright::cuda {

// y, the sum with the residual (or nothing), mean and rstd by row.
template <bool centred>
std::tuple<Tensor, Tensor, Tensor, Tensor> norm_forward(const Tensor& x,
                                                        const std::optional<Tensor>& given_weight,
                                                        const std::optional<Tensor>& given_bias,
                                                        const std::optional<Tensor>& residual,
                                                        const NormOptions& o) {
    const auto weight = as_contiguous(given_weight), bias = as_contiguous(given_bias);
    FW_CHECK(0 < o.norm_dims && o.norm_dims <= x.dim(), o.op, "norm_dims is ", o.norm_dims,
             ", must be from 1 to ", x.dim());
    check_shape(residual, x.sizes(), o.op, "residual");
    const Launch launch(x);
    const std::vector<int64_t> shape = shape_of(x);
    const std::vector<int64_t> lead(shape.begin(), shape.end() - o.norm_dims);
    const Tensor y = fresh(x, shape);
    const Tensor total = present(residual) ? fresh(*residual, shape) : none_like(x);
    const ScalarType stat = acc_dtype(x.scalar_type());
    const Tensor mean = centred ? fresh(x, lead, stat) : none_like(x);
    const Tensor rstd = fresh(x, lead, stat);
    const Rows in(x, o.norm_dims);
    const auto other =
        present(residual) ? std::optional(Rows(*residual, o.norm_dims)) : std::nullopt;
    with_native(x.scalar_type(), o.op, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = acc_t<T>;
        const auto params = norm_params<A>(o, in, weight, bias, x.scalar_type());
        if constexpr (!std::is_same_v<T, double>) {
            constexpr int N = kPack<T>;
            bool packs = in.packs(N) && (!other || (other->packs(N) && !is_double(*residual)));
            for (const auto& parameter : {weight, bias}) packs = packs && packs_of(parameter, N);
            NormForward<T> io{};
            io.x = data<const T>(in.tensor), io.x_rows = in.stride();
            io.y = data<T>(y), io.rstd = data<float>(rstd);
            if (other) {
                io.residual = Untyped(other->tensor);
                io.residual_rows = other->stride();
                io.total = Untyped(total);
                io.piped = residual->scalar_type() == x.scalar_type();
            }
            if (centred) io.mean = data<float>(mean);
            const auto run = [&](auto shape, auto fused) {
                using Shape = decltype(shape);
                const auto kernel = norm_forward_kernel<T, centred, fused, Shape>;
                const int parameters = centred ? int{present(weight)} + int{present(bias)} : 0;
                size_t shared = RowPipe<T, Shape>::bytes(io.piped ? 2 : 1, parameters);
                if (shared > launch.shared_limit()) {
                    io.piped = false;
                    shared = RowPipe<T, Shape>::bytes(1, parameters);
                }
                const int64_t grid =
                    std::min<int64_t>(launch.resident(kernel, Shape::block, shared),
                                      ceil_div<int64_t>(in.rows, Shape::rows));
                launch(kernel, dim3(static_cast<unsigned>(grid)), dim3(Shape::block), shared, io,
                       params);
            };
            const auto with_shape = [&](auto fused) {
                return with_row_shape(in.columns / N, [&](auto shape) { run(shape, fused); });
            };
            if (packs && with_fused(o, with_shape)) return;
        }
        const int64_t grid = std::min<int64_t>(in.rows, launch.processors() * 8);
        launch(norm_forward_plain<T, centred>, dim3(static_cast<unsigned>(grid)),
               dim3(kPlainThreads), 0, PlainRows(in), PlainRows(other), Untyped(total), data<T>(y),
               centred ? data<A>(mean) : nullptr, data<A>(rstd), params);
    });
    return {y, total, mean, rstd};
}

}  // namespace fusewright::cuda
