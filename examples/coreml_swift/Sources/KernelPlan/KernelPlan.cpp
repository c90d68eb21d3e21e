#include "KernelPlan.h"

#include <algorithm>

#include "../../../../kernels_metal/plan.h"

namespace metal = fusewright::metal;

static KernelDispatch dispatch(const FwDispatch& plan) {
    KernelDispatch result;
    std::copy_n(plan.groups, 3, result.groups);
    std::copy_n(plan.threads, 3, result.threads);
    return result;
}

KernelDispatch planHaar(FwHaarArgs args) { return dispatch(metal::haar_dispatch(args)); }

KernelDispatch planAccumulate(AccumulateArgs args) {
    return dispatch(metal::over(args.size, args.planes, 1));
}
