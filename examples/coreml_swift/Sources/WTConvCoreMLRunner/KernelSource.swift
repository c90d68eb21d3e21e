import Foundation

/// Metal source text with its quoted includes resolved.
///
/// `MTLDevice.makeLibrary(source:)` knows no files, and `swift build` compiles no `.metal` files;
/// so the repository's kernels are read, and each of their headers is put where it is included
/// first. What stands in angle brackets is Metal's own and stays.
struct KernelSource {
    private(set) var text = ""
    private var seen: Set<String> = []

    init(_ file: URL) throws {
        try append(file)
    }

    private mutating func append(_ file: URL) throws {
        guard seen.insert(file.standardizedFileURL.path).inserted else { return }
        let content: String
        do {
            content = try String(contentsOf: file, encoding: .utf8)
        } catch {
            throw Failure("\(file.path) can't be read: \(error.localizedDescription)")
        }
        for line in content.split(separator: "\n", omittingEmptySubsequences: false) {
            let words = line.split(separator: " ", omittingEmptySubsequences: true)
            if words.first == "#include", let name = quoted(words.dropFirst().first) {
                try append(file.deletingLastPathComponent().appendingPathComponent(name))
            } else if words.first != "#pragma" || words.dropFirst().first != "once" {
                text += line + "\n"
            }
        }
    }

    private func quoted(_ word: Substring?) -> String? {
        guard let word, word.count > 2, word.hasPrefix("\""), word.hasSuffix("\"") else { return nil }
        return String(word.dropFirst().dropLast())
    }
}
