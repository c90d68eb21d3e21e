// A device "mps" for a CPU build of torch: its memory lies in the mock's buffers, its operators run
// on the CPU, and torch::mps's functions lead to the mock. A tensor's data pointer is that of the
// MTLBuffer object, as on a Mac, so that host code which takes it for memory shows at once.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/detail/MPSHooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include "mock.h"

namespace {

using at::Tensor;
constexpr c10::DeviceType kMps = c10::DeviceType::MPS;

struct MpsAllocator final : at::Allocator {
    at::DataPtr allocate(size_t bytes) override {
        void* buffer = bytes == 0 ? nullptr : mock_new_buffer(bytes);
        return {buffer, buffer, &mock_release_buffer, c10::Device(kMps, 0)};
    }
    at::DeleterFnPtr raw_deleter() const override { return &mock_release_buffer; }
    void copy_data(void* to, const void* from, size_t bytes) const override {
        mock_flush();
        std::memcpy(mock_contents(to), mock_contents(const_cast<void*>(from)), bytes);
    }
} allocator;

struct MpsHooks final : at::MPSHooksInterface {
    void init() const override {}
    bool isBuilt() const override { return true; }
    bool isAvailable() const override { return true; }
    bool hasMPS() const override { return true; }
    bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
    at::Allocator* getMPSDeviceAllocator() const override { return &allocator; }
    void* getCommandBuffer() const override { return mock_command_buffer(); }
    void* getDispatchQueue() const override { return mock_dispatch_queue(); }
    void commitStream() const override { TORCH_CHECK(false, "[mock] an operator commits"); }
    void deviceSynchronize() const override { TORCH_CHECK(false, "[mock] an operator waits"); }
};

void check_dtype(at::ScalarType dtype) {
    TORCH_CHECK_TYPE(dtype != at::kDouble && dtype != at::kComplexDouble,
                     "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't "
                     "support float64. Please use float32 instead.");
}

Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<at::Device>, std::optional<bool>,
             std::optional<at::MemoryFormat> format) {
    const at::ScalarType type = c10::dtype_or_default(dtype);
    check_dtype(type);
    return at::detail::empty_generic(size, &allocator, c10::DispatchKeySet(c10::DispatchKey::MPS),
                                     type, format);
}

Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride,
                     std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                     std::optional<at::Device>, std::optional<bool>) {
    const at::ScalarType type = c10::dtype_or_default(dtype);
    check_dtype(type);
    return at::detail::empty_strided_generic(size, stride, &allocator,
                                             c10::DispatchKeySet(c10::DispatchKey::MPS), type);
}

// A CPU tensor over the same memory.
Tensor on_cpu(const Tensor& t) {
    if (t.device().type() != kMps) return t;
    if (t.storage().data() == nullptr) {
        return at::empty_strided(t.sizes(), t.strides(), t.options().device(at::kCPU));
    }
    char* base = mock_contents(t.storage().mutable_data());
    return at::from_blob(base + t.storage_offset() * t.element_size(), t.sizes(), t.strides(),
                         t.options().device(at::kCPU));
}

Tensor& copy_(Tensor& self, const Tensor& source, bool) {
    mock_flush();
    on_cpu(self).copy_(on_cpu(source));
    return self;
}

Tensor copy_from(const Tensor& self, const Tensor& to, bool) {
    mock_flush();
    on_cpu(to).copy_(on_cpu(self));
    return to;
}

const Tensor& resize_(const Tensor& self, at::IntArrayRef size, std::optional<at::MemoryFormat>) {
    const size_t bytes =
        (c10::multiply_integers(size) + self.storage_offset()) * self.element_size();
    if (bytes > self.storage().nbytes()) {
        TORCH_CHECK(self.numel() == 0, "[fake mps] only empty tensors grow");
        self.storage().unsafeGetStorageImpl()->set_data_ptr(allocator.allocate(bytes));
        self.storage().unsafeGetStorageImpl()->set_nbytes(bytes);
    }
    self.unsafeGetTensorImpl()->set_sizes_contiguous(size);
    return self;
}

Tensor copy_from_and_resize(const Tensor& self, const Tensor& to) {
    if (self.sizes() != to.sizes()) resize_(to, self.sizes(), std::nullopt);
    return copy_from(self, to, false);
}

Tensor& set_storage_(Tensor& self, at::Storage source) {
    const auto size = static_cast<int64_t>(source.nbytes() / self.element_size());
    return at::native::set_storage_cpu_(self, std::move(source), 0, {size}, {1});
}

// The convolutions ask for no fallback.
Tensor convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                   at::SymIntArrayRef stride, at::SymIntArrayRef padding,
                   at::SymIntArrayRef dilation, bool transposed, at::SymIntArrayRef output_padding,
                   c10::SymInt groups) {
    mock_flush();
    const auto b = bias && bias->defined() ? std::optional(on_cpu(*bias)) : std::nullopt;
    return at::convolution_symint(on_cpu(input), on_cpu(weight), b, stride, padding, dilation,
                                  transposed, output_padding, groups)
        .to(kMps);
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& grad, const Tensor& input, const Tensor& weight, at::SymIntArrayRef stride,
    at::SymIntArrayRef padding, at::SymIntArrayRef dilation, bool transposed,
    at::SymIntArrayRef output_padding, c10::SymInt groups, std::array<bool, 3> mask) {
    mock_flush();
    const std::vector<c10::SymInt> bias{weight.sym_size(0)};
    const auto [dx, dw, db] = at::convolution_backward_symint(
        on_cpu(grad), on_cpu(input), on_cpu(weight), at::SymIntArrayRef(bias), stride, padding,
        dilation, transposed, output_padding, groups, mask);
    const auto back = [](const Tensor& t) { return t.defined() ? t.to(kMps) : t; };
    return {back(dx), back(dw), back(db)};
}

at::Scalar local_scalar(const Tensor& self) {
    mock_flush();
    return at::_local_scalar_dense(on_cpu(self));
}

// Everything else: torch's own kernels on a Mac, which leave their encoder open.
void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
    at::native::cpu_fallback(op, stack);
    mock_torch_encodes();
}

}  // namespace

namespace at {  // where torch's macro for hooks looks for its parts
C10_REGISTER_CLASS(MPSHooksRegistry, MPSHooks, MpsHooks)
}

namespace {

// One device with one stream, which autograd's threads join by events.
struct MpsGuard final : c10::impl::NoOpDeviceGuardImpl<kMps> {
    c10::Device exchangeDevice(c10::Device) const override { return getDevice(); }
    c10::Device getDevice() const override { return c10::Device(kMps, 0); }
    c10::Stream getStream(c10::Device) const noexcept override {
        return c10::Stream(c10::Stream::DEFAULT, getDevice());
    }
    c10::Stream exchangeStream(c10::Stream) const noexcept override {
        return getStream(getDevice());
    }
    void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
    void block(void*, const c10::Stream&) const override {}
    bool queryEvent(void*) const override { return true; }
};
C10_REGISTER_GUARD_IMPL(MPS, MpsGuard);

const bool with_allocator = [] {
    c10::SetAllocator(kMps, &allocator);
    return true;
}();

TORCH_LIBRARY_IMPL(_, MPS, m) {
    m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(aten, MPS, m) {
    m.impl("empty.memory_format", &empty);
    m.impl("empty_strided", &empty_strided);
    m.impl("copy_", &copy_);
    m.impl("_copy_from", &copy_from);
    m.impl("_copy_from_and_resize", &copy_from_and_resize);
    m.impl("resize_", &resize_);
    m.impl("_local_scalar_dense", &local_scalar);
    m.impl("as_strided", &at::native::as_strided_tensorimpl);
    m.impl("view", &at::native::view);
    m.impl("_reshape_alias", &at::native::_reshape_alias);
    m.impl("convolution_overrideable", &convolution);
    m.impl("convolution_backward_overrideable", &convolution_backward);
    m.impl("set_.source_Storage", &set_storage_);
    m.impl("set_.source_Storage_storage_offset", &at::native::set_storage_cpu_);
}

}  // namespace
