# torch's stable ABI: headers from the installed torch, no torch library linked.
#
# On Linux the kernel libraries must name libtorch as needed, or they fail to load even after
# `import torch`; an empty stand-in of that name at link time is enough and keeps the build
# independent of which torch is installed.

execute_process(
  COMMAND ${Python_EXECUTABLE} -c
          "from torch.utils.cpp_extension import include_paths; print(';'.join(include_paths()))"
  OUTPUT_VARIABLE TORCH_INCLUDE_DIRS
  OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
file(TO_CMAKE_PATH "${TORCH_INCLUDE_DIRS}" TORCH_INCLUDE_DIRS)

add_library(torch_stable INTERFACE)
target_include_directories(torch_stable SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
# 2.10 is the oldest torch that one build serves.
target_compile_definitions(torch_stable INTERFACE TORCH_TARGET_VERSION=0x020a000000000000)
if(APPLE)
  target_link_options(torch_stable INTERFACE -Wl,-undefined,dynamic_lookup)
elseif(WIN32)
  # Windows binds each function to a library's name: the import library of the installed torch
  # holds names alone, so the result serves every torch that exports them.
  list(GET TORCH_INCLUDE_DIRS 0 torch_include)
  find_library(TORCH_CPU_LIBRARY torch_cpu HINTS ${torch_include}/../lib NO_DEFAULT_PATH REQUIRED)
  target_link_libraries(torch_stable INTERFACE ${TORCH_CPU_LIBRARY})
else()
  file(WRITE ${PROJECT_BINARY_DIR}/libtorch_stub.cpp "")
  add_library(torch_stub SHARED ${PROJECT_BINARY_DIR}/libtorch_stub.cpp)
  set_target_properties(torch_stub PROPERTIES OUTPUT_NAME torch LIBRARY_OUTPUT_DIRECTORY
                                                                ${PROJECT_BINARY_DIR}/stub)
  target_link_options(torch_stable INTERFACE -Wl,--no-as-needed
                      $<TARGET_FILE:torch_stub> -Wl,--as-needed)
  add_dependencies(torch_stable torch_stub)
endif()
