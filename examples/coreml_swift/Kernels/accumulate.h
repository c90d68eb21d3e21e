// The arguments of accumulate.metal, as a plain struct that Metal, C and Swift lay out alike.
#pragma once

#ifndef __METAL_VERSION__
#include <stdint.h>
#endif

typedef struct {
    int64_t planes, size;  // of `from`, and the elements of a plane
    int64_t stride;        // from plane to plane of `into`
} AccumulateArgs;
