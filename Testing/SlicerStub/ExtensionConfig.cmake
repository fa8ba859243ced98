# Stands for ${Slicer_EXTENSION_GENERATE_CONFIG}: a real one exports C++ targets, of which there are none.
if(NOT "${EXTENSION_NAME}" STREQUAL "${PROJECT_NAME}")
  message(FATAL_ERROR "the extension's name '${EXTENSION_NAME}' differs from the project's '${PROJECT_NAME}'")
endif()
