// The table at the top: a row per metric, a column per variant.

function metricCell(variant, metric) {
  const value = variant.metrics[metric.name];
  if (!value) return el("td", {}, "–");
  const number = formatNumber(value.mean);
  const parts = [value.best ? el("strong", { title: "best" }, number) : number];
  if (value.count > 1) parts.push(el("span", { class: "deviation" }, ` ± ${formatNumber(value.deviation, 2)}`));
  if (variant.index > 0 && typeof value.delta === "number")
    parts.push(el("span", { class: "delta" }, formatDelta(value.delta)));
  return el("td", {}, parts);
}

function metricRow(metric) {
  const better = { lower: "lower is better", higher: "higher is better" }[metric.better];
  const arrow = { lower: "↓", higher: "↑" }[metric.better];
  return el("tr", {},
    el("th", { scope: "row" }, metric.label,
       metric.unit ? [" ", el("span", { class: "unit" }, metric.unit)] : null,
       arrow ? [" ", el("span", { class: "unit", title: better, role: "img", "aria-label": better }, arrow)] : null),
    report.variants.map(variant => metricCell(variant, metric)));
}

function variantHeader(variant, ...details) {
  return el("th", { scope: "col" }, swatch(variant), el("span", { class: "name" }, variant.name),
            details.map(detail => el("span", { class: "what" }, detail)));
}

function metricTable(caption, metrics) {
  const columns = report.variants.length + 1;
  const groups = unique(metrics.map(metric => metric.group));
  return scrolling(caption, el("table", { class: "data" },
    el("caption", { class: "unseen" }, caption),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, el("span", { class: "unseen" }, "Metric")),
      report.variants.map(variant => variantHeader(variant, variant.attention, plural(variant.runs.length, "run"))))),
    groups.map(group => el("tbody", {},
      el("tr", {}, el("th", { class: "group", colspan: columns, scope: "rowgroup" }, group)),
      metrics.filter(metric => metric.group === group).map(metricRow)))));
}

function addSummary() {
  const several = report.variants.some(variant => variant.runs.length > 1);
  const node = section("summary", "Summary",
    "Best in bold, where one direction is better. " +
    (report.variants.length > 1 ? `Small numbers are differences to ${report.variants[0].name}. ` : "") +
    (several ? "Runs that differ in their seed alone are one column: mean ± standard deviation." : ""));
  node.append(metricTable("Summary of all variants", report.metrics.filter(metric => !metric.detail)));
  const details = report.metrics.filter(metric => metric.detail);
  if (details.length)
    node.append(lazyDetails("By family of sites, and weights", () =>
      metricTable("Statistics by family of sites", details)).node);
}
