# quietformer_library(NAME SOURCES ... [HEADERS h...] [PUBLIC lib...] [PRIVATE lib...]): one static
# library per folder, quietformer::NAME. Includes are written from the project's root
# ("core/tensor.h"). HEADERS are what other projects may include: they are installed, and the library
# with them. A library without any is for this project alone.
function(quietformer_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;HEADERS;PUBLIC;PRIVATE" ${ARGN})
  add_library(quietformer_${name} STATIC ${ARG_SOURCES})
  if(ARG_HEADERS)
    quietformer_install_library(${name} ${ARG_HEADERS})
  endif()
  add_library(quietformer::${name} ALIAS quietformer_${name})
  target_include_directories(quietformer_${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/generated>)
  target_compile_features(quietformer_${name} PUBLIC cxx_std_20)
  target_link_libraries(quietformer_${name} PUBLIC ${ARG_PUBLIC} PRIVATE ${ARG_PRIVATE})
  quietformer_warnings(quietformer_${name})
endfunction()

function(quietformer_warnings target)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra>
                         $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>)
  # gcc 12 sees overlapping copies in std::string's operator+ (GCC bug 105651).
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
  endif()
  if(QUIETFORMER_WERROR)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Werror>
                           $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
  endif()
endfunction()

# What GPU tests print where there is no GPU, and nothing else does.
set(QUIETFORMER_NO_GPU "Skipped\n(SKIPPED: )?(no GPU: |built without CUDA)")

# quietformer_test(NAME LABELS l... SOURCES f... LIBRARIES lib...): one GoogleTest program and one
# ctest entry of that name with those labels. Tests run in parallel and each within 10 minutes (sanitizers are slow).
# A program labelled gpu holds GPU tests alone: it counts as skipped when there is no GPU, with the reason in
# its output, and GPU tests run one at a time. Builds with sanitizers have none of them: CUDA is off there.
function(quietformer_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "LABELS;SOURCES;LIBRARIES" ${ARGN})
  if("gpu" IN_LIST ARG_LABELS AND QUIETFORMER_SANITIZE)
    return()
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_LIBRARIES} GTest::gtest_main)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_definitions(${name} PRIVATE
    QUIETFORMER_SOURCE="${PROJECT_SOURCE_DIR}"
    QUIETFORMER_FIXTURES_FOLDER="${PROJECT_SOURCE_DIR}/tests/fixtures")
  quietformer_warnings(${name})
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
  if("gpu" IN_LIST ARG_LABELS)
    set_tests_properties(${name} PROPERTIES SKIP_REGULAR_EXPRESSION "${QUIETFORMER_NO_GPU}" RESOURCE_LOCK gpu)
    if(NOT TARGET gpu_tests)
      add_custom_target(gpu_tests)  # builds them all
    endif()
    add_dependencies(gpu_tests ${name})
  endif()
endfunction()
