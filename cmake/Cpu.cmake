# The CPU library: every kernel file is compiled once for each instruction set, and the library
# picks one when it loads. The objects are linked from the oldest instruction set to the newest:
# of an inline function that several of them contain the linker keeps the first, which then runs
# on every machine.

if(MSVC AND NOT CMAKE_CXX_COMPILER_FRONTEND_VARIANT STREQUAL "GNU")
  message(FATAL_ERROR "The CPU kernels are written with vector extensions that MSVC lacks: "
                      "configure with -DCMAKE_CXX_COMPILER=clang++")
endif()

file(GLOB cpu_kernels CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/cpu/*.cpp)

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(cpu_isas baseline avx2 avx512)
  # It runs on machines from before 2013 alone, and at -O3 it was a third of the wheel.
  set(cpu_flags_baseline -Os)
else()
  set(cpu_isas baseline)
  set(cpu_flags_baseline -O3)
endif()
set(cpu_flags_avx2 -O3 -mavx2 -mfma -mf16c)
set(cpu_flags_avx512 ${cpu_flags_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512cd
                     -mprefer-vector-width=512)

set(cpu_generated ${PROJECT_BINARY_DIR}/cpu)
fusewright_generate(cpu ${cpu_generated} "${cpu_isas}" ${cpu_kernels})
add_custom_target(cpu_registration DEPENDS ${cpu_generated}/prototypes.h
                                           ${cpu_generated}/register.cpp)

add_library(fusewright_cpu SHARED ${cpu_generated}/register.cpp
                                  ${PROJECT_SOURCE_DIR}/src/cpu/isa/isa.cpp
                                  ${PROJECT_SOURCE_DIR}/src/cpu/memory/result_cache.cpp)
target_compile_definitions(fusewright_cpu PRIVATE FW_ISA=baseline)
foreach(isa ${cpu_isas})
  add_library(cpu_${isa} OBJECT ${cpu_kernels})
  add_dependencies(cpu_${isa} cpu_registration)
  target_compile_definitions(cpu_${isa} PRIVATE FW_ISA=${isa})
  target_compile_options(cpu_${isa} PRIVATE ${cpu_flags_${isa}})
  target_link_libraries(fusewright_cpu PRIVATE cpu_${isa})
  list(APPEND cpu_targets cpu_${isa})
endforeach()

foreach(target fusewright_cpu ${cpu_targets})
  target_link_libraries(${target} PRIVATE torch_stable)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/src ${cpu_generated})
  target_compile_options(${target} PRIVATE -Wall -Wextra -fno-math-errno -fno-trapping-math
                                           -fopenmp-simd)
endforeach()
target_compile_definitions(fusewright_cpu PRIVATE FUSEWRIGHT_VERSION="${SKBUILD_PROJECT_VERSION}")
# Nothing else is visible: an inline function compiled for AVX must not serve another library.
if(WIN32)
  # what is exported says so itself
  set_target_properties(fusewright_cpu PROPERTIES PREFIX "")
elseif(NOT APPLE)
  file(WRITE ${cpu_generated}/exports.map "{ global: fusewright_*; local: *; };\n")
  target_link_options(fusewright_cpu PRIVATE -Wl,--version-script=${cpu_generated}/exports.map)
endif()
set_target_properties(fusewright_cpu PROPERTIES
  LIBRARY_OUTPUT_DIRECTORY $<$<NOT:$<BOOL:${SKBUILD}>>:${FUSEWRIGHT_LIBRARY_DIR}>
  RUNTIME_OUTPUT_DIRECTORY $<$<NOT:$<BOOL:${SKBUILD}>>:${FUSEWRIGHT_LIBRARY_DIR}>)
if(SKBUILD)
  install(TARGETS fusewright_cpu LIBRARY DESTINATION ${FUSEWRIGHT_LIBRARY_DIR}
                                 RUNTIME DESTINATION ${FUSEWRIGHT_LIBRARY_DIR})
endif()
