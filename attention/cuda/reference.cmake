# The reference on GPUs: row passes in one source per normaliser. Included by
# attention/CMakeLists.txt.

foreach(normalizer ${QUIETFORMER_NORMALIZERS})
  type_name(normalizer_type ${normalizer})
  set(source ${generated}/cuda/reference_${normalizer}.cu)
  configure_file(cuda/reference_instance.cu.in ${source} @ONLY)
  list(APPEND cuda_sources ${source})
endforeach()
list(APPEND cuda_sources cuda/reference.cu cuda/reference_layout.cpp cuda/reference_scores.cu
     cuda/reference_steps.cu cuda/rows.cu)
