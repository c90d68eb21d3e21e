import Foundation

/// Raw float32 elements in the machine's byte order, which is little-endian on every Apple device.
func readFloats(_ path: String, into elements: UnsafeMutableBufferPointer<Float>) throws {
    let data: Data
    do {
        data = try Data(contentsOf: URL(fileURLWithPath: path))
    } catch {
        throw Failure("--input-f32 \(path) can't be read: \(error.localizedDescription)")
    }
    let bytes = elements.count * MemoryLayout<Float>.stride
    guard data.count == bytes else {
        throw Failure(
            "--input-f32 \(path) has \(data.count) bytes, must have \(bytes): "
                + "\(elements.count) elements of 4 bytes")
    }
    _ = data.copyBytes(to: elements)
}

func writeFloats(_ elements: UnsafeMutableBufferPointer<Float>, to path: String) throws {
    do {
        try Data(buffer: elements).write(to: URL(fileURLWithPath: path))
    } catch {
        throw Failure("--output-f32 \(path) can't be written: \(error.localizedDescription)")
    }
}
