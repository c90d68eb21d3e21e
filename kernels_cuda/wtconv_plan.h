// How a wavelet convolution is cut into blocks: a block holds one region of one channel, of one or
// several images, with all its levels in shared memory.
//
// A region is a whole plane where that fits. Otherwise it is a tile with a halo, one level deep;
// the levels below it are a convolution of their own on the low band, which the caller runs first.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fusewright::cuda {

constexpr int kWtLevels = 8;     // at most in one kernel
constexpr int kWtRows = 7;       // of a job: four columns wide, and so many rows high
constexpr int kWtBaseRows = 8;   // of a job of the base filter: even, for pairs of rows
constexpr int kWtThreads = 256;  // at most in a block

// One level of a region. Planes of the data are stored with zeros around them, those of results
// densely, the tile alone.
struct WtLevel {
    int h, w;                    // of the region
    int rs, plane, in, in_step;  // padded: row stride, size of a plane, offset; from image to image
    int th, tw;                  // of the tile
    int oy, ox;                  // where the tile begins in the region
    int ts, tile, out, out_step;  // dense: the same
    int strips, segs;             // of jobs
    int rows;                     // of a job
    // Where the steps between this level and the one above it read and write, by the offsets in a
    // plane: of the padded planes and of the dense ones.
    int padded_steps, dense_steps, padded_count, dense_count;
};

struct WtPlan {
    int64_t n, channels, height, width;  // of the image
    int dims, kernel, levels;
    int before, after;         // the filter's reach along the width
    int before_y, after_y;     // and along the height
    int left;                  // columns in front of a padded plane's first, an even number
    int group;                 // planes in a block at once
    int tile_h, tile_w, halo;  // halo along the width, and in two dimensions along the height
    int tiles_y, tiles_x;
    int threads;               // of a block
    int team;                  // threads that share the planes of an image
    int weights, table, jobs;  // offset of the filters; offset and number of the jobs
    int loads, grad_loads;     // offsets of what loads the region, and the tile
    int load_count, grad_load_count, vector;  // their numbers; elements of a load
    int elements;                             // of shared memory
    WtLevel level[kWtLevels + 1];

    constexpr int bands() const { return 1 << dims; }
    constexpr int filters() const { return 1 + levels * bands(); }
    constexpr int taps() const { return dims == 2 ? kernel * kernel : kernel; }
    constexpr int halo_y() const { return dims == 2 ? halo : 0; }
    constexpr int64_t groups() const { return (n + group - 1) / group; }
    constexpr int64_t tiles() const { return int64_t{tiles_y} * tiles_x; }
};

constexpr int round_up(int v, int to) { return (v + to - 1) / to * to; }

// The distance between the planes of two images for which the strips of the one follow those of the
// other in the banks of shared memory.
constexpr int image_step(int elements, int strips) {
    return elements + (4 * strips - elements % 32 + 32) % 32;
}

// Lays the region of `plan` out. `correlate` is for the gradients of the filters: the second
// operand is dense at level 0 too, and jobs keep their sums, so that there may be no more of them
// than threads.
inline void lay_out(WtPlan& plan, bool correlate, size_t element) {
    const int before = plan.before, after = plan.after;
    plan.left = round_up(before, 2);
    int at = 0, h = plan.tile_h + 2 * plan.halo_y(), w = plan.tile_w + 2 * plan.halo;
    int th = plan.tile_h, tw = plan.tile_w, oy = plan.halo_y(), ox = plan.halo;
    for (int l = 0; l <= plan.levels; ++l) {
        WtLevel& level = plan.level[l];
        const int bands = l == 0 ? 1 : plan.bands();
        level.strips = round_up(tw, 4) / 4;
        level.h = h, level.w = w, level.th = th, level.tw = tw, level.oy = oy, level.ox = ox;
        // the vectors that the last strip of four columns reads end with the row
        level.rs = round_up(w, 4) - 4 + round_up(plan.left + 4 + after, 4);
        const int rows = std::max(round_up(h, kWtRows), round_up(h, kWtBaseRows));
        level.plane = (plan.before_y + rows + plan.after_y) * level.rs;
        level.in = at;
        level.in_step = image_step(bands * level.plane, level.strips);
        at += plan.group * level.in_step;
        level.ts = round_up(tw, 4);
        // the last job of the base filter reads what makes eight rows
        level.tile = round_up(th, plan.dims == 2 ? kWtBaseRows / 2 : kWtBaseRows) * level.ts;
        level.out = at;
        level.out_step = image_step(bands * level.tile, level.strips);
        if (l > 0 || correlate) at += plan.group * level.out_step;
        at = round_up(at, 4);
        if (plan.dims == 2) h = (h + 1) / 2, th = (th + 1) / 2, oy /= 2;
        w = (w + 1) / 2, tw = (tw + 1) / 2, ox /= 2;
    }
    for (int rows = kWtRows;; ++rows) {
        plan.jobs = 0;
        for (int l = 0; l <= plan.levels; ++l) {
            WtLevel& level = plan.level[l];
            level.rows = l == 0 && !correlate ? kWtBaseRows : rows;
            level.segs = (level.th + level.rows - 1) / level.rows;
            plan.jobs += plan.group * (l == 0 ? 1 : plan.bands()) * level.strips * level.segs;
        }
        if (!correlate || plan.jobs <= kWtThreads || rows >= plan.tile_h) break;
    }
    plan.weights = at;
    at += round_up(plan.filters() * plan.taps() + 1, 4);
    // the tables have entries of four bytes, those of loads of eight
    const auto table = [&](int entries, int words) {
        const int start = at;
        at += round_up(static_cast<int>((entries * words * 4 + element - 1) / element), 4);
        return start;
    };
    plan.table = table(plan.jobs, 1);
    const auto loads = [&](int rows, int columns) {
        return rows * ((columns + plan.vector - 1) / plan.vector);
    };
    const WtLevel& region = plan.level[0];
    plan.load_count = loads(region.h, region.w);
    plan.loads = table(plan.load_count, 2);
    plan.grad_load_count = correlate ? loads(region.th, region.tw) : 0;
    plan.grad_loads = table(plan.grad_load_count, 2);
    for (int l = 1; l <= plan.levels; ++l) {
        WtLevel& level = plan.level[l];
        level.padded_count = level.h * ((level.w + 1) / 2);
        level.padded_steps = table(level.padded_count, 1);
        level.dense_count = l > 1 || correlate ? level.th * ((level.tw + 1) / 2) : 0;
        level.dense_steps = table(level.dense_count, 1);
    }
    plan.elements = at;
    if (correlate) {  // the sums of the jobs, where the planes were
        plan.elements = std::max(plan.elements, plan.jobs * (plan.taps() + 1));
    }
    plan.threads = kWtThreads;
    if (!correlate) {  // as many as make the same number of rounds
        const int base = plan.group * plan.level[0].strips * plan.level[0].segs;
        const int most = std::max(base, plan.jobs - base);
        const int rounds = (most + kWtThreads - 1) / kWtThreads;
        plan.threads =
            std::max(64, round_up((most + rounds - 1) / rounds, 32 * std::min(4, plan.group)));
    }
    plan.team = std::max(32, plan.threads / plan.group / 32 * 32);
}

inline bool fits(const WtPlan& plan, bool correlate, size_t element, size_t shared) {
    // offsets in a plane are kept in 16 bits
    return plan.elements * element <= shared && plan.level[0].plane < 1 << 16 &&
           (!correlate || plan.jobs <= kWtThreads);
}

// The plan for as many of `levels` as one kernel serves: all of them, or one, or none. `vector` is
// the number of elements that one access may read, `row` the stride of rows.
inline bool make_plan(WtPlan& plan, int64_t n, int64_t channels, int64_t height, int64_t width,
                      int dims, int kernel, int levels, bool flipped, bool correlate, int vector,
                      size_t element, size_t shared) {
    plan = WtPlan{};
    plan.n = n, plan.channels = channels, plan.height = height, plan.width = width;
    plan.dims = dims, plan.kernel = kernel, plan.vector = vector;
    plan.before = flipped ? kernel / 2 : (kernel - 1) / 2;
    plan.after = kernel - 1 - plan.before;
    plan.before_y = dims == 2 ? plan.before : 0;
    plan.after_y = dims == 2 ? plan.after : 0;
    constexpr int64_t kLargest = 1 << 12;  // no larger plane fits
    // Whole planes, several of a small size; in one dimension the images are the rows of a plane.
    if (levels <= kWtLevels && width <= kLargest && (dims == 1 || height <= kLargest)) {
        plan.levels = levels;
        plan.tile_h = static_cast<int>(dims == 1 ? std::min<int64_t>(height, 2 * kWtRows) : height);
        plan.tile_w = static_cast<int>(width);
        plan.group = 1;
        lay_out(plan, correlate, element);
        // as many planes, a power of two, as have a job for every thread of half a block
        const int base = plan.level[0].strips * plan.level[0].segs;
        const int most = correlate ? plan.jobs : std::max(base, plan.jobs - base);
        const int wanted = (correlate ? kWtThreads : kWtThreads / 2) / most;
        while (plan.group * 2 <= std::min<int64_t>(std::min(wanted, 32), n)) plan.group *= 2;
        for (; plan.group > 0; plan.group /= 2) {
            lay_out(plan, correlate, element);
            if (fits(plan, correlate, element, shared / (plan.group > 1 ? 3 : 1))) break;
        }
        plan.tiles_x = 1;
    }
    if (plan.group == 0) {
        plan.levels = std::min(levels, 1);
        plan.group = 1;
        plan.halo = plan.levels > 0 ? round_up(kernel / 2 * 2, 8) : round_up(kernel / 2, 4);
        int size = dims == 1 ? 1024 : 64;
        for (; size >= 8; size /= 2) {
            plan.tile_h = dims == 1 ? kWtRows : size;
            plan.tile_w = size;
            lay_out(plan, correlate, element);
            if (fits(plan, correlate, element, size > 16 ? shared / 2 : shared)) break;
        }
        if (size < 8) return false;
        plan.tiles_x = static_cast<int>((width + plan.tile_w - 1) / plan.tile_w);
    }
    plan.tiles_y = static_cast<int>((height + plan.tile_h - 1) / plan.tile_h);
    return true;
}

}  // namespace fusewright::cuda
