// The emulator as a Python module, with the plans of kernels_metal/plan.h.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>

#include "plan.h"
#include "runtime.h"

namespace py = pybind11;
namespace metal = fusewright::metal;

namespace {

using Sizes = std::tuple<std::array<int64_t, 3>, std::array<int64_t, 3>, int64_t>;

Sizes sizes_of(const FwDispatch& d) {
    return {{d.groups[0], d.groups[1], d.groups[2]},
            {d.threads[0], d.threads[1], d.threads[2]},
            d.threadgroup_bytes};
}

// A plan as a function of the bytes of its arguments.
template <typename Args>
void define(py::module_& m, const char* name, FwDispatch (*plan)(const Args&)) {
    m.def(name, [plan](const std::string& bytes) {
        if (bytes.size() != sizeof(Args)) throw py::value_error("these are no such arguments");
        Args args;
        std::memcpy(&args, bytes.data(), sizeof(Args));
        return sizes_of(plan(args));
    });
}

void run(const std::string& kernel, const Sizes& sizes,
         const std::vector<std::tuple<int, uintptr_t, int64_t>>& buffers, int args_index,
         const std::string& args, const std::string& schedule, uint64_t seed) {
    emulator::Launch launch{kernel, {}, {}, std::get<2>(sizes), {}, args, args_index};
    std::copy_n(std::get<0>(sizes).begin(), 3, launch.groups);
    std::copy_n(std::get<1>(sizes).begin(), 3, launch.threads);
    for (const auto& [index, data, size] : buffers) {
        launch.buffers.push_back({index, reinterpret_cast<void*>(data), size});
    }
    emulator::launch(launch, {emulator::schedule_of(schedule), seed});
}

}  // namespace

PYBIND11_MODULE(fusewright_metal_emulator, m) {
    m.def("load_library", &emulator::load_library);
    m.def("launch", &run, py::call_guard<py::gil_scoped_release>());
    py::dict sizes;
#define FW_SIZE(T) sizes[#T] = sizeof(T)
    FW_SIZE(FwHaarArgs), FW_SIZE(FwWtArgs), FW_SIZE(FwWtSumArgs), FW_SIZE(FwCausalArgs),
        FW_SIZE(FwCausalUpdateArgs), FW_SIZE(FwVarlenArgs), FW_SIZE(FwNormArgs);
    m.attr("sizes") = sizes;
#define FW_PLAN(name) define(m, #name, &metal::name)
    FW_PLAN(haar_dispatch);
    FW_PLAN(causal_forward_dispatch);
    FW_PLAN(causal_backward_input_dispatch);
    FW_PLAN(causal_backward_parameters_dispatch);
    FW_PLAN(causal_backward_sum_dispatch);
    FW_PLAN(causal_update_dispatch);
    FW_PLAN(varlen_forward_dispatch);
    FW_PLAN(varlen_backward_dispatch);
    FW_PLAN(norm_dispatch);
    FW_PLAN(norm_backward_parameters_dispatch);
    FW_PLAN(norm_backward_sum_dispatch);
    FW_PLAN(wt_backward_sum_dispatch);
    m.def("causal_parts", &metal::causal_parts);
    m.def("norm_parts", &metal::norm_parts);
    m.def("wt_steps", [](int dims, int64_t n, int64_t channels, int64_t height, int64_t width,
                         int64_t kernel, int levels, bool flipped, bool correlate) {
        py::list steps;
        const metal::WtShape shape{dims, n, channels, height, width, kernel, levels};
        for (const metal::WtStep& step : metal::wt_steps(shape, flipped, correlate)) {
            const char* args = reinterpret_cast<const char*>(&step.args);
            steps.append(py::make_tuple(py::bytes(args, sizeof(step.args)), sizes_of(step.dispatch),
                                        step.from, step.partials));
        }
        return steps;
    });
}
