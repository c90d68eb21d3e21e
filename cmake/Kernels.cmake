# Prototypes and registrations, generated from the schemas in python/fusewright/ops.
#
# fusewright_generate(<backend> <folder> <instruction sets> <kernel files...>) writes prototypes.h and register.cpp for
# the operators that those files implement, so that a kernel whose signature is not its schema's
# does not compile. With instruction sets, each has a namespace, and the library picks one.

function(fusewright_generate backend folder isas)
  set(files ${ARGN})
  file(GLOB schemas CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/python/fusewright/ops/*.py)
  set(generator ${PROJECT_SOURCE_DIR}/cmake/generate_registration.py)
  list(JOIN isas "," isas_text)
  add_custom_command(
    OUTPUT ${folder}/prototypes.h ${folder}/register.cpp
    COMMAND ${Python_EXECUTABLE} ${generator} --backend ${backend} "--isas=${isas_text}"
            --ops ${PROJECT_SOURCE_DIR}/python/fusewright/ops --out ${folder} ${files}
    DEPENDS ${generator} ${schemas} ${files}
    VERBATIM)
endfunction()
