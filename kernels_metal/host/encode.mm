#import "host/encode.h"

#import <Foundation/Foundation.h>
#import <dispatch/dispatch.h>

#include <exception>
#include <mutex>
#include <unordered_map>

#include "host/metallib.h"

// All that is used of torch beside its stable ABI, which knows no MPS stream: torch/mps.h declares
// it, but not for a build that is to serve every later torch.
namespace torch::mps {
id<MTLCommandBuffer> get_command_buffer();
dispatch_queue_t get_dispatch_queue();
}  // namespace torch::mps

namespace fusewright::metal {
namespace {

std::string text_of(NSError* error) {
    return error == nil ? "no reason given" : [[error localizedDescription] UTF8String];
}

id<MTLLibrary> load_library(id<MTLDevice> device) {
    const dispatch_data_t data = dispatch_data_create(metallib_begin(), metallib_size(), nil,
                                                      DISPATCH_DATA_DESTRUCTOR_DEFAULT);
    NSError* error = nil;
    id<MTLLibrary> library = [device newLibraryWithData:data error:&error];
    STD_TORCH_CHECK(library != nil, "the Metal kernels do not load: ", text_of(error));
    return library;
}

// Made once and kept: macOS has one GPU that torch uses. Called on torch's queue alone, which runs
// one block at a time.
id<MTLComputePipelineState> pipeline_of(const std::string& name, id<MTLDevice> device) {
    static auto& made = *new std::unordered_map<std::string, id<MTLComputePipelineState>>;
    static id<MTLLibrary> library = load_library(device);
    const auto found = made.find(name);
    if (found != made.end()) return found->second;
    id<MTLFunction> function =
        [library newFunctionWithName:[NSString stringWithUTF8String:name.c_str()]];
    STD_TORCH_CHECK(function != nil, "there is no Metal kernel ", name);
    NSError* error = nil;
    id<MTLComputePipelineState> pipeline = [device newComputePipelineStateWithFunction:function
                                                                                 error:&error];
    STD_TORCH_CHECK(pipeline != nil, "the Metal kernel ", name,
                    " does not compile: ", text_of(error));
    made[name] = pipeline;
    return pipeline;
}

MTLSize size_of(const int64_t (&n)[3]) {
    return MTLSizeMake(static_cast<NSUInteger>(n[0]), static_cast<NSUInteger>(n[1]),
                       static_cast<NSUInteger>(n[2]));
}

// The data pointer of an MPS tensor is the MTLBuffer's own, plus the offset, which is no address.
// That of an alias without an offset is right however torch computes it.
id<MTLBuffer> buffer_of(const Tensor& t) {
    if (t.storage_offset() == 0) return (__bridge id<MTLBuffer>)t.data_ptr();
    const int64_t one = 1;
    AtenTensorHandle handle;
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch__reinterpret_tensor(t.get(), 1, &one, &one, -t.storage_offset(), &handle));
    return (__bridge id<MTLBuffer>)Tensor(handle).data_ptr();
}

}  // namespace

void Encoder::run(const std::string& kernel, const FwDispatch& dispatch, const Tensors& tensors,
                  const void* args, size_t size) const {
    const auto there = [](const std::optional<Tensor>& t) { return present(t) && t->numel() > 0; };
    const auto first = std::find_if(tensors.begin(), tensors.end(), there);
    STD_TORCH_CHECK(first != tensors.end(), kernel, " has no tensor to work on");
    id<MTLComputePipelineState> pipeline = pipeline_of(kernel, [buffer_of(**first) device]);
    [encoder_ setComputePipelineState:pipeline];
    NSUInteger index = 0;
    for (const std::optional<Tensor>& given : tensors) {
        const Tensor& t = there(given) ? *given : **first;
        const auto offset = static_cast<NSUInteger>(t.storage_offset() * t.element_size());
        [encoder_ setBuffer:buffer_of(t) offset:offset atIndex:index++];
    }
    [encoder_ setBytes:args length:size atIndex:index];
    if (dispatch.threadgroup_bytes > 0) {
        const auto bytes = static_cast<NSUInteger>(round_up(dispatch.threadgroup_bytes, 16));
        [encoder_ setThreadgroupMemoryLength:bytes atIndex:0];
    }
    const int64_t (&threads)[3] = dispatch.threads;
    const auto most = static_cast<int64_t>([pipeline maxTotalThreadsPerThreadgroup]);
    STD_TORCH_CHECK(threads[0] * threads[1] * threads[2] <= most, kernel, " runs ", most,
                    " threads at most in a threadgroup, not ",
                    threads[0] * threads[1] * threads[2]);
    [encoder_ dispatchThreadgroups:size_of(dispatch.groups) threadsPerThreadgroup:size_of(threads)];
}

void encode(const std::function<void(const Encoder&)>& body) {
    // A block holds references by their address alone, and no exception may leave it.
    const std::function<void(const Encoder&)>* call = &body;
    std::exception_ptr error;
    std::exception_ptr* caught = &error;
    dispatch_sync(torch::mps::get_dispatch_queue(), ^{
      @autoreleasepool {
          id<MTLComputeCommandEncoder> encoder = nil;
          try {
              // Asked for here, not before: torch ends its own encoder when it hands out the
              // buffer.
              encoder = [torch::mps::get_command_buffer() computeCommandEncoder];
              (*call)(Encoder(encoder));
          } catch (...) {
              *caught = std::current_exception();
          }
          [encoder endEncoding];
      }
    });
    if (error) std::rethrow_exception(error);
}

}  // namespace fusewright::metal
