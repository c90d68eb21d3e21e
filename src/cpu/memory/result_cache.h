// Memory of freed results, kept for the next ones.
//
// The C library maps large blocks anew for each call, and the system clears their pages at the
// first touch, which takes longer than most kernels. Compiled once, not for every instruction set:
// the process has one cache.
#pragma once

#include <torch/csrc/stable/c/shim.h>

#include <cstddef>
#include <cstdint>

namespace fusewright::cpu {

// A dense CPU tensor of `bytes` bytes, of which nothing is written yet; null where torch's
// allocator has to serve: off Linux, before torch 2.11, with the cache off or out of memory.
AtenTensorHandle cached_result(size_t bytes, int64_t dim, const int64_t* sizes,
                               const int64_t* strides, int32_t dtype);

}  // namespace fusewright::cpu
