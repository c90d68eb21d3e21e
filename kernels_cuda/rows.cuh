// A tensor as rows: the trailing dimensions are the columns, the leading ones count the rows.
#pragma once

#include "check.h"
#include "element.cuh"

namespace fusewright::cuda {

// Where a row begins, for leading dimensions of any strides.
struct RowIndex {
    static constexpr int kDims = 4;
    int dims = 0;
    int64_t size[kDims] = {}, stride[kDims] = {};

    __device__ int64_t operator()(int64_t row) const {
        if (dims == 1) return row * stride[0];
        int64_t at = 0;
        for (int d = dims - 1; d >= 0; --d) {
            at += row % size[d] * stride[d];
            row /= size[d];
        }
        return at;
    }
};

struct Rows {
    Tensor tensor;  // a copy where the strides can't be expressed
    int64_t rows = 1, columns = 1, step = 1;
    RowIndex index;

    Rows(const Tensor& t, int64_t norm_dims) : tensor(t) {
        if (!describe(norm_dims)) {
            tensor = torch::stable::contiguous(t);
            describe(norm_dims);
        }
    }

    // From a row to the next, where that is always the same.
    int64_t stride() const { return index.dims == 0 ? 0 : index.stride[0]; }

    // Whether every row may be read in packs of `pack` elements of any 16- or 32-bit type, and
    // `stride` tells where.
    bool packs(int pack) const {
        const bool all =
            step == 1 && columns % pack == 0 && index.dims <= 1 && stride() % pack == 0;
        const size_t bytes = pack * tensor.element_size();
        return all && aligned(tensor.data_ptr(), bytes < 16 ? bytes : 16);
    }

  private:
    bool describe(int64_t norm_dims) {
        const int64_t lead = tensor.dim() - norm_dims;
        const bool empty = tensor.numel() == 0;  // its strides say nothing, also as a copy
        rows = columns = step = 1;
        index = RowIndex{};
        for (int64_t d = tensor.dim() - 1; d >= lead; --d) {
            const int64_t size = tensor.size(d);
            if (size != 1 && !empty) {
                if (columns == 1) step = tensor.stride(d);
                if (tensor.stride(d) != step * columns) return false;
            }
            columns *= size;
        }
        for (int64_t d = 0; d < lead; ++d) {
            const int64_t size = tensor.size(d), stride = tensor.stride(d);
            rows *= size;
            if (size == 1 || empty) continue;
            int& n = index.dims;
            if (n > 0 && index.stride[n - 1] == size * stride) {
                index.size[n - 1] *= size;
                index.stride[n - 1] = stride;
            } else if (n == RowIndex::kDims) {
                return false;
            } else {
                index.size[n] = size;
                index.stride[n++] = stride;
            }
        }
        return true;
    }
};

}  // namespace fusewright::cuda
