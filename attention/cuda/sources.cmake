# The kernels of `flash` on GPUs: for each instance of QUIETFORMER_ATTENTION_INSTANCES, a (score,
# normaliser) pair for an operand type and a padded head dim, one source of forward, one of backward
# and one of both for compute capability 9.0. Included by attention/CMakeLists.txt.

set(flash_dev dot_softmax_n_bf16_64 dot_softmax_n_bf16_128)
# Every score, normaliser, type and head dim once.
set(flash_ci dot_softmax_n_bf16_64 dot_softmax_n_bf16_256 cosine_sigmoid_bf16_64 piecewise_softmax_n_f16_128
    dot_clipped_softmax_f16_64)

set(QUIETFORMER_FLASH_CUDA_INSTANCES_X "")
set(QUIETFORMER_HOPPER_INSTANCES_X "")
set(hopper_sources "")
# Compute capability 9.0's own instructions need a target of their own: 90a.
set(hopper OFF)
foreach(architecture ${CMAKE_CUDA_ARCHITECTURES})
  if(architecture MATCHES "^90")
    set(hopper ON)
  endif()
endforeach()
foreach(score ${QUIETFORMER_SCORES})
  type_name(score_type ${score})
  foreach(normalizer ${QUIETFORMER_NORMALIZERS})
    if(score STREQUAL cosine AND normalizer STREQUAL clipped_softmax)
      continue()  # dot of normalised operands: flash.cpp
    endif()
    type_name(normalizer_type ${normalizer})
    foreach(operand bf16 f16)
      type_name(operand_type ${operand})
      foreach(dim 64 128 256)
        set(instance ${score}_${normalizer}_${operand}_${dim})
        if(QUIETFORMER_ATTENTION_INSTANCES STREQUAL "full" OR
           ${instance} IN_LIST flash_${QUIETFORMER_ATTENTION_INSTANCES})
          string(APPEND QUIETFORMER_FLASH_CUDA_INSTANCES_X
                 " X(${score_type}, ${normalizer_type}, ${operand_type}, ${operand}, ${dim})")
          foreach(direction forward backward)
            set(source ${generated}/cuda/flash_${direction}_${instance}.cu)
            configure_file(cuda/flash_${direction}_instance.cu.in ${source} @ONLY)
            list(APPEND cuda_sources ${source})
          endforeach()
          if(hopper AND dim LESS_EQUAL 128)
            string(APPEND QUIETFORMER_HOPPER_INSTANCES_X
                   " X(${score_type}, ${normalizer_type}, ${operand_type}, ${operand}, ${dim})")
            set(source ${generated}/cuda/hopper_${instance}.cu)
            configure_file(cuda/hopper/instance.cu.in ${source} @ONLY)
            list(APPEND hopper_sources ${source})
          endif()
        endif()
      endforeach()
    endforeach()
  endforeach()
endforeach()
configure_file(cuda/instances.h.in ${generated}/cuda/instances.h @ONLY)
list(APPEND cuda_sources cuda/flash.cpp cuda/flash_backward_call.cpp cuda/hopper/choose.cpp cuda/inverse_norms.cu cuda/options.cpp)
