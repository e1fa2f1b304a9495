// How an activation falls into what statistics are taken of. Internal to analysis/.
#pragma once

#include <cstdint>

#include "analysis/activation_statistics.h"

namespace quietformer {

/// "attention.sink_mass" or "attention.row_sum" if such a probe's name ends so, else empty.
std::string_view mass_suffix(std::string_view name);

/// Samples, each of `units` (heads, or 1) of `rows` rows of `width` numbers; strides in elements.
struct SiteCut {
  std::int64_t samples = 0, units = 1, rows = 0, width = 0;
  std::int64_t stride = 0, sample_stride = 0, unit_stride = 0;  // stride: from row to row
  bool masked = false;  // row t of sample s counts if validity[s][t] is not zero
};

/// `heads` > 1 cuts rows (B,T,C) into heads; masses (B,H,T) always fall into theirs.
inline SiteCut cut_site(const Tensor& value, SiteKind kind, std::int64_t heads,
                        const Tensor& validity) {
  const Shape& shape = value.shape;
  QF_EXPECTS(shape.rank >= 1 && value.count() > 0 && value.contiguous());
  SiteCut c;
  c.samples = shape[0];
  c.sample_stride = value.count() / c.samples;
  if (kind == SiteKind::mass) {
    QF_EXPECTS(shape.rank == 3);
    c.units = shape[1];
    c.rows = shape[2];
    c.unit_stride = c.rows;
    c.width = c.stride = 1;
  } else {
    c.rows = shape.rank > 1 ? shape[1] : 1;
    c.width = c.stride = c.sample_stride / c.rows;
    if (heads > 1) {
      QF_EXPECTS(c.width % heads == 0);
      c.units = heads;
      c.width /= heads;
      c.unit_stride = c.width;
    }
  }
  c.masked = validity && shape.rank > 1 && validity.shape[1] == c.rows;
  QF_EXPECTS(!c.masked || validity.shape[0] == c.samples);
  return c;
}

}  // namespace quietformer
