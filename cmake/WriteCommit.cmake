# cmake -DSOURCE=dir -DOUTPUT=commit.h -P this, at every build: the commit that is built, "-dirty" behind it
# where tracked files differ; empty where there is no git. The header is rewritten when that changes.

set(commit "")
find_program(git git)
if(git AND EXISTS "${SOURCE}/.git")
  execute_process(COMMAND ${git} -C "${SOURCE}" describe --always --dirty --abbrev=12 "--exclude=*"
                  OUTPUT_VARIABLE commit ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
endif()
file(CONFIGURE OUTPUT "${OUTPUT}" CONTENT "#pragma once
#define QUIETFORMER_COMMIT \"@commit@\"
" @ONLY)
