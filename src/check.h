// Checks that guard memory, repeated in C++ for callers that bypass the Python layer.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

// `FW_CHECK(ok, "rms_norm", "weight has ", n, " elements, must have ", cols)`
#define FW_CHECK(condition, op, ...) STD_TORCH_CHECK(condition, "[", op, "] ", __VA_ARGS__)
