// A kernel launch where a tensor lives: on its device, on torch's current stream there.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "stable.h"

namespace fusewright::cuda {

// Makes the device of `x` current while it lives.
class Launch {
  public:
    explicit Launch(const Tensor& x) : device_(x.get_device_index()), guard_(device_) {
        void* stream = nullptr;
        TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
        stream_ = static_cast<cudaStream_t>(stream);
    }

    cudaStream_t stream() const { return stream_; }

    int attribute(cudaDeviceAttr which) const {
        int value = 0;
        STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, device_));
        return value;
    }
    int processors() const { return attribute(cudaDevAttrMultiProcessorCount); }
    size_t shared_limit() const { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }

    // Blocks of the kernel that are resident at once on the whole device.
    template <class... P>
    int resident(void (*kernel)(P...), int threads, size_t shared = 0) const {
        allow_shared(kernel, shared);
        int blocks = 0;
        STD_CUDA_CHECK(
            cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared));
        return std::max(1, blocks) * processors();
    }

    // An empty grid launches nothing.
    template <class... P, class... A>
    void operator()(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, A&&... args) const {
        if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
        allow_shared(kernel, shared);
        kernel<<<grid, block, shared, stream_>>>(std::forward<A>(args)...);
        STD_CUDA_CHECK(cudaGetLastError());
    }

    // The same for a grid of clusters of blocks, which devices before sm_90 know only of size 1.
    template <class... P, class... A>
    void clusters(void (*kernel)(P...), dim3 grid, dim3 cluster, dim3 block, size_t shared,
                  A&&... args) const {
        if (cluster.x * cluster.y * cluster.z == 1) {
            return (*this)(kernel, grid, block, shared, std::forward<A>(args)...);
        }
        cudaLaunchAttribute attribute{};
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim = {cluster.x, cluster.y, cluster.z};
        with(attribute, kernel, grid, block, shared, std::forward<A>(args)...);
    }

    // For a kernel that begins with `wait_for_last`: its blocks are placed while the last ones of
    // the kernel before it still run.
    template <class... P, class... A>
    void early(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, A&&... args) const {
        if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
        if (attribute(cudaDevAttrComputeCapabilityMajor) < 9) {
            return (*this)(kernel, grid, block, shared, std::forward<A>(args)...);
        }
        cudaLaunchAttribute programmatic{};
        programmatic.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        programmatic.val.programmaticStreamSerializationAllowed = 1;
        with(programmatic, kernel, grid, block, shared, std::forward<A>(args)...);
    }

  private:
    template <class... P, class... A>
    void with(cudaLaunchAttribute attribute, void (*kernel)(P...), dim3 grid, dim3 block,
              size_t shared, A&&... args) const {
        allow_shared(kernel, shared);
        cudaLaunchConfig_t config{};
        config.gridDim = grid;
        config.blockDim = block;
        config.dynamicSmemBytes = shared;
        config.stream = stream_;
        config.attrs = &attribute;
        config.numAttrs = 1;
        STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, std::forward<A>(args)...));
    }

    template <class... P>
    static void allow_shared(void (*kernel)(P...), size_t shared) {
        if (shared > 32 * 1024) {  // above 48 KiB, the static part included, it has to be asked for
            STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                static_cast<int>(shared)));
        }
    }

    int32_t device_;
    torch::stable::accelerator::DeviceGuard guard_;
    cudaStream_t stream_ = nullptr;
};

template <class I>
constexpr I ceil_div(I a, I b) {
    return (a + b - 1) / b;
}

}  // namespace fusewright::cuda
