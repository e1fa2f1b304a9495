// What quantisation costs, site by site.

// Sites in the chart, so that bars stay thick enough to see; the table has all.
function mostSites() {
  return Math.min(Math.max(Math.floor(48 / Math.max(shownVariants().length, 1)), 4), 12);
}

// Mean contributions over the variant's runs: site -> nats.
function contributions(variant, scheme) {
  const lists = variant.members.flatMap(run => run.schemes.filter(s => s.name === scheme).map(s => new Map(s.sites)));
  return new Map(unique(lists.flatMap(list => [...list.keys()])).map(site =>
    [site, mean(lists.map(list => list.get(site)))]));
}

function addQuantized() {
  const node = section("quantisation", "Quantisation",
    "What the loss gains when one site alone stays in floating point: the sites that integers hurt most.");
  const schemes = report.runs.flatMap(run => run.schemes);
  if (!schemes.length) {
    node.append(el("p", {}, "No run has a quantized.json (quietformer quantize writes it)."));
    return;
  }
  const names = unique(schemes.map(scheme => scheme.name));
  const withSites = names.filter(name => schemes.some(s => s.name === name && s.sites.length));
  node.append(plainTable("Schemes", ["Scheme", "Weights", "Activations"], names.map(name => {
    const scheme = schemes.find(s => s.name === name);
    return [name, scheme.weights || "–", scheme.activations || "–"];
  }), "text"));
  if (!withSites.length) {
    node.append(el("p", {}, "No scheme has contributions of single sites."));
    return;
  }
  let scheme = withSites[0];
  const sitesNow = () => {
    const largest = new Map();
    for (const variant of report.variants)
      for (const [site, nats] of contributions(variant, scheme))
        largest.set(site, Math.max(largest.get(site) ?? -Infinity, Math.abs(nats)));
    return [...largest].sort((a, b) => b[1] - a[1]).map(([site]) => site);
  };
  const entry = makeChart(() => {
    const sites = sitesNow(), top = sites.slice(0, mostSites());
    return {
      title: `Contribution to the loss gap, ${scheme}`, labels: top,
      note: sites.length > top.length ? `the ${top.length} largest of ${sites.length} sites` : "",
      datasets: () => shownVariants().map(variant => {
        const values = contributions(variant, scheme);
        const points = top.map(site => ({ x: values.get(site), y: values.get(site), site }));
        return lineOf(variant, variant.name, points, { data: top.map(site => values.get(site) ?? null), borderWidth: 0,
                                                       barPercentage: 0.85, categoryPercentage: 0.75 });
      }),
      table: () => plainTable(`Contributions, ${scheme}, nats`, ["Site", ...report.variants.map(v => v.name)],
        sites.map(site => [site, ...report.variants.map(v => formatNumber(contributions(v, scheme).get(site)))])),
      options: barOptions(),
    };
  }, "bar", true);
  const schemesChoice = choice("Scheme", withSites.map(name => [name, name]), value => { scheme = value; entry.update(); });
  node.append(el("div", { class: "controls" }, schemesChoice.node), entry.node);
  entry.update();
}

function barOptions() {
  const narrow = window.innerWidth < 640;
  const base = chartOptions({ tooltipTitle: () => "" });
  base.plugins.tooltip.callbacks.title = items => (items.length ? items[0].label : "");
  base.plugins.tooltip.callbacks.label = item => `${item.dataset.label}: ${formatNumber(item.raw)} nats`;
  return {
    indexAxis: "y", parsing: true, normalized: false, interaction: { mode: "index", axis: "y", intersect: false },
    plugins: base.plugins,
    scales: {
      x: axis("nats/token"),
      y: { ...axis(""), type: "category", grid: { display: false },
           ticks: { color: colour("ink"), autoSkip: false, font: { size: narrow ? 10 : 12 },
                    callback(value) {
                      const name = this.getLabelForValue(value);
                      return narrow ? name.replace(/^blocks\./, "") : name;
                    } } },
    },
  };
}
