# The Metal library, on macOS: the kernels are compiled ahead of time, and the metallib is embedded,
# so that nothing is compiled or looked up at run time.

if(APPLE)
  execute_process(COMMAND xcrun --sdk macosx --find metal
                  OUTPUT_VARIABLE METAL_COMPILER OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
if(NOT METAL_COMPILER)
  if(FUSEWRIGHT_METAL STREQUAL ON)
    message(FATAL_ERROR "FUSEWRIGHT_METAL=ON: the Metal kernels need macOS and Apple's Metal "
                        "compiler, which `xcrun --sdk macosx --find metal` does not find")
  endif()
  return()
endif()

enable_language(OBJCXX)
set(CMAKE_OBJCXX_STANDARD 17)
set(CMAKE_OBJCXX_STANDARD_REQUIRED ON)
set(CMAKE_OBJCXX_VISIBILITY_PRESET hidden)
set(CMAKE_OBJCXX_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})

# Metal 3.0 is macOS 13's. Without fast math NaN and infinity are what the reference makes of them.
set(metal_standard metal3.0)
set(metal_flags -std=${metal_standard} -mmacosx-version-min=13.0 -O3 -fno-fast-math -Wall)

set(metal_room ${PROJECT_SOURCE_DIR}/kernels_metal)
set(metal_generated ${PROJECT_BINARY_DIR}/metal)
file(GLOB metal_kernels CONFIGURE_DEPENDS ${metal_room}/*.metal)
file(GLOB metal_headers CONFIGURE_DEPENDS ${metal_room}/*.h)
foreach(kernel ${metal_kernels})
  get_filename_component(name ${kernel} NAME_WE)
  set(air ${metal_generated}/${name}.air)
  add_custom_command(
    OUTPUT ${air}
    COMMAND xcrun --sdk macosx metal ${metal_flags} -I${metal_room} -c ${kernel} -o ${air}
    DEPENDS ${kernel} ${metal_headers}
    VERBATIM)
  list(APPEND airs ${air})
endforeach()
set(metallib ${metal_generated}/fusewright.metallib)
add_custom_command(OUTPUT ${metallib} COMMAND xcrun --sdk macosx metallib ${airs} -o ${metallib}
                   DEPENDS ${airs} VERBATIM)

file(GLOB metal_hosts CONFIGURE_DEPENDS ${metal_room}/*.mm)
file(GLOB metal_shared CONFIGURE_DEPENDS ${metal_room}/host/*.mm ${metal_room}/host/*.cpp)
fusewright_generate(metal ${metal_generated} "" ${metal_hosts})
add_library(fusewright_metal SHARED ${metal_hosts} ${metal_shared} ${metal_generated}/register.cpp)
set_source_files_properties(${metal_room}/host/metallib.cpp PROPERTIES OBJECT_DEPENDS ${metallib})
target_link_libraries(fusewright_metal PRIVATE torch_stable "-framework Foundation" "-framework Metal")
target_include_directories(fusewright_metal PRIVATE ${metal_room} ${PROJECT_SOURCE_DIR}/src
                                                    ${metal_generated})
target_compile_definitions(fusewright_metal PRIVATE
  FUSEWRIGHT_METALLIB="${metallib}"
  FUSEWRIGHT_METAL_STANDARD="${metal_standard}"
  FUSEWRIGHT_VERSION="${SKBUILD_PROJECT_VERSION}")
target_compile_options(fusewright_metal PRIVATE -O2 -Wall -Wextra
                                                $<$<COMPILE_LANGUAGE:OBJCXX>:-fobjc-arc>)
set_target_properties(fusewright_metal PROPERTIES
  LIBRARY_OUTPUT_DIRECTORY $<$<NOT:$<BOOL:${SKBUILD}>>:${FUSEWRIGHT_LIBRARY_DIR}>)
if(SKBUILD)
  install(TARGETS fusewright_metal LIBRARY DESTINATION ${FUSEWRIGHT_LIBRARY_DIR})
endif()
