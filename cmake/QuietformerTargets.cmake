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
  # The presets with sanitizers compile with -Og, a third faster than -O1: not where programs spend their time.
  if(QUIETFORMER_SANITIZE AND name MATCHES "^(core|attention|layers|optim|analysis)$")
    target_compile_options(quietformer_${name} PRIVATE -O1)
  endif()
  # Unity builds (CMAKE_UNITY_BUILD) save where many files compile the same headers' functions, above all
  # those of JSON and the command line. Here each file is work of its own.
  if(name MATCHES "^(core|attention)$")
    set_target_properties(quietformer_${name} PROPERTIES UNITY_BUILD OFF)
  endif()
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

# quietformer_test(NAME LABELS l... SOURCES f... LIBRARIES lib... [SHARDS n]): one GoogleTest program and one
# ctest entry of that name with those labels, or n entries NAME_1 ... that share its tests. Tests run in parallel and each
# within 10 minutes (sanitizers are slow).
# A program labelled gpu holds GPU tests alone: it counts as skipped when there is no GPU, with the reason in
# its output. They run one at a time but for shards: those wait for the CPU's f64, not for the GPU. Builds with
# sanitizers have none of them: CUDA is off there.
function(quietformer_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT;SHARDS" "LABELS;SOURCES;LIBRARIES" ${ARGN})
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
  if(QUIETFORMER_SANITIZE MATCHES undefined)
    # Of the tests' own code, whose checks of every access cost a third of its compile time: what
    # these find beyond AddressSanitizer, misalignment above all, is looked for in the libraries.
    target_compile_options(${name} PRIVATE -fno-sanitize=null,alignment,object-size,vptr)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  set(entries ${name})
  if(ARG_SHARDS)
    list(TRANSFORM entries APPEND "_1")
    foreach(shard RANGE 2 ${ARG_SHARDS})
      list(APPEND entries ${name}_${shard})
    endforeach()
  endif()
  set(shard 0)
  foreach(entry ${entries})
    add_test(NAME ${entry} COMMAND ${name})
    set_tests_properties(${entry} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
    if(ARG_SHARDS)
      set_tests_properties(${entry} PROPERTIES
                           ENVIRONMENT "GTEST_TOTAL_SHARDS=${ARG_SHARDS};GTEST_SHARD_INDEX=${shard}")
      math(EXPR shard "${shard} + 1")
    endif()
  endforeach()
  if("gpu" IN_LIST ARG_LABELS)
    set_target_properties(${name} PROPERTIES UNITY_BUILD OFF)  # no other build looks at its files one by one
    set_tests_properties(${entries} PROPERTIES SKIP_REGULAR_EXPRESSION "${QUIETFORMER_NO_GPU}")
    if(NOT ARG_SHARDS)
      set_tests_properties(${name} PROPERTIES RESOURCE_LOCK gpu)
    endif()
    if(NOT TARGET gpu_tests)
      add_custom_target(gpu_tests)  # builds them all
    endif()
    add_dependencies(gpu_tests ${name})
  endif()
endfunction()
