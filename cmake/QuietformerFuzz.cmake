# The fuzzing build (QUIETFORMER_FUZZ, preset fuzz): clang instruments the libraries for libFuzzer, and
# fuzz_readers is the only program. quietformer_find_clang() must run before project().

set(QUIETFORMER_FUZZ_NEEDS
    "QUIETFORMER_FUZZ=ON needs clang 14 or newer with libFuzzer, e.g. apt-get install clang-14 libclang-rt-14-dev")

macro(quietformer_find_clang)
  if(NOT CMAKE_CXX_COMPILER AND NOT DEFINED ENV{CXX})
    set(names clang++)
    foreach(version RANGE 21 14 -1)
      list(APPEND names clang++-${version})
    endforeach()
    find_program(QUIETFORMER_CLANG NAMES ${names} NAMES_PER_DIR)
    if(NOT QUIETFORMER_CLANG)
      message(FATAL_ERROR "no clang++ found: ${QUIETFORMER_FUZZ_NEEDS}")
    endif()
    string(REPLACE "clang++" "clang" clang_c "${QUIETFORMER_CLANG}")
    set(CMAKE_CXX_COMPILER ${QUIETFORMER_CLANG})
    set(CMAKE_C_COMPILER ${clang_c})
  endif()
endmacro()

function(quietformer_check_fuzz_compiler)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang" OR CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14)
    message(FATAL_ERROR "found ${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}: ${QUIETFORMER_FUZZ_NEEDS}")
  endif()
  include(CheckCXXSourceCompiles)
  set(CMAKE_REQUIRED_FLAGS -fsanitize=fuzzer,address)
  check_cxx_source_compiles(
    "#include <cstdint>\n#include <cstddef>\nextern \"C\" int LLVMFuzzerTestOneInput(const std::uint8_t*, std::size_t) { return 0; }"
    QUIETFORMER_HAS_LIBFUZZER)
  if(NOT QUIETFORMER_HAS_LIBFUZZER)
    message(FATAL_ERROR "${CMAKE_CXX_COMPILER} has no libFuzzer: ${QUIETFORMER_FUZZ_NEEDS}")
  endif()
endfunction()
