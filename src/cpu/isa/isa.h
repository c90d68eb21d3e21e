#pragma once

namespace fusewright::cpu {

// The instruction sets that every kernel file is compiled for, oldest first.
enum class Isa { baseline, avx2, avx512 };

// The newest one that this machine has, or the older one that FUSEWRIGHT_CPU_ISA names.
Isa chosen_isa();

}  // namespace fusewright::cpu
