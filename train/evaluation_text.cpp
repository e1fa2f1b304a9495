#include "train/evaluation_text.h"

#include <fmt/format.h>

#include "core/check.h"
#include "train/evaluate.h"
#include "train/text.h"

namespace quietformer {
namespace {

std::optional<Masking> choose_masking(const LoadedModel& model, const TextRequest& request,
                                      SourceKind kind) {
  RunConfig config = model.config;
  if (!is_encoder(config.model) && request.mask_token)
    throw InputError("--mask-token: for encoders, found model.type " + config.model.type);
  const bool known = request.mask_token || config.data.mlm.mask_token;
  if (is_encoder(config.model) && !model.trained_here && !known)
    throw InputError("--mask-token: needed: a Hugging Face model does not say which token it is");
  config.data.source = kind == SourceKind::bytes ? "bytes" : "tokens";
  if (request.mask_token) config.data.mlm.mask_token = request.mask_token;
  return masking_of(config);
}

}  // namespace

EvaluationText open_text(const LoadedModel& model, const TextRequest& request) {
  const RunConfig& config = model.config;
  if (request.data.empty() && !model.trained_here)
    throw InputError("--data: needed: a Hugging Face model does not say what to evaluate it on");
  const bool own_data = request.data.empty();

  SourceRequest wanted;
  wanted.kind = model.trained_here ? source_kind(config.data.source) : SourceKind::tokens;
  wanted.path = own_data ? config.data.path : request.data;
  wanted.what = own_data ? "data.path" : "--data";
  wanted.vocab = config.model.vocab;
  if (own_data) wanted.generated_bytes = split_total(config.data.split, config.model.context);
  const std::unique_ptr<const Tokenizer> tokenizer = model_tokenizer(model, request.tokenizer);
  if (!model.trained_here && tokenizer == nullptr && !wanted.path.ends_with(".bin"))
    throw InputError(
        fmt::format("--data: {}: {} has no tokenizer to read text with, expected one, --tokenizer "
                    "or a *.bin of ids",
                    wanted.path, model.path));
  choose_text(wanted, tokenizer.get());

  EvaluationText text;
  text.source = open_source(wanted);
  text.path = wanted.path;
  text.split = !request.split.empty() ? request.split : own_data ? "test" : "all";
  text.span = {0, text.source->size()};
  if (own_data || text.split != "all") {
    const Split split = make_split(config.data.split, config.model.context, *text.source);
    text.train = split.train;
    if (text.split == "train") text.span = split.train;
    if (text.split == "validation") text.span = split.validation;
    if (text.split == "test") text.span = split.test;
  }
  if (text.span.size < 2)
    throw InputError(fmt::format("{}: {}: {} tokens, expected 2 or more", wanted.what, text.path,
                                 text.span.size));
  text.masking = choose_masking(model, request, wanted.kind);
  return text;
}

std::optional<double> EvaluationText::bits_per_byte(double loss) const {
  if (source->text_bytes() == 0) return std::nullopt;
  return quietformer::bits_per_byte(loss * double(source->size()) / double(source->text_bytes()));
}

}  // namespace quietformer
