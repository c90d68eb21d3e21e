import Foundation

/// Where this package and the repository around it lay when the package was built.
enum Locations {
    static let package = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    /// A kernel that the wheel is built from.
    static func kernel(_ name: String) -> URL {
        package.deletingLastPathComponent().deletingLastPathComponent()
            .appendingPathComponent("kernels_metal/\(name).metal")
    }

    /// The one kernel that only this example needs.
    static let accumulate = package.appendingPathComponent("Kernels/accumulate.metal")
}
