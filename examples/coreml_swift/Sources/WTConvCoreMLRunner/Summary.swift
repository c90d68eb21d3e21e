import Foundation

/// What a result looks like, so that a wrong one is seen.
struct Summary: CustomStringConvertible {
    private let values: UnsafeMutableBufferPointer<Float>

    init(_ values: UnsafeMutableBufferPointer<Float>) {
        self.values = values
    }

    var description: String {
        let finite = values.filter(\.isFinite).map(Double.init)
        let count = Double(max(finite.count, 1))
        let mean = finite.reduce(0, +) / count
        let square = finite.reduce(0) { $0 + $1 * $1 } / count
        return String(
            format: "output: min %.6g, max %.6g, mean %.6g, rms %.6g, %d of %d elements not finite",
            finite.min() ?? .nan, finite.max() ?? .nan, mean, square.squareRoot(),
            values.count - finite.count, values.count)
    }
}
