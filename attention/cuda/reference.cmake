# On GPUs the reference and `flash` in f32: kernels in one source per normaliser. Included by
# attention/CMakeLists.txt.

foreach(normalizer ${QUIETFORMER_NORMALIZERS})
  type_name(normalizer_type ${normalizer})
  foreach(implementation reference flash_f32)
    set(source ${generated}/cuda/${implementation}_${normalizer}.cu)
    configure_file(cuda/${implementation}_instance.cu.in ${source} @ONLY)
    list(APPEND cuda_sources ${source})
  endforeach()
endforeach()
list(APPEND cuda_sources cuda/flash_f32.cu cuda/reference.cu cuda/reference_layout.cpp cuda/reference_scores.cu
     cuda/reference_steps.cu cuda/rows.cu)
