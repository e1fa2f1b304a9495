# What `cmake --install` writes and find_package(quietformer) finds: docs/library.md.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(QUIETFORMER_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/quietformer)

# Installs quietformer_NAME as quietformer::NAME, with headers named from the calling folder.
# Generated ones are written before.
function(quietformer_install_library name)
  set_target_properties(quietformer_${name} PROPERTIES EXPORT_NAME ${name})
  target_include_directories(quietformer_${name} INTERFACE
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  install(TARGETS quietformer_${name} EXPORT quietformer
          ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  foreach(header ${ARGN})
    set(path ${PROJECT_SOURCE_DIR}/${name}/${header})
    if(NOT EXISTS ${path})
      set(path ${PROJECT_BINARY_DIR}/generated/${name}/${header})
    endif()
    if(NOT EXISTS ${path})
      message(FATAL_ERROR "${name}/CMakeLists.txt: HEADERS names ${header}, found no such file")
    endif()
    set_property(GLOBAL APPEND PROPERTY QUIETFORMER_HEADERS ${path})
  endforeach()
endfunction()

# The rest of the package, once every library and the program `quietformer` are there.
function(quietformer_install_package)
  get_property(headers GLOBAL PROPERTY QUIETFORMER_HEADERS)
  install(CODE "
    set(headers \"${headers}\")
    set(roots \"${PROJECT_BINARY_DIR}/generated\" \"${PROJECT_SOURCE_DIR}\")
    set(staging \"${PROJECT_BINARY_DIR}/install\")
    set(include_dir \"${CMAKE_INSTALL_INCLUDEDIR}\")")
  install(SCRIPT ${PROJECT_SOURCE_DIR}/cmake/InstallHeaders.cmake)

  install(TARGETS quietformer RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/configs DESTINATION ${CMAKE_INSTALL_DATADIR}/quietformer)
  install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

  install(EXPORT quietformer NAMESPACE quietformer:: FILE quietformerTargets.cmake
          DESTINATION ${QUIETFORMER_PACKAGE_DIR})
  set(package ${PROJECT_BINARY_DIR}/package)
  configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/quietformerConfig.cmake.in
    ${package}/quietformerConfig.cmake INSTALL_DESTINATION ${QUIETFORMER_PACKAGE_DIR}
    NO_SET_AND_CHECK_MACRO)
  # Before 1.0 a new minor version may change the interface.
  write_basic_package_version_file(${package}/quietformerConfigVersion.cmake
    COMPATIBILITY SameMinorVersion)
  install(FILES ${package}/quietformerConfig.cmake ${package}/quietformerConfigVersion.cmake
          DESTINATION ${QUIETFORMER_PACKAGE_DIR})
endfunction()
