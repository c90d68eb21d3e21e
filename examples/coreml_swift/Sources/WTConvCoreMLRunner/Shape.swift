/// The sizes that a model was exported for; the batch is one image.
struct Shape: CustomStringConvertible {
    let channels, height, width, levels: Int

    var elements: Int { channels * height * width }

    var description: String { "1 x \(channels) x \(height) x \(width), \(levels) levels" }

    /// Height and width of the image that each level transforms. Odd sizes are padded with a zero,
    /// so the bands, whose low one the next level transforms, are half of it rounded up.
    var images: [(height: Int, width: Int)] {
        var sizes: [(height: Int, width: Int)] = []
        var (height, width) = (self.height, self.width)
        for _ in 0..<levels {
            sizes.append((height, width))
            (height, width) = (half(height), half(width))
        }
        return sizes
    }

    /// Refuse an option that is given and is not the model's.
    func check(option: String, _ value: Int?, _ own: KeyPath<Shape, Int>, of model: String) throws {
        if let value, value != self[keyPath: own] {
            throw Failure("\(option) is \(value), must be \(self[keyPath: own]) as in \(model)")
        }
    }
}

/// Half, rounded up: the size of the bands.
func half(_ size: Int) -> Int { (size + 1) / 2 }
