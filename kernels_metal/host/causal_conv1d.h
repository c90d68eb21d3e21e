// What the causal convolutions share.
#pragma once

#include "host/dtype.h"
#include "host/encode.h"

namespace fusewright::metal {

inline void check_filter(const Tensor& weight, const std::optional<Tensor>& bias, int64_t channels,
                         const char* op) {
    check_rank(weight, 2, op, "weight");
    check_shape(weight, {channels, std::max<int64_t>(weight.size(1), 1)}, op, "weight");
    check_shape(bias, {channels}, op, "bias");
}

}  // namespace fusewright::metal
