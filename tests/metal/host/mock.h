// What the fake device knows of the mock of Metal: buffers, the one command buffer, and its queue.
#pragma once

#include <cstddef>

// The functions that other libraries look up.
#define MOCK_API extern "C" __attribute__((visibility("default")))

MOCK_API void* mock_new_buffer(size_t length);  // an id<MTLBuffer>
MOCK_API void mock_release_buffer(void* buffer);
MOCK_API char* mock_contents(void* buffer);

// Ends what torch has open, as it does before it hands its command buffer to others.
MOCK_API void* mock_command_buffer();
MOCK_API void* mock_dispatch_queue();
// Leaves an encoder of torch's own open, as its kernels do for the next one.
MOCK_API void mock_torch_encodes();
// Runs everything that was encoded: what a copy to the CPU waits for.
MOCK_API void mock_flush();
