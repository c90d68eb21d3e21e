# The CUDA library: compiled for every architecture of the list, without a GPU and without a CUDA
# build of torch. CUTLASS's headers come from the pinned build requirement nvidia-cutlass.

execute_process(
  COMMAND ${Python_EXECUTABLE} -c
          "from importlib.util import find_spec; print(find_spec('cutlass_library').submodule_search_locations[0])"
  OUTPUT_VARIABLE cutlass_package OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
set(CUTLASS_INCLUDE_DIR ${cutlass_package}/source/include)
if(NOT EXISTS ${CUTLASS_INCLUDE_DIR}/cutlass/cutlass.h)
  set(advice "The CUDA kernels need CUTLASS's headers, which ${Python_EXECUTABLE} does not find: "
             "pip install nvidia-cutlass==4.2.0 --no-deps")
  if(FUSEWRIGHT_CUDA STREQUAL ON)
    message(FATAL_ERROR ${advice})
  endif()
  message(WARNING ${advice} "\nThis build goes on without the CUDA kernels.")
  return()
endif()

set(FUSEWRIGHT_CUDA_ARCHITECTURES "80-real;86-real;89-real;90a-real;100-real;120" CACHE STRING
    "Architectures of the CUDA kernels; the last one leaves PTX for what comes after")
set(CMAKE_CUDA_ARCHITECTURES ${FUSEWRIGHT_CUDA_ARCHITECTURES})
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
if(CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
endif()
enable_language(CUDA)

file(GLOB cuda_kernels CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels_cuda/*.cu)
set(cuda_generated ${PROJECT_BINARY_DIR}/cuda)
fusewright_generate(cuda ${cuda_generated} "" ${cuda_kernels})

file(GLOB_RECURSE cuda_parts CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels_cuda/*/*.cu)
# A file *.sm90.cu is for Hopper alone; its operator asks for FUSEWRIGHT_SM90 before it calls it.
set(hopper_parts ${cuda_parts})
list(FILTER cuda_parts EXCLUDE REGEX "\\.sm90\\.cu$")
list(FILTER hopper_parts INCLUDE REGEX "\\.sm90\\.cu$")
add_library(fusewright_cuda SHARED ${cuda_kernels} ${cuda_parts} ${cuda_generated}/register.cpp
            ${PROJECT_SOURCE_DIR}/kernels_cuda/build_info/build_info.cpp)
set(cuda_targets fusewright_cuda)
set(cuda_definitions USE_CUDA)
if("${FUSEWRIGHT_CUDA_ARCHITECTURES}" MATCHES "90a")
  add_library(fusewright_cuda_sm90 OBJECT ${hopper_parts})
  set_target_properties(fusewright_cuda_sm90 PROPERTIES CUDA_ARCHITECTURES 90a-real)
  target_sources(fusewright_cuda PRIVATE $<TARGET_OBJECTS:fusewright_cuda_sm90>)
  list(APPEND cuda_definitions FUSEWRIGHT_SM90)
  list(APPEND cuda_targets fusewright_cuda_sm90)
endif()
foreach(target ${cuda_targets})
  target_link_libraries(${target} PRIVATE torch_stable)
  target_include_directories(${target} PRIVATE
    ${PROJECT_SOURCE_DIR}/kernels_cuda ${PROJECT_SOURCE_DIR}/src ${cuda_generated}
    ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  target_include_directories(${target} SYSTEM PRIVATE ${CUTLASS_INCLUDE_DIR})
  target_compile_definitions(${target} PRIVATE ${cuda_definitions})
  target_compile_options(${target} PRIVATE
    # -lineinfo is two thirds of the device code; compressed for size all of it is a tenth
    $<$<COMPILE_LANGUAGE:CUDA>:-lineinfo --compress-mode=size
      --expt-relaxed-constexpr --extended-lambda
      -Xcompiler=-Wall,-Wno-unused-function>)
endforeach()
target_compile_definitions(fusewright_cuda PRIVATE
  FUSEWRIGHT_VERSION="${SKBUILD_PROJECT_VERSION}"
  FUSEWRIGHT_CUDA_COMPILER="nvcc ${CMAKE_CUDA_COMPILER_VERSION}"
  FUSEWRIGHT_CUDA_ARCHITECTURES="$<JOIN:${FUSEWRIGHT_CUDA_ARCHITECTURES}, >")
set_target_properties(fusewright_cuda PROPERTIES
  LIBRARY_OUTPUT_DIRECTORY $<$<NOT:$<BOOL:${SKBUILD}>>:${FUSEWRIGHT_LIBRARY_DIR}>)
if(SKBUILD)
  install(TARGETS fusewright_cuda LIBRARY DESTINATION ${FUSEWRIGHT_LIBRARY_DIR})
  # the licences of what is compiled in, which CUTLASS's asks for
  set(licenses ${SKBUILD_METADATA_DIR}/licenses)
  file(GLOB cutlass_license ${cutlass_package}/../nvidia_cutlass-*.dist-info/licenses/LICENSE.txt)
  install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${licenses})
  install(FILES ${cutlass_license} DESTINATION ${licenses} RENAME LICENSE.cutlass)
endif()
