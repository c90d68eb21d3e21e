// A mock of the Metal classes that the host code uses. It checks every call the way Metal's
// validation layer does, records the dispatches, and runs them on the emulated kernels when torch
// would wait for the GPU. A wrong call throws; on a Mac it would end the process.

#import <Metal/Metal.h>
#include <dlfcn.h>

#include <cstring>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "args_sizes.h"
#include "mock.h"
#include "runtime.h"

namespace {

[[noreturn]] void fail(const std::string& text) { throw std::runtime_error("[mock] " + text); }

void check(bool ok, const std::string& text) {
    if (!ok) fail(text);
}

struct Buffer {
    static constexpr size_t kGuard = 256;
    static constexpr char kCanary = 0x5a;
    std::vector<char> memory;
    size_t length;

    // Full of NaN, so that what a kernel forgets to write shows.
    explicit Buffer(size_t n) : memory(n + 2 * kGuard, kCanary), length(n) {
        std::memset(contents(), 0xff, n);
    }
    char* contents() { return memory.data() + kGuard; }
    void check_canaries(const std::string& kernel) {
        for (size_t i = 0; i < kGuard; ++i) {
            check(memory[i] == kCanary && memory[kGuard + length + i] == kCanary,
                  kernel + " wrote outside a buffer of " + std::to_string(length) + " bytes");
        }
    }
};

struct Bound {
    NSObject<MTLBuffer>* buffer = nil;  // or bytes
    Buffer* memory = nullptr;
    size_t offset = 0;
    std::vector<char> bytes;
};

struct Dispatch {
    emulator::Launch launch;
    std::map<unsigned, Bound> bound;
};

enum class Open { nothing, torch, operator_ };

std::map<std::string, const emulator::Kernel*> kernels;
Open open_encoder = Open::nothing;
std::vector<Dispatch> pending;
size_t dispatches = 0;
thread_local bool on_queue = false;
std::mutex queue_mutex;

// The struct is the last that a kernel declares.
unsigned args_index_of(const emulator::Kernel& kernel) {
    unsigned index = emulator::kMostBuffers - 1;
    while (index > 0 && !(kernel.buffers >> index & 1)) --index;
    return index;
}

size_t args_size_of(const emulator::Kernel& kernel) {
    const std::pair<const char*, size_t> all[] = {FW_ARGS_SIZES};
    for (const auto& [function, size] : all) {
        const size_t n = std::strlen(function);
        if (std::strncmp(kernel.name, function, n) == 0 && kernel.name[n] == '_') return size;
    }
    fail(std::string(kernel.name) + " has no struct");
}

unsigned threads_of(const MTLSize& size) {
    return static_cast<unsigned>(size.width * size.height * size.depth);
}

std::string text_of(const MTLSize& size) {
    return std::to_string(size.width) + " x " + std::to_string(size.height) + " x " +
           std::to_string(size.depth);
}

}  // namespace

@interface FWMockDevice : NSObject <MTLDevice>
@end
@interface FWMockQueue : NSObject
@end
@interface FWMockCommandBuffer : NSObject <MTLCommandBuffer>
@end

static FWMockDevice* the_device() {
    static FWMockDevice* device = [[FWMockDevice alloc] init];
    return device;
}
static FWMockQueue* the_queue() {
    static FWMockQueue* queue = [[FWMockQueue alloc] init];
    return queue;
}
static FWMockCommandBuffer* the_command_buffer() {
    static FWMockCommandBuffer* buffer = [[FWMockCommandBuffer alloc] init];
    return buffer;
}

@interface FWMockBuffer : NSObject <MTLBuffer> {
  @public
    Buffer* memory;
}
@end

@implementation FWMockBuffer
- (id<MTLDevice>)device {
    return the_device();
}
- (NSUInteger)length {
    return memory->length;
}
- (void*)contents {
    fail("an operator reads GPU memory on the CPU");
}
- (void)dealloc {
    memory->check_canaries("something");
    delete memory;
    [super dealloc];
}
@end

@interface FWMockData : NSObject {
  @public
    std::vector<char>* bytes;
}
@end

@implementation FWMockData
@end

@interface FWMockFunction : NSObject <MTLFunction> {
  @public
    const emulator::Kernel* kernel;
}
@end

@implementation FWMockFunction
- (NSString*)name {
    return [NSString stringWithUTF8String:kernel->name];
}
@end

@interface FWMockPipeline : NSObject <MTLComputePipelineState> {
  @public
    const emulator::Kernel* kernel;
}
@end

@implementation FWMockPipeline
- (NSUInteger)maxTotalThreadsPerThreadgroup {
    return kernel->threads;
}
@end

@interface FWMockLibrary : NSObject <MTLLibrary>
@end

@implementation FWMockLibrary
- (id<MTLFunction>)newFunctionWithName:(NSString*)name {
    const auto found = kernels.find([name UTF8String]);
    if (found == kernels.end()) return nil;
    FWMockFunction* function = [[FWMockFunction alloc] init];
    function->kernel = found->second;
    return function;
}
@end

@implementation FWMockDevice
- (id<MTLLibrary>)newLibraryWithData:(dispatch_data_t)data error:(NSError**)error {
    (void)error;
    const std::vector<char>& bytes = *((FWMockData*)data)->bytes;
    check(std::string(bytes.begin(), bytes.end()) == "MTLB: mock\n", "this is no metallib");
    return [[FWMockLibrary alloc] init];
}
- (id<MTLComputePipelineState>)newComputePipelineStateWithFunction:(id<MTLFunction>)function
                                                             error:(NSError**)error {
    (void)error;
    check(function != nil, "a pipeline of a function that is nil");
    FWMockPipeline* pipeline = [[FWMockPipeline alloc] init];
    pipeline->kernel = ((FWMockFunction*)function)->kernel;
    return pipeline;
}
@end

@implementation FWMockQueue
@end

@interface FWMockEncoder : NSObject <MTLComputeCommandEncoder> {
  @public
    const emulator::Kernel* kernel;
    std::map<unsigned, Bound>* bound;
    std::map<unsigned, size_t>* threadgroup;
    bool ended;
}
@end

@implementation FWMockEncoder
- (id)init {
    self = [super init];
    bound = new std::map<unsigned, Bound>;
    threadgroup = new std::map<unsigned, size_t>;
    return self;
}
- (void)dealloc {
    delete bound;
    delete threadgroup;
    [super dealloc];
}
- (void)encodes {
    check(on_queue, "encoding outside torch's queue");
    check(!ended, "encoding after endEncoding");
}
// Metal keeps bindings for the next kernel; here every kernel sets its own.
- (void)setComputePipelineState:(id<MTLComputePipelineState>)state {
    [self encodes];
    check(state != nil, "a pipeline state that is nil");
    kernel = ((FWMockPipeline*)state)->kernel;
    bound->clear();
    threadgroup->clear();
}
- (void)setBuffer:(id<MTLBuffer>)buffer offset:(NSUInteger)offset atIndex:(NSUInteger)index {
    [self encodes];
    const std::string at = "buffer " + std::to_string(index);
    check(buffer != nil, at + " is nil");
    FWMockBuffer* mock = (FWMockBuffer*)buffer;
    check(offset < mock->memory->length, at + ": the offset is past its end");
    check(bound->count(index) == 0, at + " is set twice");
    (*bound)[index] = {(NSObject<MTLBuffer>*)mock, mock->memory, offset, {}};
}
- (void)setBytes:(const void*)bytes length:(NSUInteger)length atIndex:(NSUInteger)index {
    [self encodes];
    const std::string at = "buffer " + std::to_string(index);
    check(length > 0 && length <= 4096, at + ": setBytes takes 1 to 4096 bytes");
    check(bound->count(index) == 0, at + " is set twice");
    const char* first = static_cast<const char*>(bytes);
    (*bound)[index].bytes.assign(first, first + length);
}
- (void)setThreadgroupMemoryLength:(NSUInteger)length atIndex:(NSUInteger)index {
    [self encodes];
    check(length % 16 == 0, "threadgroup memory must be a multiple of 16 bytes");
    (*threadgroup)[index] = length;
}
- (void)checkBindings {
    const std::string of = std::string(kernel->name) + ": ";
    for (unsigned index = 0; index < emulator::kMostBuffers; ++index) {
        const std::string at = of + "buffer " + std::to_string(index);
        const bool declared = kernel->buffers >> index & 1, set = bound->count(index) == 1;
        check(declared || !set, at + " is set, but not declared");
        check(!declared || set, at + " is not set");
        if (!set) continue;
        const Bound& b = (*bound)[index];
        if (index == args_index_of(*kernel)) {
            check(b.memory == nullptr, at + " is a struct, not a tensor");
            const size_t size = args_size_of(*kernel);
            check(b.bytes.size() == size, at + " has " + std::to_string(b.bytes.size()) +
                                              " bytes, must have " + std::to_string(size));
        } else {
            check(b.memory != nullptr, at + " is a tensor, not bytes");
        }
    }
    check(kernel->threadgroup == (threadgroup->count(0) == 1),
          of + "threadgroup memory is set, and not declared, or the other way round");
}
- (void)dispatchThreadgroups:(MTLSize)groups threadsPerThreadgroup:(MTLSize)threads {
    [self encodes];
    check(kernel != nullptr, "a dispatch without a pipeline state");
    [self checkBindings];
    const std::string of = std::string(kernel->name) + ": ";
    check(threads_of(threads) >= 1 && threads_of(threads) <= kernel->threads,
          of + text_of(threads) + " threads a threadgroup, must be 1 to " +
              std::to_string(kernel->threads));
    check(groups.width >= 1 && groups.height >= 1 && groups.depth >= 1,
          of + "a grid of " + text_of(groups) + " threadgroups");
    size_t memory = 0;
    for (const auto& entry : *threadgroup) memory += entry.second;
    check(memory <= 32 * 1024, of + std::to_string(memory) + " bytes of threadgroup memory");

    Dispatch d;
    d.bound = *bound;
    d.launch.kernel = kernel->name;
    const MTLSize sizes[2] = {groups, threads};
    for (int i = 0; i < 2; ++i) {
        int64_t* to = i == 0 ? d.launch.groups : d.launch.threads;
        to[0] = static_cast<int64_t>(sizes[i].width);
        to[1] = static_cast<int64_t>(sizes[i].height);
        to[2] = static_cast<int64_t>(sizes[i].depth);
    }
    d.launch.threadgroup_bytes = static_cast<int64_t>(memory);
    // What a command buffer uses it keeps alive.
    for (auto& entry : d.bound) [entry.second.buffer retain];
    pending.push_back(std::move(d));
    ++dispatches;
}
- (void)endEncoding {
    [self encodes];
    ended = true;
    open_encoder = Open::nothing;
}
@end

@implementation FWMockCommandBuffer
- (id<MTLComputeCommandEncoder>)computeCommandEncoder {
    check(on_queue, "an encoder outside torch's queue");
    check(open_encoder == Open::nothing,
          std::string("a command encoder is already encoding to this command buffer: ") +
              (open_encoder == Open::torch ? "torch's" : "an operator's"));
    open_encoder = Open::operator_;
    return [[[FWMockEncoder alloc] init] autorelease];
}
- (void)commit {
    fail("an operator commits");
}
- (void)waitUntilCompleted {
    fail("an operator waits");
}
@end

extern "C" __attribute__((visibility("default"))) void dispatch_sync(dispatch_queue_t queue,
                                                                     dispatch_block_t block) {
    check(queue == the_queue(), "this is not torch's queue");
    check(!on_queue, "dispatch_sync on the queue that is running deadlocks");
    const std::lock_guard<std::mutex> lock(queue_mutex);
    on_queue = true;
    try {
        block();
    } catch (const std::exception& error) {
        on_queue = false;
        fail(std::string("an exception leaves the block of dispatch_sync: ") + error.what());
    }
    on_queue = false;
}

extern "C" __attribute__((visibility("default"))) dispatch_data_t
dispatch_data_create(const void* bytes, size_t size, dispatch_queue_t, dispatch_block_t) {
    FWMockData* data = [[FWMockData alloc] init];
    const char* first = static_cast<const char*>(bytes);
    data->bytes = new std::vector<char>(first, first + size);
    return data;
}

void* mock_new_buffer(size_t length) {
    FWMockBuffer* buffer = [FWMockBuffer alloc];
    buffer->memory = new Buffer(length);
    return buffer;
}

void mock_release_buffer(void* buffer) { [(FWMockBuffer*)buffer release]; }

char* mock_contents(void* buffer) { return ((FWMockBuffer*)buffer)->memory->contents(); }

void* mock_command_buffer() {
    check(on_queue, "torch::mps::get_command_buffer outside torch's queue");
    if (open_encoder == Open::torch) open_encoder = Open::nothing;
    return the_command_buffer();
}

void* mock_dispatch_queue() { return the_queue(); }

void mock_torch_encodes() {
    check(open_encoder != Open::operator_, "endEncoding is missing");
    open_encoder = Open::torch;
}

void mock_flush() {
    check(open_encoder != Open::operator_, "endEncoding is missing");
    open_encoder = Open::nothing;
    std::vector<Dispatch> commands;
    commands.swap(pending);
    for (Dispatch& d : commands) {
        for (auto& [index, bound] : d.bound) {
            const int at = static_cast<int>(index);
            if (bound.memory == nullptr) {
                d.launch.args.assign(bound.bytes.begin(), bound.bytes.end());
                d.launch.args_index = at;
                continue;
            }
            const auto size = static_cast<int64_t>(bound.memory->length - bound.offset);
            d.launch.buffers.push_back({at, bound.memory->contents() + bound.offset, size});
        }
        emulator::launch(d.launch, {});
        for (auto& entry : d.bound) {
            if (entry.second.memory) entry.second.memory->check_canaries(d.launch.kernel);
            [entry.second.buffer release];
        }
    }
}

// Makes the emulated kernels of a library those of the metallib.
MOCK_API void mock_load_kernels(const char* path) {
    emulator::load_library(path);
    void* table = dlsym(dlopen(path, RTLD_NOW | RTLD_LOCAL), emulator::kTableSymbol);
    const emulator::Kernel* kernel = reinterpret_cast<emulator::KernelTable>(table)();
    for (; kernel->name != nullptr; ++kernel) kernels[kernel->name] = kernel;
}

// How many kernels were encoded since the process began.
MOCK_API size_t mock_dispatches() { return dispatches; }
