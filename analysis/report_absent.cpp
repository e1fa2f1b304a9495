// Of builds without Chart.js.
#include "analysis/report.h"

namespace quietformer {

ReportTemplate report_template() {
  return {};
}

}  // namespace quietformer
