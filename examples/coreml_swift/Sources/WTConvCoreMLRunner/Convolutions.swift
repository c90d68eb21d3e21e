import CoreML
import Foundation

/// The convolutions and scales of all branches: one Core ML model, one prediction.
///
/// Its inputs are the image `x` and the bands of every level, `bands1` and so on; its outputs
/// `base` and `filtered1` and so on. tools/export_wtconv_coreml.py writes it.
struct Convolutions {
    let shape: Shape
    private let model: MLModel

    /// - Parameter path: of an `.mlpackage`, which is compiled, or of a compiled `.mlmodelc`.
    init(path: String) throws {
        let file = URL(fileURLWithPath: path)
        guard FileManager.default.fileExists(atPath: file.path) else {
            throw Failure(
                "--model is \(path), which does not exist; must be an .mlpackage or .mlmodelc")
        }
        do {
            let compiled = file.pathExtension == "mlmodelc" ? file : try MLModel.compileModel(at: file)
            model = try MLModel(contentsOf: compiled)
        } catch {
            throw Failure(
                "--model is \(path), must be a Core ML model: \(error.localizedDescription)")
        }
        let inputs = model.modelDescription.inputDescriptionsByName
        guard let sizes = inputs["x"]?.multiArrayConstraint?.shape.map(\.intValue),
            sizes.count == 4, sizes[0] == 1
        else {
            throw Failure(
                "--model is \(path) with inputs \(inputs.keys.sorted()), "
                    + "must have an input x of shape (1, C, H, W)")
        }
        shape = Shape(
            channels: sizes[1], height: sizes[2], width: sizes[3],
            levels: inputs.keys.filter { $0.hasPrefix("bands") }.count)
    }

    /// Run the model; the names of its inputs and outputs are the tensors' own.
    func predict(from inputs: [Tensor], into outputs: [Tensor]) throws {
        func byName(_ tensors: [Tensor]) -> [String: MLMultiArray] {
            Dictionary(uniqueKeysWithValues: tensors.map { ($0.name, $0.array) })
        }
        let options = MLPredictionOptions()
        options.outputBackings = byName(outputs)
        let results = try model.prediction(
            from: MLDictionaryFeatureProvider(dictionary: byName(inputs)), options: options)
        for output in outputs {
            guard let result = results.featureValue(for: output.name)?.multiArrayValue else {
                throw Failure("the model has no output \(output.name)")
            }
            try output.take(result)
        }
    }
}
