// A kernel whose blocks are placed while the last ones of the kernel before it still run; see
// `Launch::early`. Devices before sm_90 know no such launch.
#pragma once

#include <cuda_runtime.h>

namespace fusewright::cuda {

// Before it reads what the kernel before it wrote.
__device__ inline void wait_for_last() {
#if __CUDA_ARCH__ >= 900
    cudaGridDependencySynchronize();
#endif
}

// Once every block of a kernel came here, or ended, the blocks of the next are placed.
__device__ inline void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    cudaTriggerProgrammaticLaunchCompletion();
#endif
}

}  // namespace fusewright::cuda
