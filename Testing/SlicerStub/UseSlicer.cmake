# What including ${Slicer_USE_FILE} gives an extension of scripted modules.
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR "./${Slicer_QTSCRIPTEDMODULES_LIB_DIR}")
set(EXTENSION_NAME "${PROJECT_NAME}")
include(CTest)

# stub_require_files(WHAT FILES...): stop when one is missing, absolute, leaves its folder, or is named twice.
function(stub_require_files what folder)
  set(files ${ARGN})
  set(unique ${files})
  list(REMOVE_DUPLICATES unique)
  if(NOT "${unique}" STREQUAL "${files}")
    message(FATAL_ERROR "${what}: a file is listed twice: ${files}")
  endif()
  foreach(file IN LISTS files)
    if(IS_ABSOLUTE "${file}" OR "${file}" MATCHES "\\.\\.")
      message(FATAL_ERROR "${what}: '${file}' would be copied outside the module's folder")
    endif()
    if(NOT EXISTS "${folder}/${file}" OR IS_DIRECTORY "${folder}/${file}")
      message(FATAL_ERROR "${what}: '${file}' does not exist in ${folder}")
    endif()
  endforeach()
endfunction()

# Copies scripts and resources into the build tree when building, and installs the folder they were copied to.
macro(ctkMacroCompilePythonScript)
  cmake_parse_arguments(STUB
    "NO_INSTALL_SUBDIR;GLOBAL_TARGET" "TARGET_NAME;SOURCE_DIR;DESTINATION_DIR;INSTALL_DIR" "SCRIPTS;RESOURCES" ${ARGN})
  if(STUB_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "ctkMacroCompilePythonScript: unknown arguments ${STUB_UNPARSED_ARGUMENTS}")
  endif()
  foreach(_stub_name TARGET_NAME SCRIPTS DESTINATION_DIR INSTALL_DIR)
    if("${STUB_${_stub_name}}" STREQUAL "")
      message(FATAL_ERROR "ctkMacroCompilePythonScript: ${_stub_name} is missing")
    endif()
  endforeach()
  if("${STUB_SOURCE_DIR}" STREQUAL "")
    set(STUB_SOURCE_DIR "${CMAKE_CURRENT_SOURCE_DIR}")
  endif()
  stub_copy_and_install()
endmacro()

function(stub_copy_and_install)
  stub_require_files("${STUB_TARGET_NAME}" "${STUB_SOURCE_DIR}" ${STUB_SCRIPTS} ${STUB_RESOURCES})
  set(copies)
  foreach(file IN LISTS STUB_SCRIPTS STUB_RESOURCES)
    set(copy "${STUB_DESTINATION_DIR}/${file}")
    add_custom_command(OUTPUT "${copy}" DEPENDS "${STUB_SOURCE_DIR}/${file}"
      COMMAND "${CMAKE_COMMAND}" -E copy "${STUB_SOURCE_DIR}/${file}" "${copy}")
    list(APPEND copies "${copy}")
  endforeach()
  add_custom_target("Copy${STUB_TARGET_NAME}PythonFiles" ALL DEPENDS ${copies})
  set(installed "${STUB_DESTINATION_DIR}")
  if(STUB_NO_INSTALL_SUBDIR)
    string(APPEND installed "/")
  endif()
  install(DIRECTORY "${installed}" DESTINATION "${STUB_INSTALL_DIR}" COMPONENT RuntimeLibraries)
endfunction()

macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(STUB_MODULE "WITH_GENERIC_TESTS;WITH_SUBDIR;VERBOSE" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(STUB_MODULE_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "slicerMacroBuildScriptedModule: unknown arguments ${STUB_MODULE_UNPARSED_ARGUMENTS}")
  endif()
  if("${STUB_MODULE_NAME}" STREQUAL "")
    message(FATAL_ERROR "slicerMacroBuildScriptedModule: NAME is missing")
  endif()
  if(STUB_MODULE_WITH_SUBDIR)
    message(FATAL_ERROR "slicerMacroBuildScriptedModule: the stub does not know WITH_SUBDIR")
  endif()
  ctkMacroCompilePythonScript(
    TARGET_NAME ${STUB_MODULE_NAME}
    SCRIPTS "${STUB_MODULE_SCRIPTS}"
    RESOURCES "${STUB_MODULE_RESOURCES}"
    DESTINATION_DIR "${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}"
    INSTALL_DIR "${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}"
    NO_INSTALL_SUBDIR
    )
endmacro()

# Registers a test; the command needs a real Slicer, so here it can be listed but not run.
function(slicer_add_python_unittest)
  cmake_parse_arguments(STUB "" "TESTNAME_PREFIX;SCRIPT" "SLICER_ARGS" ${ARGN})
  if(STUB_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "slicer_add_python_unittest: unknown arguments ${STUB_UNPARSED_ARGUMENTS}")
  endif()
  stub_require_files("slicer_add_python_unittest" "${CMAKE_CURRENT_SOURCE_DIR}" ${STUB_SCRIPT})
  get_filename_component(name "${STUB_SCRIPT}" NAME_WE)
  add_test(NAME "py_${STUB_TESTNAME_PREFIX}${name}" COMMAND "${Slicer_LAUNCHER_EXECUTABLE}" ${STUB_SLICER_ARGS} "${STUB_SCRIPT}")
endfunction()
