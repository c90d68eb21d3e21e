// How a compiled .metal file presents its kernels: a table of functions that run one thread.
#pragma once

#include <cstdint>

namespace emulator {

constexpr int kMostBuffers = 31;

struct Vector {
    uint32_t x, y, z;
};

// Where a thread is, and what is bound. Pointers are plain numbers: their address spaces come with
// the types of the kernel's arguments.
struct Thread {
    const uintptr_t* buffers;
    uintptr_t threadgroup;
    Vector thread_position_in_grid, thread_position_in_threadgroup, threadgroup_position_in_grid;
    Vector threadgroups_per_grid, threads_per_threadgroup, threads_per_grid;
    uint32_t thread_index_in_threadgroup, thread_index_in_simdgroup;
    uint32_t simdgroup_index_in_threadgroup, simdgroups_per_threadgroup;
};

struct Kernel {
    const char* name;
    void (*run)(const Thread&);
    uint32_t buffers;  // a bit for each index that it takes
    bool threadgroup;  // whether it takes threadgroup memory
    uint32_t threads;  // in a threadgroup at most
};

// Every library of compiled kernels exports this function; a kernel without a name ends the table.
using KernelTable = const Kernel* (*)();
constexpr const char* kTableSymbol = "fw_kernels";

// A kernel's argument, as what it is declared.
struct Pointer {
    uintptr_t at;
    template <typename T>
    operator T*() const {
        return reinterpret_cast<T*>(at);
    }
};

struct Reference {
    uintptr_t at;
    template <typename T>
    operator T&() const {
        return *reinterpret_cast<T*>(at);
    }
};

struct Position {
    Vector v;
    operator uint32_t() const { return v.x; }
    typedef uint32_t Three __attribute__((ext_vector_type(3)));
    typedef uint32_t Two __attribute__((ext_vector_type(2)));
    operator Three() const { return Three{v.x, v.y, v.z}; }
    operator Two() const { return Two{v.x, v.y}; }
};

}  // namespace emulator
