# Build options and compiler flags.

option(QUIETFORMER_NATIVE "Compile for the host's instruction set (packages turn it off)" ON)
option(QUIETFORMER_WERROR "Treat warnings as errors" ON)
option(QUIETFORMER_TESTS "Build the tests" ON)
set(QUIETFORMER_SANITIZE "" CACHE STRING "Sanitizers for everything, e.g. address,undefined")

# Parts that may be absent. AUTO takes what is there and the summary says what that was; ON makes an
# absent part an error.
foreach(part CUDA ICU REPORT PROTOBUF MPI NCCL)
  set(QUIETFORMER_${part} AUTO CACHE STRING "${part}: AUTO, ON or OFF")
  set_property(CACHE QUIETFORMER_${part} PROPERTY STRINGS AUTO ON OFF)
  if(NOT QUIETFORMER_${part} MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR "QUIETFORMER_${part}: found '${QUIETFORMER_${part}}', expected AUTO, ON or OFF")
  endif()
endforeach()
set(QUIETFORMER_CUDA_ARCHITECTURES "" CACHE STRING
    "GPU architectures to build for, e.g. 90;80. Empty: this machine's GPU, without one 90")
set(QUIETFORMER_ATTENTION_INSTANCES full CACHE STRING
    "Which (score, normaliser) pairs flash attention on GPUs is built for: dev (one), ci (some) or full")
set_property(CACHE QUIETFORMER_ATTENTION_INSTANCES PROPERTY STRINGS dev ci full)
if(NOT QUIETFORMER_ATTENTION_INSTANCES MATCHES "^(dev|ci|full)$")
  message(FATAL_ERROR "QUIETFORMER_ATTENTION_INSTANCES: found '${QUIETFORMER_ATTENTION_INSTANCES}', "
                      "expected dev, ci or full")
endif()

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

find_program(CCACHE_PROGRAM ccache)
mark_as_advanced(CCACHE_PROGRAM)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()

# errno and floating-point traps are never looked at; without them the compiler vectorises loops over
# core/math.h. Everything else of IEEE arithmetic stays (no -ffast-math: infinities carry meaning).
add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fno-math-errno> $<$<COMPILE_LANGUAGE:CXX>:-fno-trapping-math>)
if(QUIETFORMER_NATIVE)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-march=native>)
endif()
if(QUIETFORMER_SANITIZE)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${QUIETFORMER_SANITIZE}>
                      $<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize-recover=all>
                      $<$<COMPILE_LANGUAGE:CXX>:-fno-omit-frame-pointer>)
  add_link_options(-fsanitize=${QUIETFORMER_SANITIZE})
endif()
if(QUIETFORMER_FUZZ)
  # Instrumented loops are left scalar, which clang would warn about.
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fsanitize=fuzzer-no-link> $<$<COMPILE_LANGUAGE:CXX>:-Wno-pass-failed>)
endif()
