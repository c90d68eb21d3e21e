import Foundation
import KernelPlan
import Metal

/// The repository's Haar kernels, and the sum that joins the branches, on the default GPU.
struct HaarKernels {
    let device: MTLDevice
    private let queue: MTLCommandQueue
    private let haar, ihaar, accumulate: MTLComputePipelineState

    init() throws {
        guard let device = MTLCreateSystemDefaultDevice(), let queue = device.makeCommandQueue()
        else { throw Failure("this machine has no Metal device") }
        (self.device, self.queue) = (device, queue)

        /// A file is a library of its own, as files may name helpers alike.
        func pipeline(_ file: URL, _ kernel: String) throws -> MTLComputePipelineState {
            do {
                let source = try KernelSource(file).text
                let library = try device.makeLibrary(source: source, options: nil)
                guard let function = library.makeFunction(name: kernel) else {
                    throw Failure("it has no \(kernel), only \(library.functionNames)")
                }
                return try device.makeComputePipelineState(function: function)
            } catch {
                throw Failure("\(file.path): \(error)")
            }
        }
        haar = try pipeline(Locations.kernel("haar2d"), "haar2d_forward_float")
        ihaar = try pipeline(Locations.kernel("ihaar2d"), "ihaar2d_forward_float")
        accumulate = try pipeline(Locations.accumulate, "accumulate_float")
    }

    /// Encode commands, which run in their order, and wait for them.
    func run(_ encode: (MTLComputeCommandEncoder) throws -> Void) throws {
        guard let commands = queue.makeCommandBuffer(),
            let encoder = commands.makeComputeCommandEncoder()
        else { throw Failure("\(device.name) takes no more commands") }
        do {
            defer { encoder.endEncoding() }
            try encode(encoder)
        }
        commands.commit()
        commands.waitUntilCompleted()
        if let error = commands.error {
            throw Failure("\(device.name): \(error.localizedDescription)")
        }
    }

    /// The four bands of every plane, (1, 4C, ceil(H/2), ceil(W/2)).
    func forward(_ encoder: MTLComputeCommandEncoder, _ image: Planes, to bands: Tensor) {
        let (height, width) = (image.tensor.height, image.tensor.width)
        let args = FwHaarArgs(
            planes: Int64(image.count), channels: Int64(image.count),
            height: Int64(height), width: Int64(width),
            stride_n: Int64(image.count * image.stride), stride_c: Int64(image.stride),
            stride_h: Int64(width), stride_w: 1)
        encode(encoder, haar, image.tensor.buffer, bands.buffer, args, planHaar(args))
    }

    /// The image that has these bands, cropped to its own size.
    func inverse(_ encoder: MTLComputeCommandEncoder, _ bands: Tensor, to image: Tensor) {
        let plane = bands.height * bands.width
        let args = FwHaarArgs(
            planes: Int64(image.channels), channels: Int64(image.channels),
            height: Int64(image.height), width: Int64(image.width),
            stride_n: Int64(bands.channels * plane), stride_c: Int64(plane),
            stride_h: Int64(bands.width), stride_w: 1)
        encode(encoder, ihaar, bands.buffer, image.buffer, args, planHaar(args))
    }

    /// Add an image to planes of its size.
    func add(_ encoder: MTLComputeCommandEncoder, _ image: Tensor, to planes: Planes) {
        let size = image.height * image.width
        let args = AccumulateArgs(
            planes: Int64(image.channels), size: Int64(size), stride: Int64(planes.stride))
        encode(encoder, accumulate, planes.tensor.buffer, image.buffer, args, planAccumulate(args))
    }

    /// Bind a kernel as all of these are bound: its tensors in their order, the arguments behind.
    private func encode<Arguments>(
        _ encoder: MTLComputeCommandEncoder, _ kernel: MTLComputePipelineState,
        _ first: MTLBuffer, _ second: MTLBuffer, _ arguments: Arguments, _ plan: KernelDispatch
    ) {
        encoder.setComputePipelineState(kernel)
        encoder.setBuffer(first, offset: 0, index: 0)
        encoder.setBuffer(second, offset: 0, index: 1)
        withUnsafeBytes(of: arguments) {
            encoder.setBytes($0.baseAddress!, length: $0.count, index: 2)
        }
        encoder.dispatchThreadgroups(
            MTLSize(plan.groups), threadsPerThreadgroup: MTLSize(plan.threads))
    }
}

extension MTLSize {
    fileprivate init(_ size: (Int64, Int64, Int64)) {
        self.init(width: Int(size.0), height: Int(size.1), depth: Int(size.2))
    }
}
