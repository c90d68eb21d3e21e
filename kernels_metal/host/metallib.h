// The compiled kernels, embedded in the library: no file is looked up at run time.
#pragma once

#include <cstddef>

namespace fusewright::metal {

const void* metallib_begin();
size_t metallib_size();

}  // namespace fusewright::metal
