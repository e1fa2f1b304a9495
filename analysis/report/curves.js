// Quantities over training: the log's, and the statistics of a site and layer.

const stepTitle = step => `step ${formatNumber(step)}`;

function addTraining() {
  const node = section("training", "Training",
    report.variants.some(variant => variant.runs.length > 1)
      ? "Thick lines are means over seeds, thin lines single runs." : null);
  const has = name => report.variants.some(variant => curvesOf(variant, "log", name).main);
  const kinds = [["validation_loss", "Validation loss", "nats/token"], ["loss", "Training loss", "nats/token"],
                 ["grad_norm", "Gradient norm before clipping", ""],
                 ["tokens_per_second", "Training speed", "tokens/s"]].filter(([name]) => has(name));
  if (!kinds.length) {
    node.append(el("p", {}, "No run has a readable log.jsonl."));
    return;
  }
  let log = false;
  node.append(el("div", { class: "controls" }, check("Logarithmic values", log, on => {
    log = on;
    for (const entry of entries) entry.update();
  })));
  const entries = kinds.map(([name, title, yLabel]) => makeChart(() => ({
    title, yLabel, log, xLabel: "optimizer step", tooltipTitle: stepTitle,
    datasets: () => shownVariants().flatMap(variant =>
      variantLines(variant, "log", name, name === "validation_loss" ? { pointRadius: 3 } : {})),
  })));
  node.append(el("div", { class: "grid two" }, entries.map(entry => entry.node)));
  for (const entry of entries) entry.update();
}

// What stats.h5 has: family ("blocks.*.output") -> {layers, quantities}.
function sitesOverTime() {
  const families = new Map();
  for (const run of report.runs)
    for (const name of Object.keys(run.statistics)) {
      const slash = name.lastIndexOf("/");
      const site = name.slice(0, slash);
      const family = site.split(".").map(part => (/^\d+$/.test(part) ? "*" : part)).join(".");
      if (!families.has(family)) families.set(family, { layers: new Map(), quantities: new Set(), whole: false });
      const { layer } = placeOf(site);
      if (layer !== null) families.get(family).layers.set(layer, site);
      else families.get(family).whole = true;
      families.get(family).quantities.add(name.slice(slash + 1));
    }
  return families;
}

function addOverTime() {
  const node = section("over-time", "Outliers during training",
                       "Statistics of activations, on training batches.");
  const families = sitesOverTime();
  if (!families.size) {
    node.append(el("p", {}, "No run has a readable stats.h5 (analysis.every sets how often statistics are kept)."));
    return;
  }
  const names = [...families.keys()];
  const state = { family: names.includes("blocks.*.output") ? "blocks.*.output" : names[0], layer: "", log: false };
  const entries = new Map();
  const charts = el("div", { class: "grid two" });
  const layers = choice("Layer", [], value => { state.layer = value; update(); });
  const sites = choice("Site", names.map(name => [name, name]), value => { state.family = value; update(); });
  sites.select.value = state.family;

  const siteNow = () =>
    (state.layer === "" ? state.family : families.get(state.family).layers.get(Number(state.layer)));
  const entryFor = quantity => {
    if (!entries.has(quantity))
      entries.set(quantity, makeChart(() => ({
        title: nameOfQuantity(quantity), log: state.log, xLabel: "optimizer step", tooltipTitle: stepTitle,
        note: siteNow().includes("*") ? `${siteNow()}, largest of all layers` : siteNow(),
        datasets: () => shownVariants().flatMap(variant =>
          variantLines(variant, "statistics", `${siteNow()}/${quantity}`)),
      })));
    return entries.get(quantity);
  };
  const update = () => {
    const { layers: present, quantities, whole } = families.get(state.family);
    const numbers = [...present.keys()].sort((a, b) => a - b).map(n => [String(n), String(n)]);
    setChoices(layers.select, [...(whole ? [["", present.size ? "largest of all" : "none"]] : []), ...numbers]);
    layers.select.disabled = !present.size;
    state.layer = layers.select.value;
    const now = [...quantities].map(entryFor);
    charts.replaceChildren(...now.map(entry => entry.node));
    for (const entry of now) entry.update();
  };
  node.append(el("div", { class: "controls" }, sites.node, layers.node,
                 check("Logarithmic values", false, on => { state.log = on; update(); })), charts);
  update();
}
