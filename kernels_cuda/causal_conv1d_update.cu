// One or more decoding steps of the causal convolution, on a state that is changed in place.

#include "causal_conv1d_filters.cuh"
#include "prototypes.h"

namespace fusewright::cuda {
namespace {

constexpr const char* kOp = "causal_conv1d_update";
constexpr int kUpdateThreads = 128;
constexpr int kUpdateChannels = 4;  // of a thread; eight of 16 bits would spill their filters

struct Update {
    int64_t batch, channels, steps, width, states, length;
    bool silu;
    Untyped weight, bias;  // dense
    Integers seqlens, indices;
    unsigned tiles;  // blocks an entry of the batch
};

// Runs f(entry, state) for the entry of this block. Entries that share a state run one after the
// other, in the block of the first. The state of an index that is not below `states` is -1, as
// nothing can be raised from here; a negative index's is too.
template <class F>
__device__ inline void for_entries(const Update& p, F&& f) {
    int64_t entry = blockIdx.x / p.tiles, state = entry;
    bool before = false, after = false;
    if (p.indices) {
        state = p.indices(entry);
        if (state < 0 || state >= p.states) {
            state = -1;
        } else {
            for (int64_t i = threadIdx.x; i < p.batch; i += kUpdateThreads) {
                if (i != entry && p.indices(i) == state) (i < entry ? before : after) = true;
            }
            if (__syncthreads_or(before)) return;
            after = __syncthreads_or(after);
        }
    }
    while (true) {
        f(entry, state);
        do {
            if (!after || ++entry >= p.batch) return;
        } while (p.indices(entry) != state);
    }
}

// What an entry without a state gets: 0, or NaN where its index is too large.
template <class A>
__device__ inline A no_output(const Update& p, int64_t entry) {
    return p.indices(entry) < 0 ? A(0) : A(NAN);
}

// Any width, number of steps, strides and dtypes: a thread a channel.
template <class T>
__global__ void __launch_bounds__(kUpdateThreads)
    causal_update_plain(View<const T> x, View<T> y, StatesView states, Update p) {
    using A = acc_t<T>;
    const int64_t d = int64_t{blockIdx.x % p.tiles} * kUpdateThreads + threadIdx.x;
    const int64_t history = p.width - 1;
    for_entries(p, [&](int64_t b, int64_t state) {
        if (d >= p.channels) return;
        if (state < 0) {
            for (int64_t t = 0; t < p.steps; ++t) {
                y.at(b, d, t) = from_acc<T>(no_output<A>(p, b));
            }
            return;
        }
        // the place in the state that the first input follows
        int64_t start = p.length;
        if (p.seqlens) start = (p.seqlens(b) % p.length + p.length) % p.length;
        const auto input = [&](int64_t t) {  // t from -history on
            if (t >= 0) return to_acc(x.at(b, d, t));
            const int64_t at = start + t;
            return states.load<A>(state, d, at < 0 ? at + p.length : at);
        };
        for (int64_t t = 0; t < p.steps; ++t) {
            A sum = p.bias ? load_one<A>(p.bias, d) : A(0);
            for (int64_t k = 0; k < p.width; ++k) {
                sum += load_one<A>(p.weight, d * p.width + k) * input(t + k - history);
            }
            y.at(b, d, t) = from_acc<T>(p.silu ? silu(sum) : sum);
        }
        if (p.seqlens) {
            for (int64_t t = 0; t < p.steps; ++t) {
                states.store(state, d, (start + t) % p.length, input(t));
            }
            return;
        }
        for (int64_t i = 0; i < p.length; ++i) {
            const int64_t from = i + p.steps;
            states.store(state, d, i,
                         from < p.length ? states.load<A>(state, d, from) : input(from - p.length));
        }
    });
}

// The packs of a warp's states: its lanes read and write neighbouring ones, and each works on its
// own L of them. The places are such that neither has many bank conflicts.
template <class T, int L>
struct StatePacks {
    using Packed = Pack<T, kUpdateChannels>;
    static constexpr int padding = L % 2 == 0 ? 4 * L : 0;
    Packed packs[32 * L + padding];

    __device__ Packed& operator[](int i) { return packs[padding > 0 ? i + i / 8 : i]; }
};

// One step of a few channels a thread, whose states of W - 1 or W inputs lie side by side; those of
// a circular buffer start anywhere.
template <class T, int W, int L>
__global__ void __launch_bounds__(kUpdateThreads, 6)
    causal_update_packed(View<const T> x, View<T> y, View<T> states, Update p) {
    constexpr int N = kUpdateChannels;
    using Packed = Pack<T, N>;
    __shared__ StatePacks<T, L> shared[kUpdateThreads / 32];
    StatePacks<T, L>& own = shared[threadIdx.x / 32];
    const int lane = threadIdx.x % 32;
    const int64_t d = (int64_t{blockIdx.x % p.tiles} * kUpdateThreads + threadIdx.x) * N;
    const int64_t d0 = d - lane * N;  // of the warp
    const bool active = d < p.channels;
    const int packs = static_cast<int>(max(min(p.channels - d0, int64_t{32 * N}), int64_t{0})) / N;
    for_entries(p, [&](int64_t b, int64_t state) {
        Packed result;
        if (state < 0) {
            if (!active) return;
#pragma unroll
            for (int j = 0; j < N; ++j) result[j] = T(no_output<float>(p, b));
            *reinterpret_cast<Packed*>(y.row(b, d)) = result;
            return;
        }
        Packed* at = reinterpret_cast<Packed*>(states.row(state, d0));
        Packed in, moved[L];
        if (active) in = *reinterpret_cast<const Packed*>(x.row(b, d));
#pragma unroll
        for (int i = 0; i < L; ++i) {
            if (i * 32 + lane < packs * L) moved[i] = at[i * 32 + lane];
        }
        Filters<W, N> travelling;
        if (active) travelling.load(p, d);
        fence(reinterpret_cast<Words<T, N>&>(in));
#pragma unroll
        for (int i = 0; i < L; ++i) own[i * 32 + lane] = moved[i];
        __syncwarp();
        T old[N][L];  // L packs
#pragma unroll
        for (int i = 0; i < L; ++i) {
            const Packed pack = own[lane * L + i];
#pragma unroll
            for (int j = 0; j < N; ++j) old[(i * N + j) / L][(i * N + j) % L] = pack[j];
        }
        __syncwarp();
        const auto step = [&](const auto& filter, const auto& bias, auto circular) {
            const int start = circular ? static_cast<int>((p.seqlens(b) % L + L) % L) : 0;
            const auto stored = [&](int j, int place) {  // from the oldest on
                if (!circular) return old[j][place];
                place += start;
                if (place >= L) place -= L;
                T value = old[j][0];
#pragma unroll
                for (int i = 1; i < L; ++i) value = i == place ? old[j][i] : value;
                return value;
            };
#pragma unroll
            for (int j = 0; j < N; ++j) {
                float sum = bias[j];
#pragma unroll
                for (int k = 0; k + 1 < W; ++k) {
                    sum = fmaf(filter[k][j], to_acc(stored(j, L - (W - 1) + k)), sum);
                }
                sum = fmaf(filter[W - 1][j], to_acc(in[j]), sum);
                result[j] = from_acc<T>(p.silu ? silu(sum) : sum);
            }
#pragma unroll
            for (int i = 0; i < L; ++i) {
                Packed pack;
#pragma unroll
                for (int j = 0; j < N; ++j) {
                    const int channel = (i * N + j) / L, place = (i * N + j) % L;
                    if (circular) {
                        pack[j] = place == start ? in[channel] : old[channel][place];
                    } else {
                        pack[j] = place + 1 < L ? old[channel][place + 1 < L ? place + 1 : 0]
                                                : in[channel];
                    }
                }
                own[lane * L + i] = pack;
            }
        };
        if (active) {
            travelling.with(p, [&](const auto& filter, const auto& bias) {
                p.seqlens ? step(filter, bias, std::true_type{})
                          : step(filter, bias, std::false_type{});
            });
            *reinterpret_cast<Packed*>(y.row(b, d)) = result;
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < L; ++i) {
            if (i * 32 + lane < packs * L) at[i * 32 + lane] = own[i * 32 + lane];
        }
        __syncwarp();
    });
}

// Calls f with the width and the length of the states of the packed kernel; false where it has
// none.
template <class F>
bool with_lengths(int64_t width, int64_t length, F&& f) {
    const auto of_width = [&](auto w) {
        constexpr int W = decltype(w)::value;
        if (length == W - 1) return f(w, std::integral_constant<int, W - 1>{}), true;
        if (length == W) return f(w, w), true;
        return false;
    };
    if (width == 2) return of_width(std::integral_constant<int, 2>{});
    if (width == 3) return of_width(std::integral_constant<int, 3>{});
    if (width == 4) return of_width(std::integral_constant<int, 4>{});
    return false;
}

bool integers_of(const std::optional<Tensor>& t, int64_t n) {
    return !present(t) || (t->dim() == 1 && t->numel() == n);
}

}  // namespace
}  // namespace fusewright::cuda

namespace k = fusewright::cuda;
using torch::stable::Tensor;

Tensor k::causal_conv1d_update(const Tensor& x, const Tensor& conv_state,
                               const Tensor& given_weight, const std::optional<Tensor>& given_bias,
                               const std::optional<Tensor>& cache_seqlens,
                               const std::optional<Tensor>& conv_state_indices, bool use_silu) {
    FW_CHECK(x.dim() == 3 && conv_state.dim() == 3 && given_weight.dim() == 2, kOp,
             "x and conv_state must have 3 dimensions and weight 2");
    const Launch launch(x);
    const Tensor weight = as_contiguous(given_weight);
    const auto bias = as_contiguous(given_bias);
    Update p{x.size(0),
             x.size(1),
             x.size(2),
             weight.size(1),
             conv_state.size(0),
             conv_state.size(2),
             use_silu,
             Untyped(weight),
             Untyped(bias),
             Integers(cache_seqlens),
             Integers(conv_state_indices),
             0};
    FW_CHECK(p.width > 0 && weight.size(0) == p.channels && conv_state.size(1) == p.channels &&
                 p.length >= p.width - 1 && p.length > 0,
             kOp, "conv_state must be (states, ", p.channels, ", length >= ", p.width - 1, ")");
    FW_CHECK(present(conv_state_indices) || p.states == p.batch, kOp, "conv_state has ", p.states,
             " states, must have ", p.batch, " as x without conv_state_indices");
    FW_CHECK(!present(bias) || bias->numel() == p.channels, kOp, "bias must be (channels,)");
    FW_CHECK(integers_of(cache_seqlens, p.batch) && integers_of(conv_state_indices, p.batch), kOp,
             "cache_seqlens and conv_state_indices must be (batch,)");
    Tensor y = fresh_like(x);
    if (x.numel() == 0) return y;
    const auto grid = [&](int64_t channels) {  // of a block
        const int64_t tiles = ceil_div(p.channels, channels);
        FW_CHECK(tiles * p.batch < int64_t{1} << 31, kOp, "x has too many elements for one launch");
        p.tiles = static_cast<unsigned>(tiles);
        return dim3(static_cast<unsigned>(tiles * p.batch));
    };
    const auto strided = [](const Tensor& t, int64_t d, int64_t pack) {
        return t.stride(1) == d && (t.size(0) <= 1 || t.stride(0) % pack == 0) &&
               aligned(t.data_ptr(), 16);
    };
    with_native(x.scalar_type(), kOp, [&](auto type) {
        using T = typename decltype(type)::type;
        if constexpr (!std::is_same_v<T, double>) {
            constexpr int N = kUpdateChannels;
            const bool packs = p.steps == 1 && p.channels % N == 0 &&
                               has_elements(p.weight, p.bias) &&
                               conv_state.scalar_type() == x.scalar_type() && strided(x, 1, N) &&
                               strided(y, 1, N) && strided(conv_state, p.length, N) &&
                               (p.length == 1 || conv_state.stride(2) == 1);
            if (packs && with_lengths(p.width, p.length, [&](auto w, auto l) {
                    const dim3 blocks = grid(int64_t{kUpdateThreads} * N);
                    launch(causal_update_packed<T, decltype(w)::value, decltype(l)::value>, blocks,
                           dim3(kUpdateThreads), 0, View<const T>(x), View<T>(y),
                           View<T>(conv_state), p);
                })) {
                return;
            }
        }
        const dim3 blocks = grid(kUpdateThreads);
        launch(causal_update_plain<T>, blocks, dim3(kUpdateThreads), 0, View<const T>(x),
               View<T>(y), StatesView(std::optional(conv_state)), p);
    });
    return y;
}
