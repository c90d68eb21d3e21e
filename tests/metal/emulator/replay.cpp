// Runs recorded launches in a process that a sanitizer watches, without Python. The file is what
// record.py writes: for each launch its name, its sizes, and the bytes of every buffer.

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <string>
#include <vector>

#include "runtime.h"

namespace {

int64_t number(std::ifstream& file) {
    int64_t value = 0;
    file.read(reinterpret_cast<char*>(&value), sizeof(value));
    return value;
}

std::string text(std::ifstream& file) {
    std::string value(number(file), '\0');
    file.read(value.data(), static_cast<std::streamsize>(value.size()));
    return value;
}

}  // namespace

// Arguments: the schedule, the recording, and the libraries of kernels.
int main(int argc, char** argv) try {
    if (argc < 4) throw std::runtime_error("usage: replay SCHEDULE RECORDING LIBRARY...");
    for (int i = 3; i < argc; ++i) emulator::load_library(argv[i]);
    std::ifstream file(argv[2], std::ios::binary);
    const int64_t count = number(file);
    for (int64_t i = 0; i < count; ++i) {
        emulator::Launch launch;
        launch.kernel = text(file);
        for (int64_t& v : launch.groups) v = number(file);
        for (int64_t& v : launch.threads) v = number(file);
        launch.threadgroup_bytes = number(file);
        launch.args_index = static_cast<int>(number(file));
        launch.args = text(file);
        std::vector<std::string> memory(number(file));
        for (std::string& bytes : memory) {
            const int index = static_cast<int>(number(file));
            bytes = text(file);
            const auto size = static_cast<int64_t>(bytes.size());
            launch.buffers.push_back({index, bytes.data(), size});
        }
        if (!file) throw std::runtime_error("the recording ends too early");
        emulator::launch(launch, {emulator::schedule_of(argv[1]), static_cast<uint64_t>(i)});
    }
    std::printf("%lld launches\n", static_cast<long long>(count));
    return 0;
} catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
