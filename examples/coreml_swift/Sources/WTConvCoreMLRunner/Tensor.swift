import CoreML
import Foundation
import Metal

/// A dense float tensor (1, C, H, W), which the CPU, the GPU and Core ML reach without a copy.
struct Tensor {
    let name: String
    let channels, height, width: Int
    let buffer: MTLBuffer
    let array: MLMultiArray

    init(_ device: MTLDevice, _ name: String, channels: Int, height: Int, width: Int) throws {
        self.name = name
        (self.channels, self.height, self.width) = (channels, height, width)
        let plane = height * width
        let bytes = channels * plane * MemoryLayout<Float>.stride
        guard let buffer = device.makeBuffer(length: bytes, options: .storageModeShared) else {
            throw Failure("\(name): \(device.name) has no \(bytes) bytes left")
        }
        self.buffer = buffer
        array = try MLMultiArray(
            dataPointer: buffer.contents(),
            shape: [1, channels, height, width].map { NSNumber(value: $0) },
            dataType: .float32,
            strides: [channels * plane, plane, width, 1].map { NSNumber(value: $0) },
            deallocator: { _ in withExtendedLifetime(buffer) {} })
    }

    /// The elements, row by row.
    var elements: UnsafeMutableBufferPointer<Float> {
        let count = channels * height * width
        return UnsafeMutableBufferPointer(
            start: buffer.contents().bindMemory(to: Float.self, capacity: count), count: count)
    }

    /// Take over a result that Core ML chose not to write into `array`.
    func take(_ result: MLMultiArray) throws {
        guard result !== array else { return }
        guard result.dataType == .float32, result.shape == array.shape else {
            throw Failure(
                "the model's output \(name) has shape \(result.shape) and type "
                    + "\(result.dataType.rawValue), must have \(array.shape) and "
                    + "\(MLMultiArrayDataType.float32.rawValue), float32")
        }
        let strides = result.strides.map(\.intValue)
        result.withUnsafeBytes { bytes in
            let from = bytes.bindMemory(to: Float.self)
            if from.baseAddress == UnsafePointer(elements.baseAddress) { return }
            for channel in 0..<channels {
                for row in 0..<height {
                    let source = channel * strides[1] + row * strides[2]
                    let target = (channel * height + row) * width
                    for column in 0..<width {
                        elements[target + column] = from[source + column * strides[3]]
                    }
                }
            }
        }
    }
}

/// Every `step`-th channel of a tensor, in place.
struct Planes {
    let tensor: Tensor
    let step: Int

    var count: Int { tensor.channels / step }
    var stride: Int { step * tensor.height * tensor.width }
}

extension Tensor {
    var all: Planes { Planes(tensor: self, step: 1) }

    /// Of bands, channel 4c + s being band s of channel c: band 0, which the next level transforms.
    var low: Planes { Planes(tensor: self, step: 4) }
}
