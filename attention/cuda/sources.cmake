# The kernels of `flash` on GPUs, one source per (score, normaliser) pair of
# QUIETFORMER_ATTENTION_INSTANCES. Included by attention/CMakeLists.txt.

set(flash_pairs_dev dot_softmax_n)
set(flash_pairs_ci ${flash_pairs_dev} dot_sigmoid cosine_softmax_n piecewise_softmax_n)

set(QUIETFORMER_FLASH_CUDA_PAIRS_X "")
foreach(score ${QUIETFORMER_SCORES})
  type_name(score_type ${score})
  foreach(normalizer ${QUIETFORMER_NORMALIZERS})
    type_name(normalizer_type ${normalizer})
    if(QUIETFORMER_ATTENTION_INSTANCES STREQUAL "full" OR
       ${score}_${normalizer} IN_LIST flash_pairs_${QUIETFORMER_ATTENTION_INSTANCES})
      string(APPEND QUIETFORMER_FLASH_CUDA_PAIRS_X " X(${score_type}, ${normalizer_type})")
      set(source ${generated}/cuda/flash_${score}_${normalizer}.cu)
      configure_file(cuda/flash_instance.cu.in ${source} @ONLY)
      list(APPEND cuda_sources ${source})
      set(source ${generated}/cuda/flash_backward_${score}_${normalizer}.cu)
      configure_file(cuda/flash_backward_instance.cu.in ${source} @ONLY)
      list(APPEND cuda_sources ${source})
    endif()
  endforeach()
endforeach()
configure_file(cuda/pairs.h.in ${generated}/cuda/pairs.h @ONLY)
list(APPEND cuda_sources cuda/flash.cpp cuda/flash_backward_call.cpp cuda/inverse_norms.cu cuda/options.cpp)
