// How a two-dimensional wavelet convolution is cut into blocks: a block holds one tile of several
// channels, with all its levels in shared memory, and takes image after image.
//
// A tile is a whole plane where that fits, with zeros around it. Otherwise it has what surrounds it
// as far as the filters reach, and two levels; the levels below them are a convolution of their own
// on the low band, which the caller runs first.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace fusewright::cuda {

constexpr int kTileLevels = 8;  // at most in one kernel
constexpr int kTileRows = 7;    // of a job, which is four columns wide

// Registers of a thread: of 64 K on a multiprocessor.
constexpr int tile_registers(int kernel, bool grads) { return kernel < 7 ? 96 : grads ? 160 : 128; }
constexpr int kTileLargest = 72;  // no larger plane is one tile

constexpr int padded_to(int v, int to) { return (v + to - 1) / to * to; }

// The rows that the jobs on a plane of `h` rows read: the last of them may have four only.
constexpr int kTileFewRows = 4;
constexpr int job_rows(int h) {
    const int last = (h - 1) / kTileRows * kTileRows;
    return last + (h - last <= kTileFewRows ? kTileFewRows : kTileRows);
}

// The planes of a level, one a band: pixel (0, 0) of the first, strides, and rows with the margin.
struct TilePlanes {
    int at, row, band, rows;
};

struct TileLevel {
    int h, w;  // of the tile
    int strips, segs, job, jobs;
    TilePlanes in, grad;  // with a margin; without, for the gradients of the filters
};

struct TilePlan {
    int64_t n;
    int channels, height, width;  // of the image
    int levels, base;             // whether there is a filter for level 0
    int group, step, grad_step;   // channels of a block; from one to the next
    int tile_h, tile_w, tiles_y, tiles_x;
    int squares_y, squares_x, margin;    // squares of 4 x 4 pixels of a tile, and around it
    int interleaved;                     // neighbours in memory are channels, not columns
    int threads, jobs, passes;           // passes: segments that one job takes
    int rounds, round[kTileLevels + 2];  // jobs that run at once: whole levels
    int weights, filters, filter_step;
    int job_table, square_table, inner_table, elements;
    TileLevel level[kTileLevels + 1];

    constexpr int groups() const { return (channels + group - 1) / group; }
    constexpr int tiles() const { return tiles_y * tiles_x; }
    constexpr int squares() const {
        return group * (squares_y + 2 * margin) * (squares_x + 2 * margin);
    }
    constexpr int inner() const { return group * squares_y * squares_x; }
};

// The least value that is `want` modulo the banks of shared memory: neighbours in a warp that go
// from one plane to the next then meet no bank twice.
constexpr int in_banks(int v, int want) { return v + ((want - v) % 32 + 32) % 32; }

// Lays `plan.group` channels out. False where a multiprocessor's `shared` bytes don't hold as many
// as `wanted` blocks.
inline bool lay_out(TilePlan& plan, int kernel, bool grads, size_t shared, int wanted) {
    const int before = kernel / 2, left = padded_to(before, 2);
    const int vectors = (left + 4 + before + 3) / 4;
    int at = 0, grad_at = 0, h = plan.tile_h, w = plan.tile_w;
    for (int l = 0; l <= plan.levels; ++l) {
        TileLevel& level = plan.level[l];
        const int bands = l == 0 ? 1 : 4;
        level.h = h, level.w = w;
        level.strips = padded_to(w, 4) / 4;
        level.segs = (h + kTileRows - 1) / kTileRows;
        level.in.row = padded_to(w, 4) - 4 + 4 * vectors;
        level.in.rows = before + std::max(padded_to(h, 4), job_rows(h) + before);
        level.in.band = in_banks(level.in.rows * level.in.row, 4 * level.strips);
        level.in.at = at + before * level.in.row + left;
        at += bands * level.in.band;
        if (grads) {
            level.grad.row = padded_to(w, 4);
            level.grad.rows = std::max(padded_to(h, 4), job_rows(h));
            level.grad.band = in_banks(level.grad.rows * level.grad.row, 4 * level.strips);
            level.grad.at = grad_at;
            grad_at += bands * level.grad.band;
        }
        h = (h + 1) / 2, w = (w + 1) / 2;
    }
    plan.step = in_banks(at, 4 * plan.level[0].strips);
    plan.grad_step = in_banks(grad_at, 4 * plan.level[0].strips);
    at = plan.group * plan.step;
    for (int l = 0; l <= plan.levels; ++l) plan.level[l].grad.at += at;
    if (grads) at += plan.group * plan.grad_step;
    plan.filters = 1 + 4 * plan.levels;
    plan.filter_step = padded_to(kernel * kernel + 1, 4);
    plan.weights = at;
    if (!grads) at += plan.group * plan.filters * plan.filter_step;
    // A few small blocks hide each other's barriers: as many threads as there are registers for.
    const auto blocks = std::clamp<int64_t>(shared / (at * sizeof(float) + 4096), 1, grads ? 2 : 4);
    const int limit = static_cast<int>(65536 / tile_registers(kernel, grads) / blocks / 32 * 32);
    plan.passes = 1;
    for (;; ++plan.passes) {
        plan.jobs = 0;
        for (int i = 1; i <= plan.levels + 1; ++i) {  // level 0 comes last
            TileLevel& level = plan.level[i % (plan.levels + 1)];
            const int bands = i == plan.levels + 1 ? 1 : 4;
            level.job = plan.jobs;
            level.jobs =
                plan.group * bands * level.strips * ((level.segs + plan.passes - 1) / plan.passes);
            if (i > plan.levels && !plan.base) level.jobs = 0;
            plan.jobs += level.jobs;
        }
        if (!grads || plan.jobs <= limit) break;
        if (plan.passes > 16) return false;
    }
    plan.job_table = at;
    at += padded_to(plan.jobs * (grads ? 4 : 2), 4);
    plan.square_table = at;
    at += padded_to(plan.squares(), 4);
    plan.inner_table = plan.margin > 0 ? at : plan.square_table;
    if (plan.margin > 0) at += padded_to(plan.inner(), 4);
    // the sums of the jobs come where the planes were
    plan.elements = grads ? std::max(at, plan.jobs * (kernel * kernel + 1)) : at;
    if (plan.elements * sizeof(float) > shared / wanted || plan.elements > 1 << 16) return false;
    if (grads) {
        plan.threads = std::max(64, padded_to(plan.jobs, 32));
        return true;
    }
    // threads and rounds that leave the fewest idle, then the fewest rounds
    int least = 1 << 30;
    for (int threads = 64; threads <= limit; threads += 32) {
        int rounds = 0, ends[kTileLevels + 2] = {}, filled = 0;
        bool possible = true;
        for (int i = 1; i <= plan.levels + 1; ++i) {
            const TileLevel& level = plan.level[i % (plan.levels + 1)];
            possible &= level.jobs <= threads;
            if (filled + level.jobs > threads) ++rounds, filled = 0;
            filled += level.jobs;
            ends[rounds + 1] = level.job + level.jobs;
        }
        ++rounds;
        if (possible && rounds * threads <= least) {
            least = rounds * threads;
            plan.threads = threads, plan.rounds = rounds;
            std::copy(ends, ends + kTileLevels + 2, plan.round);
        }
    }
    return least < 1 << 30;
}

// The plan for as many of `levels` as one kernel serves: all of them or two. `interleaved` says
// that neighbours in memory are channels.
inline bool make_tile_plan(TilePlan& plan, int64_t n, int64_t channels, int64_t height,
                           int64_t width, int kernel, int levels, bool base, bool grads,
                           bool interleaved, size_t shared) {
    constexpr int64_t kMost = 1 << 24;  // beyond are images of no pixels or few
    if (channels > kMost || height > kMost || width > kMost) return false;
    plan = TilePlan{};
    plan.n = n, plan.channels = static_cast<int>(channels);
    plan.height = static_cast<int>(height), plan.width = static_cast<int>(width);
    plan.base = base || grads;
    plan.interleaved = interleaved;
    const int before = kernel / 2;
    const auto cover = [&] {
        plan.squares_y = padded_to(plan.tile_h, 4) / 4;
        plan.squares_x = padded_to(plan.tile_w, 4) / 4;
    };
    const int most = static_cast<int>(std::min<int64_t>(channels, 32));
    if (levels <= kTileLevels && height <= kTileLargest && width <= kTileLargest) {
        plan.levels = levels;
        plan.tile_h = static_cast<int>(height), plan.tile_w = static_cast<int>(width);
        plan.tiles_y = plan.tiles_x = 1;
        cover();
        const auto group = [&](int channels_of_block, int wanted) {
            plan.group = channels_of_block;
            return lay_out(plan, kernel, grads, shared, wanted);
        };
        if (group(1, 1)) {
            // small blocks, but one large one where its channels share a line of memory
            int best = 1;
            while (2 * best <= most &&
                   group(2 * best, !interleaved        ? 3
                                   : grads && best > 1 ? 2
                                                       : 1) &&
                   plan.passes == 1 && (interleaved ? best < 8 : plan.jobs < 160)) {
                best *= 2;
            }
            return group(best, 1);
        }
    }
    plan.levels = std::min(levels, 2);
    plan.margin = plan.levels == 2   ? before
                  : plan.levels == 1 ? (before + 1) / 2
                                     : (before + 3) / 4;
    for (const bool wide : {true, false}) {
        // more channels where they share a line of memory, else as large a tile as fits
        if (wide && !interleaved) continue;
        const auto cut = [&](int64_t size, int& tiles, int& tile) {
            const int largest = wide ? 32 : 64;
            tiles = static_cast<int>((size + largest - 1) / largest);
            tile = padded_to(static_cast<int>((size + tiles - 1) / tiles), 4);
        };
        plan.group = wide ? std::min(4, most) : 1;
        cut(height, plan.tiles_y, plan.tile_h);
        cut(width, plan.tiles_x, plan.tile_w);
        cover();
        if (lay_out(plan, kernel, grads, shared, 1)) return true;
    }
    return false;
}

}  // namespace fusewright::cuda
