// How many threads each kernel gets, and which path a call takes: all of it follows from sizes
// alone. Plain C++, for the Objective-C++ host and for the emulator that tests the kernels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "args.h"

// A dispatchThreadgroups: threadgroups, threads in each, and the bytes of the threadgroup memory at
// index 0, for which setThreadgroupMemoryLength is called where they are not 0.
struct FwDispatch {
    int64_t groups[3], threads[3], threadgroup_bytes;
};

namespace fusewright::metal {

constexpr int64_t kThreads = 256, kMostGroups = 65535;
constexpr int64_t kThreadgroupBytes = 32768;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t to) { return ceil_div(a, to) * to; }

// Threads for inner x middle x outer elements: one each along the inner two. Kernels stride over
// what passes the limit of groups.
inline FwDispatch over(int64_t inner, int64_t middle, int64_t outer, int64_t threads = kThreads) {
    int64_t wide = 1;
    while (wide < threads && wide < inner) wide *= 2;
    const int64_t high = threads / wide;
    return {{ceil_div(inner, wide), std::min(ceil_div(middle, high), kMostGroups),
             std::min(outer, kMostGroups)},
            {wide, high, 1},
            0};
}

// haar1d, ihaar1d, haar2d, ihaar2d and wtconv*_low: a thread has a block of 2x2 pixels, of 2 in 1D.
inline FwDispatch haar_dispatch(const FwHaarArgs& a) {
    return over(ceil_div(a.width, 2), ceil_div(a.height, 2), a.planes);
}

// ---- causal convolutions --------------------------------------------------------------------

constexpr int64_t kCausalTokens = 4;  // of a thread
constexpr int64_t kCausalTaps = 4;    // of a threadgroup that sums the filters' gradient
constexpr int64_t kCausalLanes = 32;  // channels beside each other in it

inline FwDispatch causal_grid(const FwCausalArgs& a, int64_t tokens) {
    const int64_t runs = ceil_div(tokens, kCausalTokens);
    return a.channels_inside ? over(a.channels, runs, a.batch) : over(runs, a.channels, a.batch);
}

// The tokens, and behind them the final states where they are asked for.
inline FwDispatch causal_forward_dispatch(const FwCausalArgs& a) {
    return causal_grid(a, a.length + (a.final_states_dtype == FW_NONE ? 0 : a.width - 1));
}

// The initial states where their gradient is asked for, and behind them the tokens.
inline FwDispatch causal_backward_input_dispatch(const FwCausalArgs& a) {
    return causal_grid(a, a.length + (a.grad_initial_dtype == FW_NONE ? 0 : a.width - 1));
}

// For FwCausalArgs::parts; the partial sums are (parts, width + 1, channels) floats.
inline int64_t causal_parts(int64_t batch, int64_t length) {
    return std::clamp<int64_t>(ceil_div(batch * length, 2048), 1, 64);
}

inline FwDispatch causal_backward_parameters_dispatch(const FwCausalArgs& a) {
    const int64_t lanes = a.channels_inside ? kCausalLanes : 1;
    return {{ceil_div(a.channels, lanes), ceil_div(a.width, kCausalTaps), a.parts},
            {kThreads, 1, 1},
            kThreads * (kCausalTaps + 1) * 4};
}

inline FwDispatch causal_backward_sum_dispatch(const FwCausalArgs& a) {
    return over(a.channels, a.width + 1, 1);
}

// No thread may run before another of its state's: a thread has a channel, and all steps.
inline FwDispatch causal_update_dispatch(const FwCausalUpdateArgs& a) {
    return over(a.channels, 1, a.batch, 64);
}

inline FwDispatch varlen_forward_dispatch(const FwVarlenArgs& a) {
    return over(a.channels, a.state_len, a.sequences);
}

inline FwDispatch varlen_backward_dispatch(const FwVarlenArgs& a) {
    return over(a.channels, a.total, 1);
}

// ---- norms ----------------------------------------------------------------------------------

// A threadgroup has a row; norm.h keeps up to eight elements of it in a thread's registers.
inline FwDispatch norm_dispatch(const FwNormArgs& a) {
    const int64_t threads = std::clamp<int64_t>(round_up(ceil_div(a.columns, 8), 32), 32, 1024);
    return {{std::min(a.rows, kMostGroups), 1, 1}, {threads, 1, 1}, 32 * 4};
}

// For FwNormArgs::parts; the partial sums are (parts, 2, columns) floats, weight's then bias's.
inline int64_t norm_parts(int64_t rows) { return std::clamp<int64_t>(rows / 32, 1, 128); }

inline FwDispatch norm_backward_parameters_dispatch(const FwNormArgs& a) {
    return {{ceil_div(a.columns, kThreads), a.parts, 1}, {kThreads, 1, 1}, 0};
}

inline FwDispatch norm_backward_sum_dispatch(const FwNormArgs& a) {
    return {{ceil_div(a.columns, kThreads), 1, 1}, {kThreads, 1, 1}, 0};
}

// ---- wavelet convolutions -------------------------------------------------------------------

// One dispatch of a wavelet convolution: `args.levels` levels on an image of args.n, channels,
// height and width. Step 0's image is x. That of step k is the low band of step k - 1's, which
// wtconv*_low makes of it, dense floats; its result, dense floats of the image's size, is the
// tensor `deeper` of step k - 1. So with one step, the usual case, there is one dispatch; with
// more, the low bands come first, in their order, and then the steps from the last one to the
// first.
struct WtStep {
    FwWtArgs args;
    FwDispatch dispatch;
    int from;          // the parameters of levels from, ..., from + args.levels - 1 are bound
    int64_t partials;  // floats of the filters' partial sums, for the backward
};

struct WtShape {
    int dims;
    int64_t n, channels, height, width;  // a height of 1 in one dimension
    int64_t kernel;
    int levels;
};

constexpr int64_t wt_taps(int dims, int64_t kernel) { return dims == 2 ? kernel * kernel : kernel; }

inline int64_t wt_filters(const FwWtArgs& a, int dims) {
    return a.base + (int64_t{a.levels} << dims);
}

// Lays out the levels of a region of h x w in threadgroup memory, which is for `group` images, and
// behind them the filters unless they are what is computed. Whether all of it fits.
inline bool wt_lay_out(FwWtArgs& a, int dims, int64_t h, int64_t w, bool correlate) {
    constexpr int64_t most = kThreadgroupBytes / 4;
    const int64_t filters = correlate ? 0 : wt_filters(a, dims) * wt_taps(dims, a.kernel_size) + 1;
    if (h > most || w > most || h * w > most) return false;
    int64_t at = 0;
    for (int l = 0; l < std::max(a.levels, 1); ++l) {
        FwWtLevel& level = a.level[l];
        level.height = static_cast<int32_t>(h), level.width = static_cast<int32_t>(w);
        level.row = static_cast<int32_t>(round_up(w, 2));
        level.rows = static_cast<int32_t>(dims == 2 ? round_up(h, 2) : 1);
        const int64_t floats = int64_t{level.row} * level.rows;
        level.low = static_cast<int32_t>(at);
        level.recon = static_cast<int32_t>(at + (l > 0 ? floats : 0));
        at = level.recon + floats;
        h = dims == 2 ? ceil_div(h, 2) : 1, w = ceil_div(w, 2);
    }
    if (a.group * at + filters > most) return false;
    a.image = static_cast<int32_t>(at);
    a.weights = static_cast<int32_t>(a.group * at);
    return true;
}

// The step for as many of `levels` as one dispatch serves: all of them where the plane fits, or
// one. A plane that does not fit is cut into tiles, each with a halo; a filter that is too large
// for that reads x where it lies.
inline WtStep wt_step(const WtShape& s, int levels, bool base, bool flipped, bool correlate) {
    WtStep step{};
    FwWtArgs& a = step.args;
    a.n = s.n, a.channels = s.channels, a.height = s.height, a.width = s.width;
    a.kernel_size = static_cast<int32_t>(s.kernel), a.levels = levels;
    a.base = base, a.flipped = flipped, a.staged = 1, a.group = 1;
    const bool flat = s.dims == 1;
    const auto blocks = [&] { return ceil_div(a.tile_h, 2) * ceil_div(a.tile_w, 2); };
    bool fits = levels <= FW_WT_LEVELS && wt_lay_out(a, s.dims, s.height, s.width, correlate);
    if (fits) {
        a.tile_h = static_cast<int32_t>(s.height), a.tile_w = static_cast<int32_t>(s.width);
        // as many images, a power of two, as keep the threads busy in half of the memory
        while (a.group * 2 <= s.n && a.group * blocks() < kThreads &&
               a.group * 2 * int64_t{a.image} <= kThreadgroupBytes / 8) {
            a.group *= 2;
        }
        fits = wt_lay_out(a, s.dims, s.height, s.width, correlate);
    }
    if (!fits) {
        a.levels = std::min(levels, 1), a.group = 1;
        const int64_t reach = s.kernel / 2, halo = levels > 0 ? 2 * reach : round_up(reach, 2);
        a.halo_h = static_cast<int32_t>(flat ? 0 : halo), a.halo_w = static_cast<int32_t>(halo);
        const int64_t least = flat ? 64 : 8;
        for (int64_t size = flat ? 2048 : 64; size >= least && !fits; size /= 2) {
            a.tile_h = static_cast<int32_t>(flat ? 1 : std::min(size, round_up(s.height, 2)));
            a.tile_w = static_cast<int32_t>(std::min(size, round_up(s.width, 2)));
            fits =
                wt_lay_out(a, s.dims, a.tile_h + 2 * a.halo_h, a.tile_w + 2 * a.halo_w, correlate);
        }
    }
    if (!fits) {
        a.staged = 0, a.halo_h = a.halo_w = 0, a.image = a.weights = 0;
        a.tile_h = flat ? 1 : 32, a.tile_w = flat ? 512 : 32;
    }
    a.tiles_h = static_cast<int32_t>(ceil_div(s.height, std::max(a.tile_h, 1)));
    a.tiles_w = static_cast<int32_t>(ceil_div(s.width, std::max(a.tile_w, 1)));
    a.groups = ceil_div(s.n, a.group);
    const int64_t tiles = int64_t{a.tiles_h} * a.tiles_w, taps = wt_taps(s.dims, s.kernel);
    const int64_t filters = wt_filters(a, s.dims);
    FwDispatch& d = step.dispatch;
    d = {{s.channels * tiles * a.groups, 1, 1}, {kThreads, 1, 1}, 0};
    int64_t floats = a.staged ? a.weights : 0;
    if (correlate) {
        // enough threadgroups to fill the device, each with a fixed share of the regions
        const int64_t most = std::max<int64_t>(1, 1024 / std::max<int64_t>(1, s.channels));
        a.chunks = std::clamp<int64_t>(tiles * a.groups, 1, most);
        d.groups[0] = s.channels * a.chunks;
        step.partials = a.chunks * s.channels * (filters * taps + 1);
    } else {
        d.threads[0] = std::clamp<int64_t>(round_up(a.group * blocks(), 32), 32, kThreads);
        floats += a.staged ? filters * taps + 1 : 0;
    }
    d.threadgroup_bytes = std::max<int64_t>(round_up(floats * 4, 16), 16);  // the kernel takes some
    return step;
}

// `flipped` for the gradient of x, `correlate` for those of the filters.
inline std::vector<WtStep> wt_steps(WtShape s, bool flipped, bool correlate) {
    std::vector<WtStep> steps;
    int done = 0;
    do {
        steps.push_back(wt_step(s, s.levels - done, steps.empty(), flipped, correlate));
        steps.back().from = done;
        done += steps.back().args.levels;
        steps.back().args.deeper = done < s.levels && !correlate;
        s.height = s.dims == 2 ? ceil_div(s.height, 2) : s.height, s.width = ceil_div(s.width, 2);
    } while (done < s.levels);
    return steps;
}

// A simdgroup has a filter.
inline FwDispatch wt_backward_sum_dispatch(const FwWtSumArgs& a) {
    return {{ceil_div(a.channels * a.bands, kThreads / 32), 1, 1}, {kThreads, 1, 1}, 0};
}

}  // namespace fusewright::metal
