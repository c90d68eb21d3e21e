// accumulate: into[plane] += from[plane]: what the inverse transform of a level gives is added to
// the low band of the level above, and at last to the base branch.
//
// accumulate: 0 into, 1 from (dense), 2 AccumulateArgs; `over` size x planes.
#include "../../../kernels_metal/dtype.h"
#include "accumulate.h"

template <typename T>
[[kernel]] void accumulate(device T* into [[buffer(0)]], const device T* from [[buffer(1)]],
                           constant AccumulateArgs& args [[buffer(2)]],
                           uint2 at [[thread_position_in_grid]], uint2 grid [[threads_per_grid]]) {
    for (int64_t plane = at.y; plane < args.planes; plane += grid.y) {
        for (int64_t i = at.x; i < args.size; i += grid.x) {
            device T* to = into + plane * args.stride + i;
            *to = from_acc<T>(to_acc(*to) + to_acc(from[plane * args.size + i]));
        }
    }
}
FW_KERNEL("accumulate_float", accumulate, float)
