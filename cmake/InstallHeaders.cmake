# Runs while installing: `headers` (absolute paths below one of `roots`) go to include_dir/quietformer.
# In this project one header includes another as "core/tensor.h"; beside other projects' headers such
# a name is anybody's, so the installed copies say "quietformer/core/tensor.h".

file(REMOVE_RECURSE ${staging})
foreach(header ${headers})
  foreach(root ${roots})  # the generated ones' root may lie below the other
    string(FIND ${header} ${root}/ at)
    if(at EQUAL 0)
      string(LENGTH ${root}/ length)
      string(SUBSTRING ${header} ${length} -1 name)
      break()
    endif()
  endforeach()
  file(READ ${header} text)
  string(REGEX REPLACE "#include \"([^\"]*)\"" "#include \"quietformer/\\1\"" text "${text}")
  file(WRITE ${staging}/quietformer/${name} "${text}")
endforeach()

if(NOT IS_ABSOLUTE "${include_dir}")
  string(PREPEND include_dir ${CMAKE_INSTALL_PREFIX}/)  # the prefix of `cmake --install --prefix`
endif()
file(INSTALL DESTINATION ${include_dir} TYPE DIRECTORY FILES ${staging}/quietformer)
