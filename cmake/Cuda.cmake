# The CUDA library: compiled for every architecture of the list, without a GPU and without a CUDA
# build of torch. CUTLASS's headers come from the pinned build requirement nvidia-cutlass.

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
add_library(fusewright_cuda SHARED ${cuda_kernels} ${cuda_parts} ${cuda_generated}/register.cpp
            ${PROJECT_SOURCE_DIR}/kernels_cuda/build_info/build_info.cpp)
target_link_libraries(fusewright_cuda PRIVATE torch_stable)
target_include_directories(fusewright_cuda PRIVATE
  ${PROJECT_SOURCE_DIR}/kernels_cuda ${PROJECT_SOURCE_DIR}/src ${cuda_generated}
  ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
target_compile_definitions(fusewright_cuda PRIVATE
  USE_CUDA
  FUSEWRIGHT_VERSION="${SKBUILD_PROJECT_VERSION}"
  FUSEWRIGHT_CUDA_COMPILER="nvcc ${CMAKE_CUDA_COMPILER_VERSION}"
  FUSEWRIGHT_CUDA_ARCHITECTURES="$<JOIN:${FUSEWRIGHT_CUDA_ARCHITECTURES}, >")
target_compile_options(fusewright_cuda PRIVATE
  $<$<COMPILE_LANGUAGE:CUDA>:-lineinfo --expt-relaxed-constexpr --extended-lambda
    -Xcompiler=-Wall,-Wno-unused-function>)
set_target_properties(fusewright_cuda PROPERTIES
  LIBRARY_OUTPUT_DIRECTORY $<$<NOT:$<BOOL:${SKBUILD}>>:${FUSEWRIGHT_LIBRARY_DIR}>)
if(SKBUILD)
  install(TARGETS fusewright_cuda LIBRARY DESTINATION ${FUSEWRIGHT_LIBRARY_DIR})
endif()
