// Causal depthwise 1D convolution: kernels for contiguous time and for contiguous channels, and one
// for everything else.

#include "causal_conv1d_plain.cuh"
#include "causal_conv1d_whole.cuh"
#include "prototypes.h"

namespace fusewright::cuda {
namespace {

enum class Layout { rows, channels, neither };

bool inside(const Tensor& t, int64_t dim) { return t.size(dim) <= 1 || t.stride(dim) == 1; }

bool has_layout(const Tensor& t, Layout layout) {
    return layout == Layout::rows ? inside(t, 2) : layout == Layout::channels && inside(t, 1);
}

// The layout of two tensors of one shape that the fast kernels can take.
Layout layout_of(const Causal& p, const Tensor& x, const Tensor& y) {
    constexpr int64_t most = int64_t{1} << 31;  // what the fast kernels count in 32 bits
    if (p.width < 2 || p.width > 4 || p.length == 0) return Layout::neither;
    if (p.batch * p.channels >= most || p.length >= most / 2) return Layout::neither;
    for (const Layout layout : {Layout::rows, Layout::channels}) {
        if (layout == Layout::rows && p.length < kBefore) continue;
        if (has_layout(x, layout) && has_layout(y, layout)) return layout;
    }
    return Layout::neither;
}

// Whether every run of `pack` elements along dimension `inner` is aligned and whole.
bool packs_of(const Tensor& t, int64_t inner, int pack) {
    for (int64_t dim = 0; dim < 3; ++dim) {
        if (dim != inner && t.size(dim) > 1 && t.stride(dim) % pack != 0) return false;
    }
    return t.size(inner) % pack == 0 && aligned(t.data_ptr(), pack * t.element_size());
}

// Whether the rows of x and y, which are long, lie alike to packs.
bool rows_alike(const Tensor& x, const Tensor& y, int pack) {
    if (x.size(2) < 32 * pack) return false;  // a warp has several rows
    for (int64_t dim = 0; dim < 2; ++dim) {
        if (x.size(dim) > 1 && (x.stride(dim) - y.stride(dim)) % pack != 0) return false;
    }
    const auto offset = [](const Tensor& t) {
        return reinterpret_cast<uintptr_t>(t.data_ptr()) % 16;
    };
    return offset(x) == offset(y) && offset(x) % x.element_size() == 0;
}

int64_t power_of_two(int64_t n, int64_t most) {
    int64_t power = 1;
    while (power < n && power < most) power *= 2;
    return power;
}

int log_of(int power) {
    int log = 0;
    while (1 << log < power) ++log;
    return log;
}

// A call, with what its kernels read kept alive.
struct Call {
    Tensor weight;
    std::optional<Tensor> bias, taps;
    Causal p;
};

Call call_of(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
             const std::optional<Tensor>& seq_idx, const std::optional<Tensor>& initial_states,
             bool silu) {
    FW_CHECK(x.dim() == 3 && weight.dim() == 2 && weight.size(0) == x.size(1) && weight.size(1) > 0,
             kCausal, "x must be (batch, channels, length) and weight (channels, width)");
    FW_CHECK(!present(bias) || (bias->dim() == 1 && bias->numel() == x.size(1)), kCausal,
             "bias must be (channels,)");
    FW_CHECK(!present(seq_idx) || (seq_idx->dim() == 2 && seq_idx->size(0) == x.size(0) &&
                                   seq_idx->size(1) == x.size(2)),
             kCausal, "seq_idx must be (batch, length)");
    Call call{as_contiguous(weight), as_contiguous(bias), std::nullopt, {}};
    Causal& p = call.p;
    p.batch = x.size(0), p.channels = x.size(1), p.length = x.size(2), p.width = weight.size(1);
    p.silu = silu;
    p.weight = Untyped(call.weight);
    p.packed_weight = aligned(call.weight.data_ptr(), 16);
    p.bias = Untyped(call.bias);
    p.ids = Integers(seq_idx);
    const auto is_state = [&](const std::optional<Tensor>& t) {
        return !present(t) || (t->dim() == 3 && t->size(0) == p.batch && t->size(1) == p.channels &&
                               t->size(2) == p.width - 1);
    };
    FW_CHECK(is_state(initial_states), kCausal,
             "initial_states must be (batch, channels, width - 1)");
    p.states = StatesView(initial_states);
    return call;
}

void find_taps(const Launch& launch, const Tensor& x, Call& call) {
    Causal& p = call.p;
    if (!p.ids || p.batch == 0) return;
    call.taps = fresh(x, {p.batch * p.length}, ScalarType::Byte);
    launch(causal_taps<uint8_t>, dim3(plain_blocks(p.batch * p.length)), dim3(kPlainThreads), 0, p,
           data<uint8_t>(call.taps));
    p.taps = data<uint8_t>(call.taps);
}

// Calls f with the element type, the width and the form of the kernel.
template <class F>
void with_kernel(ScalarType dtype, int64_t width, Form form, F&& f) {
    with_native(dtype, kCausal, [&](auto type) {
        if constexpr (!std::is_same_v<typename decltype(type)::type, double>) {
            const auto of_width = [&](auto w) {
                if (form == Form::whole) f(type, w, std::integral_constant<Form, Form::whole>{});
                if (form == Form::seen) f(type, w, std::integral_constant<Form, Form::seen>{});
                if (form == Form::any) f(type, w, std::integral_constant<Form, Form::any>{});
            };
            if (width == 2) of_width(std::integral_constant<int, 2>{});
            if (width == 3) of_width(std::integral_constant<int, 3>{});
            if (width == 4) of_width(std::integral_constant<int, 4>{});
        }
    });
}

unsigned blocks_of(int64_t n) {
    FW_CHECK(n < int64_t{1} << 31, kCausal, "x has too many elements for one launch");
    return static_cast<unsigned>(n);
}

int pack_of(const Tensor& x) { return static_cast<int>(16 / x.element_size()); }

// The length of a row, with what may stand before its first token in the first pack.
int64_t row_length(const Causal& p, int pack, Form form, bool packed) {
    return p.length + (form == Form::any && packed ? pack - 1 : 0);
}

RowGrid forward_rows_grid(const Causal& p, int pack, Form form, bool packed) {
    const int64_t length = row_length(p, pack, form, packed);
    const int64_t packs = ceil_div<int64_t>(length, pack);
    const auto lanes = static_cast<int>(
        std::max<int64_t>(power_of_two(ceil_div<int64_t>(packs, kRowPacks), kRowThreads), 8));
    const int64_t stride = int64_t{lanes} * pack * kRowPacks;
    return {log_of(lanes), ceil_div(length, stride), stride, packed};
}

// Enough warps for a few waves, none with a piece of less than four steps, and few parts to add up:
// one where the blocks, one a channel, are a few waves already.
RowGrid backward_rows_grid(const Causal& p, int pack, Form form, bool packed, int64_t processors) {
    const int64_t length = row_length(p, pack, form, packed);
    const auto lanes =
        static_cast<int>(std::max<int64_t>(power_of_two(ceil_div<int64_t>(length, pack), 32), 4));
    const int64_t step = int64_t{lanes} * pack, columns = ceil_div<int64_t>(p.channels, 32 / lanes);
    const int64_t waves = pack == 4 ? 512 : 64;  // fp32's are longer
    const int64_t wanted = std::max<int64_t>(processors * waves / columns, kRowWarps);
    const int64_t pieces =
        std::clamp<int64_t>(ceil_div(wanted, p.batch), 1, ceil_div(length, step * 4));
    const int64_t stride = ceil_div(ceil_div(length, pieces), step) * step;
    const int64_t items = p.batch * ceil_div(length, stride);
    return {log_of(lanes), ceil_div<int64_t>(std::min(items, wanted), kRowWarps), stride, packed};
}

ChannelGrid channel_grid(const Causal& p, int pack, bool packed, int64_t blocks, int64_t shortest,
                         bool all_parts) {
    const int64_t packs = ceil_div<int64_t>(p.channels, pack);
    const auto lanes = static_cast<int>(power_of_two(packs, kChannelThreads));
    const auto tiles = static_cast<unsigned>(ceil_div<int64_t>(packs, lanes));
    const int64_t slots = std::max<int64_t>(1, blocks * (kChannelThreads / lanes) / tiles);
    const int64_t pieces = std::max<int64_t>(1, slots / p.batch);
    const int64_t length = std::max(ceil_div(p.length, pieces), shortest);
    const int64_t covering = ceil_div(p.length, length), parts = p.batch * covering;
    return {
        lanes,  tiles, static_cast<unsigned>(covering), all_parts ? parts : std::min(parts, slots),
        length, packed};
}

// The form of the kernel for packs that are whole, or not. For the kernels of the common form rows
// must be long enough, what they stand on few enough for a grid, and filters aligned and not
// doubles.
Form kernel_form(const Causal& p, bool rows, bool whole, int pack) {
    if (!whole) return Form::any;
    constexpr int64_t most = 1 << 16;
    const bool grid =
        rows ? p.length >= 64 * pack && std::max(p.batch, p.channels) < most
             : std::max(p.batch, ceil_div<int64_t>(p.length, kWholeTokens<float>)) < most;
    return p.taps == nullptr && grid && has_elements(p.weight, p.bias) ? Form::whole : Form::seen;
}

unsigned channel_blocks(const ChannelGrid& g) {
    return blocks_of(ceil_div<int64_t>(g.parts, kChannelThreads / g.lanes) * g.tiles);
}

void forward(const Launch& launch, Call& call, const Tensor& x, const Tensor& y) {
    Causal& p = call.p;
    const Layout layout = layout_of(p, x, y);
    if (x.scalar_type() == ScalarType::Double || layout == Layout::neither) {
        with_native(x.scalar_type(), kCausal, [&](auto type) {
            using T = typename decltype(type)::type;
            launch(causal_forward_plain<T>, dim3(plain_blocks(x.numel())), dim3(kPlainThreads), 0,
                   View<const T>(x), View<T>(y), p);
        });
        return;
    }
    find_taps(launch, x, call);
    const bool rows = layout == Layout::rows;
    const int pack = rows ? pack_of(x) : pack_of(x) / 2;
    const int64_t inner = rows ? 2 : 1;
    const bool whole = packs_of(x, inner, pack) && packs_of(y, inner, pack);
    const bool packed = whole || (rows && rows_alike(x, y, pack));
    const Form form = kernel_form(p, rows, whole, pack);
    with_kernel(x.scalar_type(), p.width, form, [&](auto type, auto w, auto form_of) {
        using T = typename decltype(type)::type;
        constexpr int W = decltype(w)::value;
        constexpr Form kForm = decltype(form_of)::value;
        if constexpr (kForm == Form::whole) {
            if (rows) {
                const int64_t packs = p.length / pack, each = kRowThreads * kWholePacks;
                const int64_t parts = ceil_div(packs, each);
                const int64_t warps = ceil_div<int64_t>(packs, parts * kWholePacks * 32);
                const dim3 blocks(blocks_of(parts), static_cast<unsigned>(p.channels),
                                  static_cast<unsigned>(p.batch));
                launch(causal_whole_rows_forward<T, W>, blocks,
                       dim3(static_cast<unsigned>(warps * 32)), 0, View<const T>(x), View<T>(y), p);
            } else {
                const int64_t packs = p.channels / pack;
                const int log_lanes =
                    log_of(static_cast<int>(power_of_two(packs, kChannelThreads)));
                const int64_t tokens = kWholeTokens<T> * (kChannelThreads >> log_lanes);
                const dim3 blocks(blocks_of(ceil_div<int64_t>(packs, int64_t{1} << log_lanes)),
                                  static_cast<unsigned>(ceil_div(p.length, tokens)),
                                  static_cast<unsigned>(p.batch));
                launch(causal_whole_channels_forward<T, W>, blocks, dim3(kChannelThreads), 0,
                       View<const T>(x), View<T>(y), p, log_lanes);
            }
        } else if (rows) {
            const RowGrid grid = forward_rows_grid(p, pack, form, packed);
            const int64_t groups =
                ceil_div<int64_t>(p.batch * p.channels, kRowThreads / grid.lanes());
            launch(causal_rows_forward<T, W, kForm>, dim3(blocks_of(groups * grid.parts)),
                   dim3(kRowThreads), 0, View<const T>(x), View<T>(y), p, grid);
        } else {
            const ChannelGrid grid =
                channel_grid(p, pack, packed, launch.processors() * 48, 16, true);
            launch(causal_channels_forward<T, W, kForm>, dim3(channel_blocks(grid)),
                   dim3(kChannelThreads), 0, View<const T>(x), View<T>(y), p, grid);
        }
    });
}

struct Gradients {
    Tensor x, weight, bias, initial;
    bool of_x = false, of_weight = false, of_bias = false, of_initial = false;

    bool parameters() const { return of_weight || of_bias; }
};

ParameterGradients total_of(const Gradients& to) {
    ParameterGradients total;
    if (to.of_weight) {
        total.weight = Untyped(to.weight);
        total.d = to.weight.stride(0), total.k = to.weight.stride(1);
    }
    if (to.of_bias) total.bias = Untyped(to.bias), total.bias_d = to.bias.stride(0);
    return total;
}

template <class A>
void add_sums(const Launch& launch, const Causal& p, const Tensor& partial, int64_t parts,
              const Gradients& to) {
    const int64_t columns = (p.width + 1) * p.channels;
    launch.early(causal_sums<A>, dim3(blocks_of(ceil_div<int64_t>(columns, kSumLanes))),
                 dim3(kSumLanes, kSumParts), 0, data<const A>(partial), parts, p.channels, p.width,
                 total_of(to));
}

template <class T>
CausalBackward<T> backward_of(const Tensor& x, const std::optional<Tensor>& dy,
                              const std::optional<Tensor>& dfinal, const Gradients& to) {
    CausalBackward<T> io{
        View<const T>(x), View<const T>(dy), {}, StatesView(dfinal), {}, nullptr, {}};
    if (to.of_x) io.dx = View<T>(to.x);
    if (to.of_initial) io.dinitial = StatesView(std::optional(to.initial));
    return io;
}

void backward_plain(const Launch& launch, const Causal& p, const Tensor& x,
                    const std::optional<Tensor>& dy, const std::optional<Tensor>& dfinal,
                    const Gradients& to) {
    with_native(x.scalar_type(), kCausal, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = acc_t<T>;
        CausalBackward<T> io = backward_of<T>(x, dy, dfinal, to);
        if (to.of_x || to.of_initial) {
            launch(causal_inputs_plain<T>,
                   dim3(plain_blocks(p.batch * p.channels * (p.length + p.width - 1))),
                   dim3(kPlainThreads), 0, io, p);
        }
        if (!to.parameters() || p.channels == 0) return;
        const int64_t parts = std::clamp<int64_t>(p.batch * p.length / (8 * kPlainThreads), 1, 256);
        const Tensor partial =
            fresh(x, {parts * (p.width + 1) * p.channels}, acc_dtype(x.scalar_type()));
        io.partial = data<A>(partial);
        launch(causal_parameters_plain<T>,
               dim3(blocks_of(p.channels), static_cast<unsigned>(parts),
                    static_cast<unsigned>(ceil_div<int64_t>(p.width, kPlainTaps))),
               dim3(kPlainThreads), 0, io, p);
        add_sums<A>(launch, p, partial, parts, to);
    });
}

void backward(const Launch& launch, Call& call, const Tensor& x,
              const std::optional<Tensor>& grad_y, const std::optional<Tensor>& dfinal,
              const Gradients& to) {
    Causal& p = call.p;
    const Layout layout = layout_of(p, x, to.of_x ? to.x : x);
    if (x.scalar_type() == ScalarType::Double || layout == Layout::neither || !present(grad_y) ||
        p.batch * p.channels == 0) {
        return backward_plain(launch, p, x, grad_y, dfinal, to);
    }
    Tensor dy = *grad_y;
    if (!has_layout(dy, layout)) {  // often a sum's, with strides of 0
        dy = fresh_like(x);
        torch::stable::copy_(dy, *grad_y);
        if (!has_layout(dy, layout)) return backward_plain(launch, p, x, grad_y, dfinal, to);
    }
    find_taps(launch, x, call);
    const bool rows = layout == Layout::rows;
    const int pack = rows ? pack_of(x) : pack_of(x) / 2;
    const int64_t inner = rows ? 2 : 1;
    const bool whole = packs_of(x, inner, pack) && packs_of(dy, inner, pack) &&
                       (!to.of_x || packs_of(to.x, inner, pack));
    const bool packed =
        whole || (rows && rows_alike(x, dy, pack) && (!to.of_x || rows_alike(x, to.x, pack)));
    const Form form = kernel_form(p, rows, whole, pack);
    with_kernel(x.scalar_type(), p.width, form, [&](auto type, auto w, auto form_of) {
        using T = typename decltype(type)::type;
        constexpr int W = decltype(w)::value;
        constexpr Form kForm = decltype(form_of)::value;
        CausalBackward<T> io = backward_of<T>(x, dy, dfinal, to);
        Tensor partial;
        const auto make_room = [&](int64_t parts) {
            if (!to.parameters()) return;
            if (rows && parts == 1) {
                io.total = total_of(to);
                return;
            }
            partial = fresh(x, {parts * (W + 1) * p.channels}, ScalarType::Float);
            io.partial = data<float>(partial);
        };
        int64_t parts = 0;
        if (!rows) {
            const int64_t blocks = launch.processors() * kBackwardBlocks<kForm>;  // one wave
            const ChannelGrid grid = channel_grid(p, pack, packed, blocks, 16, false);
            make_room(parts = channel_blocks(grid) / grid.tiles);
            launch(causal_channels_backward<T, W, kForm>, dim3(channel_blocks(grid)),
                   dim3(kChannelThreads), 0, io, p, grid);
        } else if constexpr (kForm == Form::whole) {
            const int64_t row_items = ceil_div<int64_t>(p.length, 32 * kWholeItem * pack);
            const int64_t items = p.batch * row_items, warps = items < 2 * kWholeWarps ? 4 : 8;
            const int64_t wanted = launch.processors() * 64 / (p.channels * warps);
            make_room(parts = std::clamp<int64_t>(wanted, 1, ceil_div(items, warps)));
            const dim3 blocks(static_cast<unsigned>(p.channels), static_cast<unsigned>(parts));
            launch(causal_whole_rows_backward<T, W>, blocks,
                   dim3(static_cast<unsigned>(warps * 32)), 0, io, p,
                   static_cast<unsigned>(row_items));
        } else {
            const RowGrid grid = backward_rows_grid(p, pack, form, packed, launch.processors());
            make_room(parts = grid.parts);
            const int64_t blocks = grid.parts * ceil_div<int64_t>(p.channels, 32 / grid.lanes());
            launch(causal_rows_backward<T, W, kForm>, dim3(blocks_of(blocks)), dim3(kRowThreads), 0,
                   io, p, grid);
        }
        if (io.partial != nullptr) add_sums<float>(launch, p, partial, parts, to);
        if (io.dinitial || io.dfinal) {
            const int64_t places = 2 * (p.width - 1);
            launch(causal_states_backward<T>, dim3(plain_blocks(p.batch * p.channels * places)),
                   dim3(kPlainThreads), 0, io, p);
        }
    });
}

}  // namespace
}  // namespace fusewright::cuda

namespace k = fusewright::cuda;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor> k::causal_conv1d(const Tensor& x, const Tensor& weight,
                                            const std::optional<Tensor>& bias,
                                            const std::optional<Tensor>& seq_idx,
                                            const std::optional<Tensor>& initial_states, bool silu,
                                            bool return_final_states) {
    const Launch launch(x);
    Call call = call_of(x, weight, bias, seq_idx, initial_states, silu);
    const Causal& p = call.p;
    Tensor y = fresh_like(x);
    if (x.numel() > 0) forward(launch, call, x, y);
    if (!return_final_states) return {y, none_like(x)};
    Tensor final_states = fresh(x, {p.batch, p.channels, p.width - 1});
    with_native(x.scalar_type(), kCausal, [&](auto type) {
        using T = typename decltype(type)::type;
        launch(causal_final_states<T>, dim3(plain_blocks(final_states.numel())),
               dim3(kPlainThreads), 0, View<const T>(x), data<T>(final_states), p);
    });
    return {y, final_states};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> k::causal_conv1d_backward(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_final_states,
    const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& seq_idx, const std::optional<Tensor>& initial_states, bool silu,
    int64_t needs) {
    const Launch launch(x);
    Call call = call_of(x, weight, bias, seq_idx, initial_states, silu);
    const Causal& p = call.p;
    FW_CHECK(!present(grad_y) || (grad_y->dim() == 3 && grad_y->size(0) == p.batch &&
                                  grad_y->size(1) == p.channels && grad_y->size(2) == p.length),
             kCausal, "grad_y must have the shape of x");
    FW_CHECK(
        !present(grad_final_states) ||
            (grad_final_states->dim() == 3 && grad_final_states->size(0) == p.batch &&
             grad_final_states->size(1) == p.channels && grad_final_states->size(2) == p.width - 1),
        kCausal, "grad_final_states must be (batch, channels, width - 1)");
    Gradients to;
    const auto make = [&](int bit, const std::optional<Tensor>& like, bool& wanted) {
        wanted = (needs >> bit & 1) && present(like);
        return wanted ? fresh_like(*like) : none_like(x);
    };
    to.x = make(0, x, to.of_x);
    to.weight = make(1, weight, to.of_weight);
    to.bias = make(2, bias, to.of_bias);
    to.initial = make(3, initial_states, to.of_initial);
    const auto dy = in_dtype(grad_y, x.scalar_type());
    backward(launch, call, x, dy, grad_final_states, to);
    return {to.x, to.weight, to.bias, to.initial};
}
