import ArgumentParser
import Foundation

/// The command line.
@main
struct WTConvCoreMLRunner: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "WTConvCoreMLRunner",
        abstract: "Runs WTConv2d: Haar transforms as Metal kernels, convolutions in Core ML."
    )

    @Option(help: "The Core ML model, .mlpackage or .mlmodelc.")
    var model = "Models/WTConv.mlpackage"

    @Option(help: "Channels of the image, an integer; default: the model's.")
    var channels: Int?

    @Option(help: "Rows of the image, an integer; default: the model's.")
    var height: Int?

    @Option(help: "Columns of the image, an integer; default: the model's.")
    var width: Int?

    @Option(help: "Levels of the wavelet transform, an integer; default: the model's.")
    var levels: Int?

    @Option(
        name: .customLong("input-f32"),
        help: "The image as raw float32, C x H x W; default: a sine over the elements.")
    var input: String?

    @Option(name: .customLong("output-f32"), help: "Where to write the result as raw float32.")
    var output: String?

    @Option(help: "How often to run and time the layer, an integer >= 1.")
    var iterations = 10

    func validate() throws {
        guard iterations >= 1 else {
            throw ValidationError("--iterations is \(iterations), must be an integer >= 1")
        }
    }

    func run() throws {
        let convolutions = try Convolutions(path: model)
        let shape = convolutions.shape
        try shape.check(option: "--channels", channels, \.channels, of: model)
        try shape.check(option: "--height", height, \.height, of: model)
        try shape.check(option: "--width", width, \.width, of: model)
        try shape.check(option: "--levels", levels, \.levels, of: model)

        let haar = try HaarKernels()
        let pipeline = try Pipeline(haar: haar, convolutions: convolutions)
        if let input {
            try readFloats(input, into: pipeline.image.elements)
        } else {
            for i in pipeline.image.elements.indices {
                pipeline.image.elements[i] = sin(Float(i))
            }
        }

        try pipeline.run()  // Core ML plans at its first prediction
        let times = try (0..<iterations).map { _ in try pipeline.run() }
        print("WTConv2d, \(shape), on \(haar.device.name), \(iterations) iterations")
        print(StageTimes.table(times))
        print(Summary(pipeline.result.elements))
        if let output {
            try writeFloats(pipeline.result.elements, to: output)
            print("wrote \(output)")
        }
    }
}
