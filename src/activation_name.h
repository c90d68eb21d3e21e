// The names of the activations that operators take.
#pragma once

#include <string_view>

#include "check.h"

namespace fusewright {

enum class Activation { none, relu, gelu, gelu_tanh, silu, sigmoid, tanh, mish };

namespace {

// Not for kernels: the templates behind the check would be shared between instruction sets.
inline Activation parse_activation(std::string_view name) {
    if (name == "none") return Activation::none;
    if (name == "relu") return Activation::relu;
    if (name == "gelu") return Activation::gelu;
    if (name == "gelu_tanh") return Activation::gelu_tanh;
    if (name == "silu") return Activation::silu;
    if (name == "sigmoid") return Activation::sigmoid;
    if (name == "tanh") return Activation::tanh;
    if (name == "mish") return Activation::mish;
    STD_TORCH_CHECK(false, "unknown activation '", name,
                    "': expected none, relu, gelu, gelu_tanh, silu, sigmoid, tanh or mish");
}

}  // namespace
}  // namespace fusewright
