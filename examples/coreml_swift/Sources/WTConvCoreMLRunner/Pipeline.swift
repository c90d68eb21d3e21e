import Metal

/// WTConv2d on one image: Haar transforms level by level on the GPU, the convolutions of all
/// branches in one Core ML prediction, and the inverse transforms from the deepest level up.
struct Pipeline {
    /// One level of the transform.
    private struct Level {
        let bands, filtered: Tensor  // of the low band above, and what its convolution gives
        let reconstruction: Tensor  // the inverse transform of `filtered`
    }

    let image: Tensor
    let result: Tensor  // the base branch, to which the wavelet branches are added
    private let levels: [Level]
    private let haar: HaarKernels
    private let convolutions: Convolutions

    init(haar: HaarKernels, convolutions: Convolutions) throws {
        (self.haar, self.convolutions) = (haar, convolutions)
        let shape = convolutions.shape

        func tensor(_ name: String, _ channels: Int, _ height: Int, _ width: Int) throws -> Tensor {
            try Tensor(haar.device, name, channels: channels, height: height, width: width)
        }
        image = try tensor("x", shape.channels, shape.height, shape.width)
        result = try tensor("base", shape.channels, shape.height, shape.width)
        levels = try shape.images.enumerated().map { index, size in
            let (height, width) = (half(size.height), half(size.width))
            return Level(
                bands: try tensor("bands\(index + 1)", 4 * shape.channels, height, width),
                filtered: try tensor("filtered\(index + 1)", 4 * shape.channels, height, width),
                reconstruction: try tensor(
                    "reconstruction\(index + 1)", shape.channels, size.height, size.width))
        }
    }

    /// Compute `result` from `image`.
    @discardableResult
    func run() throws -> StageTimes {
        let clock = ContinuousClock()
        return StageTimes(
            haar: try clock.measure(transform),
            convolutions: try clock.measure(convolve),
            inverse: try clock.measure(reconstruct))
    }

    /// Each level takes the low band of the one above as it is, before its convolution.
    private func transform() throws {
        try haar.run { encoder in
            var low = image.all
            for level in levels {
                haar.forward(encoder, low, to: level.bands)
                low = level.bands.low
            }
        }
    }

    private func convolve() throws {
        try convolutions.predict(
            from: [image] + levels.map(\.bands), into: [result] + levels.map(\.filtered))
    }

    /// From the deepest level on, what a level gives joins the low band of the one above, and at
    /// last the base branch.
    private func reconstruct() throws {
        try haar.run { encoder in
            for (index, level) in levels.enumerated().reversed() {
                haar.inverse(encoder, level.filtered, to: level.reconstruction)
                let above = index > 0 ? levels[index - 1].filtered.low : result.all
                haar.add(encoder, level.reconstruction, to: above)
            }
        }
    }
}
