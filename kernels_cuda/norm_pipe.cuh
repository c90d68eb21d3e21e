// What the backward kernels of the norms get, and the rows of it on their way into shared memory.
#pragma once

#include "norm.cuh"
#include "norm_sums.cuh"

namespace fusewright::cuda {

// Rows of some tensors on their way into shared memory, where a thread finds again what it asked
// for itself. Mostly one row of `kStages` is worked on while the others are on their way.
template <class T, class Shape>
struct RowPipe {
    using Packed = Pack<T, kPack<T>>;
    static constexpr int kStages = Shape::packs == 2 ? 3 : 2;
    Packed* slots;
    RowPacks<Shape, kPack<T>> row;
    int streams;

    static constexpr size_t bytes(int streams, int stages = kStages) {
        return sizeof(Packed) * stages * streams * Shape::packs * Shape::block;
    }
    __device__ Packed& slot(int stage, int stream, int k) const {
        return slots[((stage * streams + stream) * Shape::packs + k) * Shape::block + threadIdx.x];
    }
    // Starts a row whose first element for this thread is at `from`; `done` closes what belongs
    // together.
    __device__ void fetch(int stage, int stream, const T* from) const {
        const auto to = shared_address(&slot(stage, stream, 0));
        row.each([&](int k, int) {
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                             to + k * Shape::block * static_cast<unsigned>(sizeof(Packed))),
                         "l"(from + k * Shape::threads * kPack<T>));
        });
    }
    __device__ static void done() { asm volatile("cp.async.commit_group;"); }
    // Waits for the oldest row.
    __device__ static void wait() {
        asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 1) : "memory");
    }

    __device__ static void wait_for_all() { asm volatile("cp.async.wait_all;" ::: "memory"); }

  private:
    __device__ static unsigned shared_address(const void* p) {
        return static_cast<unsigned>(__cvta_generic_to_shared(p));
    }
};

template <class T>
struct NormBackward {
    const T *x, *grad_y;
    int64_t x_rows, grad_rows, total_rows, dx_rows;  // from row to row
    Untyped grad_total;
    bool piped;  // the gradient of the sum is of x's type, and comes the same way
    const float *mean, *rstd;
    T* dx;  // null where it is not needed
    StripSums sums;
};

// Starts what a row needs.
template <class T, class Shape>
__device__ inline void fetch_row(const RowPipe<T, Shape>& pipe, const NormBackward<T>& io,
                                 int stage, int64_t row) {
    const int first = RowPacks<Shape, kPack<T>>::column(0);
    pipe.fetch(stage, 0, io.x + row * io.x_rows + first);
    pipe.fetch(stage, 1, io.grad_y + row * io.grad_rows + first);
    if (io.piped) {
        const auto* from = static_cast<const T*>(io.grad_total.data);
        pipe.fetch(stage, 2, from + row * io.total_rows + first);
    }
}

}  // namespace fusewright::cuda
