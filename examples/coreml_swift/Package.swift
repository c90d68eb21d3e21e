// swift-tools-version: 5.9
import PackageDescription

let package = Package(
    name: "WTConvCoreMLRunner",
    platforms: [.macOS(.v13)],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.3.0")
    ],
    targets: [
        .target(name: "KernelPlan"),
        .executableTarget(
            name: "WTConvCoreMLRunner",
            dependencies: [
                "KernelPlan",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ]
        ),
    ],
    cxxLanguageStandard: .cxx17
)
