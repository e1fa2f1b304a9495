// In place of what needs ICU, in a build without it.
#include "core/check.h"
#include "data/tokenizer.h"

namespace quietformer {

bool tokenizers_built() {
  return false;
}

std::unique_ptr<const Tokenizer> open_tokenizer(const std::string& path) {
  throw InputError(path +
                   ": tokenizers need ICU, which this build has not (install libicu-dev and "
                   "configure again)");
}

}  // namespace quietformer
