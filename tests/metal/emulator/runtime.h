// Runs grids of threadgroups of compiled Metal kernels on the CPU, and reports what a GPU would do
// silently wrong. An error is an exception whose text says what, and in which kernel.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernel.h"

namespace emulator {

// The order in which threads of a group run between barriers, and threadgroups of a grid.
enum class Schedule { in_order, reversed, random };

// Of its name: in_order, reversed or random.
Schedule schedule_of(const std::string& name);

// Bytes bound at an index; `size` reaches to the end of the memory that the kernel may touch.
struct Binding {
    int index;
    void* data;
    int64_t size;
};

struct Launch {
    std::string kernel;
    int64_t groups[3], threads[3], threadgroup_bytes;
    std::vector<Binding> buffers;
    std::string args;  // the struct, bound behind the buffers
    int args_index;
};

struct Options {
    Schedule schedule = Schedule::in_order;
    uint64_t seed = 0;
    int workers = 2;
};

// A library of kernels for `launch`; the last one that has a kernel of some name counts.
void load_library(const std::string& path);
void add_kernels(const Kernel* table);

void launch(const Launch& launch, const Options& options);

}  // namespace emulator
