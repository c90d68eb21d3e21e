#include "host/metallib.h"

#ifdef __APPLE__
#define FW_SECTION ".section __DATA,__const\n"
#define FW_SYMBOL "_"
#else
#define FW_SECTION ".section .rodata\n"
#define FW_SYMBOL ""
#endif

// The file that FUSEWRIGHT_METALLIB names, as it is.
asm(FW_SECTION ".p2align 4\n"                           //
    FW_SYMBOL "fusewright_metallib_begin:\n"            //
               ".incbin \"" FUSEWRIGHT_METALLIB "\"\n"  //
    FW_SYMBOL "fusewright_metallib_end:\n"              //
               ".text\n");

extern "C" const char fusewright_metallib_begin[], fusewright_metallib_end[];

namespace fusewright::metal {

const void* metallib_begin() { return fusewright_metallib_begin; }

size_t metallib_size() {
    return static_cast<size_t>(fusewright_metallib_end - fusewright_metallib_begin);
}

}  // namespace fusewright::metal
