// What `quietformer compare` found, as report.cpp wrote it, and views of it.

const report = JSON.parse(document.getElementById("data").textContent);

for (const [index, variant] of report.variants.entries()) {
  variant.index = index;
  variant.shown = true;
  variant.members = variant.runs.map(run => report.runs[run]);
}

function shownVariants() {
  return report.variants.filter(variant => variant.shown);
}

// The curve of a variant, and of its single runs where it is their mean. kind: "log" or "statistics".
function curvesOf(variant, kind, name) {
  const single = variant.members.map(run => run[kind][name]).filter(curve => curve);
  if (variant.members.length === 1) return { main: single[0], single: [] };
  return { main: variant[kind][name], single };
}

// {layer, place} of a site's name: layer is its first number, null where it has none.
function placeOf(site) {
  const parts = site.split(".");
  const at = parts.findIndex(part => /^\d+$/.test(part));
  if (at < 0) return { layer: null, place: site };
  return { layer: Number(parts[at]), place: parts.slice(at + 1).join(".") || parts.slice(0, at).join(".") };
}

function unique(values) {
  return [...new Set(values)];
}

// The mean of the numbers among values; null without any.
function mean(values) {
  const numbers = values.filter(value => typeof value === "number");
  return numbers.length ? numbers.reduce((sum, value) => sum + value, 0) / numbers.length : null;
}

const quantityNames = {
  kurtosis: "Kurtosis (excess)",
  infinity_norm: "Infinity norm, mean of sequences",
  max_abs: "Largest |x|",
  outliers_6: "Values with |x| > 6",
  outliers_6_sigma: "Values beyond 6 sigma",
  variance: "Variance",
  mean: "Mean",
  first_token_mass: "First-token mass",
  sink_mass: "Sink mass",
  row_sum: "Row sum",
  entropy: "Entropy, nats",
};

function nameOfQuantity(quantity) {
  return quantityNames[quantity] || quantity.replaceAll("_", " ");
}
