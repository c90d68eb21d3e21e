// What Swift needs of the kernels: their arguments, from the headers that the kernels themselves
// read, and how many threads the repository's plan gives them.
#pragma once

#include "../../../../../kernels_metal/args.h"
#include "../../../Kernels/accumulate.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t groups[3], threads[3];
} KernelDispatch;

KernelDispatch planHaar(FwHaarArgs args);
KernelDispatch planAccumulate(AccumulateArgs args);

#ifdef __cplusplus
}
#endif
