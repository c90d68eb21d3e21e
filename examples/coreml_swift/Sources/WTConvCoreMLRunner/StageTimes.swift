import Foundation

/// The time that each stage of one run took, waiting for the device included.
struct StageTimes {
    let haar, convolutions, inverse: Duration

    private var stages: [(name: String, time: Duration)] {
        [
            ("Metal: Haar transforms", haar),
            ("Core ML: convolutions", convolutions),
            ("Metal: inverse, sum", inverse),
            ("all", haar + convolutions + inverse),
        ]
    }

    /// Median and minimum of every stage over several runs, at least one.
    static func table(_ runs: [StageTimes]) -> String {
        let header = line("stage", "median ms", "least ms")
        let rows = runs[0].stages.indices.map { stage in
            let sorted = runs.map { $0.stages[stage].time.milliseconds }.sorted()
            return line(
                runs[0].stages[stage].name,
                String(format: "%.3f", sorted[sorted.count / 2]),
                String(format: "%.3f", sorted[0]))
        }
        return ([header] + rows).joined(separator: "\n")
    }

    private static func line(_ name: String, _ median: String, _ least: String) -> String {
        func right(_ text: String) -> String {
            String(repeating: " ", count: max(0, 11 - text.count)) + text
        }
        return name.padding(toLength: 24, withPad: " ", startingAt: 0) + right(median) + right(least)
    }
}

extension Duration {
    var milliseconds: Double {
        Double(components.seconds) * 1e3 + Double(components.attoseconds) * 1e-15
    }
}
