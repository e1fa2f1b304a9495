# CUDA: sets QUIETFORMER_HAS_CUDA, enables the language, and leaves one line for the summary in
# QUIETFORMER_CUDA_STATUS.

# The architecture of this machine's first GPU as nvcc names it ("80"; "90a" on Hopper, whose wgmma
# instructions exist only there), empty without a GPU.
function(quietformer_native_architecture result)
  set(${result} "" PARENT_SCOPE)
  find_program(NVIDIA_SMI nvidia-smi)
  mark_as_advanced(NVIDIA_SMI)
  if(NOT NVIDIA_SMI)
    return()
  endif()
  execute_process(COMMAND ${NVIDIA_SMI} --query-gpu=compute_cap --format=csv,noheader
                  OUTPUT_VARIABLE output ERROR_QUIET RESULT_VARIABLE status)
  if(status EQUAL 0 AND output MATCHES "^([0-9]+)\\.([0-9])")
    set(architecture ${CMAKE_MATCH_1}${CMAKE_MATCH_2})
    if(architecture EQUAL 90)
      set(architecture 90a)
    endif()
    set(${result} ${architecture} PARENT_SCOPE)
  endif()
endfunction()

set(QUIETFORMER_HAS_CUDA OFF)
if(QUIETFORMER_CUDA STREQUAL "OFF")
  set(QUIETFORMER_CUDA_STATUS "off (QUIETFORMER_CUDA=OFF)")
  return()
endif()

if(NOT CMAKE_CUDA_COMPILER)
  # A toolkit need not be on the PATH. What check_language finds wanting is asked again next time.
  unset(CMAKE_CUDA_COMPILER CACHE)
  find_program(QUIETFORMER_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin
               PATHS /usr/local/cuda/bin)
  mark_as_advanced(QUIETFORMER_NVCC)
  if(QUIETFORMER_NVCC AND NOT DEFINED ENV{CUDACXX})
    set(ENV{CUDACXX} ${QUIETFORMER_NVCC})
  endif()
  include(CheckLanguage)
  check_language(CUDA)
endif()

if(NOT CMAKE_CUDA_COMPILER)
  if(QUIETFORMER_NVCC OR DEFINED ENV{CUDACXX})
    set(reason "$ENV{CUDACXX} can't compile, see ${CMAKE_BINARY_DIR}/CMakeFiles/CMakeError.log")
  else()
    set(reason "no nvcc found on the PATH, in CUDACXX, CUDA_HOME or /usr/local/cuda")
  endif()
  if(QUIETFORMER_CUDA STREQUAL "ON")
    message(FATAL_ERROR "QUIETFORMER_CUDA=ON: ${reason}")
  endif()
  set(QUIETFORMER_CUDA_STATUS "not found: ${reason}")
  return()
endif()

if(QUIETFORMER_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES ${QUIETFORMER_CUDA_ARCHITECTURES})
else()
  quietformer_native_architecture(CMAKE_CUDA_ARCHITECTURES)
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 90)
  endif()
endif()
enable_language(CUDA)
# CUDA sources take the standard of C++, but CMake 3.25 (Debian 12) has not heard of nvcc's C++20.
if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
find_package(CUDAToolkit REQUIRED)
set(QUIETFORMER_HAS_CUDA ON)
list(JOIN CMAKE_CUDA_ARCHITECTURES " " architectures)
set(QUIETFORMER_CUDA_STATUS
    "${CMAKE_CUDA_COMPILER_VERSION} for architecture ${architectures} (kernels are built; this version trains on the CPU)")
