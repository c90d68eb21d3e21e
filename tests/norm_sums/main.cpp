// Sums of random numbers of blocks for random rows: each has a place of its own, in the rows of its
// strip; all are added up, and nothing else is read.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "norm_sums.cuh"

using namespace fusewright::cuda;

constexpr int kThreads = 32;

bool fail(const char* what) {
    std::printf("%s\n", what);
    return false;
}

bool check(std::mt19937& random) {
    const auto up_to = [&](int64_t n) { return static_cast<int64_t>(1 + random() % n); };
    const int64_t columns = 4 * up_to(400), blocks = up_to(140), planes = up_to(2);
    const int64_t rows = up_to(3000),
                  row = up_to(2) == 1 ? columns : ceil_div<int64_t>(columns, 8) * 4;
    StripSums sums = strip_sums(rows, columns, row, blocks, planes, up_to(300));
    std::printf("rows %ld columns %ld of %ld floats, blocks %ld, planes %ld: width %d, late %d\n",
                rows, columns, row, blocks, planes, sums.width, sums.late);
    if (sums.late == 0) return true;
    const int64_t strips = ceil_div<int64_t>(columns, sums.width);
    if (sums.first_late < 0 || sums.first_late + sums.late * strips != rows) return fail("rows");
    std::vector<float> memory(sums.late * strips * row, NAN);
    sums.data = memory.data();
    std::vector<double> expected(planes * columns);
    for (int b = 0; b < blocks; ++b) {
        for (int plane = 0; plane < planes; ++plane) {
            for (int64_t column = 0; column < columns; column += 4) {
                auto* at = reinterpret_cast<float*>(sums.at(b, plane, static_cast<int>(column)));
                const int64_t place = at - memory.data();
                if (place < 0 || place + 4 > static_cast<int64_t>(memory.size()))
                    return fail("outside");
                if (place / sums.pitch != column / sums.width) return fail("another strip's rows");
                for (int j = 0; j < 4; ++j) {
                    if (!std::isnan(at[j])) return fail("twice");
                    at[j] = static_cast<float>(random() % 1000);
                    expected[plane * columns + column + j] += at[j];
                }
            }
        }
    }
    std::vector<float> found(planes * columns, NAN);
    const Untyped dweight{found.data()}, dbias{planes == 2 ? found.data() + columns : nullptr};
    std::barrier<> barrier(kThreads);
    block = &barrier;
    std::vector<std::thread> threads;
    for (unsigned thread = 0; thread < kThreads; ++thread) {
        threads.emplace_back([&, thread] {
            threadIdx.x = thread;
            for (int strip = 0; strip < strips; ++strip) {
                add_strip<kThreads>(sums, strip, static_cast<int>(columns), dweight, dbias);
            }
        });
    }
    for (auto& thread : threads) thread.join();
    if (unwritten_read) return fail("what nobody wrote");
    for (size_t i = 0; i < found.size(); ++i) {
        if (found[i] != expected[i]) return fail("a sum");
    }
    return true;
}

int main(int, char** arguments) {
    std::mt19937 random(std::atoi(arguments[1]));
    for (int i = 0; i < 100; ++i) {
        if (!check(random)) return 1;
    }
}
