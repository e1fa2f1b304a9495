# cmake -DFOLDER=analysis/report -DSCRIPTS=a.js,b.js -DLIBRARY=chart.min.js -DOUTPUT=x.cpp -P this: the
# report page with style, library and scripts in their places, as C++ text before and after its data.

set(scripts "")
string(REPLACE "," ";" names "${SCRIPTS}")
foreach(name IN LISTS names)
  file(READ "${FOLDER}/${name}" script)
  string(APPEND scripts "${script}")
endforeach()
file(READ "${FOLDER}/page.html" page)
file(READ "${FOLDER}/style.css" style)
file(READ "${LIBRARY}" library)

function(insert place text)
  string(FIND "${page}" "${place}" at)
  if(at EQUAL -1)
    message(FATAL_ERROR "page.html: no ${place}")
  endif()
  string(REPLACE "${place}" "${text}" page "${page}")
  set(page "${page}" PARENT_SCOPE)
endfunction()

foreach(text "${style}" "${library}" "${scripts}")
  string(FIND "${text}" "</s" found)
  if(NOT found EQUAL -1)
    message(FATAL_ERROR "a style or script of the report page holds </s, which would end its element")
  endif()
endforeach()
insert("/*STYLE*/" "${style}")
insert("/*SCRIPTS*/" "${scripts}")
insert("/*LIBRARY*/" "${library}")

string(FIND "${page}" "/*DATA*/" at)
if(at EQUAL -1)
  message(FATAL_ERROR "page.html: no /*DATA*/")
endif()
string(SUBSTRING "${page}" 0 ${at} before)
math(EXPR at "${at} + 8")
string(SUBSTRING "${page}" ${at} -1 after)
foreach(text "${before}" "${after}")
  string(FIND "${text}" ")report\"" found)
  if(NOT found EQUAL -1)
    message(FATAL_ERROR "the report page holds the end of a C++ raw string: )report\"")
  endif()
endforeach()
file(WRITE "${OUTPUT}" "#include \"analysis/report.h\"

namespace quietformer {

ReportTemplate report_template() {
  return {R\"report(${before})report\",
          R\"report(${after})report\"};
}

}  // namespace quietformer
")
