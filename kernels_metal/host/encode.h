// Kernels encoded on PyTorch's own MPS stream: into its command buffer, on its queue. Nothing is
// committed and nothing waited for; PyTorch does both when it must.
#pragma once

#import <Metal/Metal.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "plan.h"
#include "stable.h"

namespace fusewright::metal {

using Tensors = std::vector<std::optional<Tensor>>;

// Encodes one call's kernels, which run one after the other.
class Encoder {
  public:
    explicit Encoder(id<MTLComputeCommandEncoder> encoder) : encoder_(encoder) {}

    // The tensors are bound from index 0 on, each from its first element, and then the arguments.
    // A tensor that is absent or empty is one that the kernel does not touch: another stands in.
    template <class Args>
    void operator()(const std::string& kernel, const FwDispatch& dispatch, const Tensors& tensors,
                    const Args& args) const {
        if (dispatch.groups[0] > 0 && dispatch.groups[1] > 0 && dispatch.groups[2] > 0) {
            run(kernel, dispatch, tensors, &args, sizeof args);
        }
    }

  private:
    void run(const std::string& kernel, const FwDispatch& dispatch, const Tensors& tensors,
             const void* args, size_t size) const;

    id<MTLComputeCommandEncoder> encoder_;
};

// Calls `body` with an encoder of torch's command buffer. Tensors are made before: what torch does
// for them may use an encoder of its own, and a command buffer has one at a time.
void encode(const std::function<void(const Encoder&)>& body);

}  // namespace fusewright::metal
