// How many activations have which size, over octaves of |x|.

// Shares of the values per octave, mean over the variant's runs: points {x: exponent, y: share}.
function sizePoints(variant, site) {
  const found = variant.members.map(run => run.sites.find(entry => entry.name === site)?.histogram).filter(h => h);
  if (!found.length) return [];
  const { bins_per_octave: bins, lowest_exponent: lowest } = found[0];
  const alike = found.filter(h => h.bins_per_octave === bins && h.lowest_exponent === lowest);
  const shares = alike.map(h => {
    const all = h.below + h.above + h.counts.reduce((sum, count) => sum + (count || 0), 0);
    return h.counts.map(count => (count || 0) / (all || 1));
  });
  return shares[0].map((_, i) => ({ x: lowest + (i + 0.5) / bins, y: mean(shares.map(share => share[i])) }));
}

function addHistograms() {
  const node = section("sizes", "Sizes of activations",
    "Share of a site's values by size, both on logarithmic scales: a long right tail is what an integer grid has to cover.");
  const names = unique(report.runs.flatMap(run => run.sites.filter(site => site.histogram).map(site => site.name)));
  if (!names.length) {
    node.append(el("p", {}, "No run has histograms in its results.json."));
    return;
  }
  const outputs = names.filter(name => /^blocks\.\d+\.output$/.test(name));
  let site = outputs.at(-1) || names.at(-1);
  const range = () => {
    const used = shownVariants().flatMap(variant => sizePoints(variant, site)).filter(point => point.y > 0);
    return { min: Math.floor(Math.min(...used.map(point => point.x), 0)), max: Math.ceil(Math.max(...used.map(point => point.x), 1)) };
  };
  // x is the exponent of 2; ticks stand at powers of ten.
  const decades = scale => {
    scale.ticks = [];
    for (let k = Math.ceil(scale.min / Math.log2(10)); k <= scale.max / Math.log2(10); ++k)
      scale.ticks.push({ value: k * Math.log2(10) });
  };
  const entry = makeChart(() => ({
    title: "Sizes of activations", note: site, log: true, xLabel: "|x|", yLabel: "share of values",
    x: { scale: { ...range(), afterBuildTicks: decades }, ticks: { callback: value => formatShort(2 ** value) } },
    tooltipTitle: exponent => `|x| about ${formatNumber(2 ** exponent, 3)}`,
    tableX: exponent => formatNumber(2 ** exponent, 3),
    datasets: () => shownVariants().map(variant =>
      lineOf(variant, variant.name, sizePoints(variant, site).filter(point => point.y > 0), { stepped: "middle" })),
  }), "line", true);
  const sites = choice("Site", names.map(name => [name, name]), value => { site = value; entry.update(); });
  sites.select.value = site;
  node.append(el("div", { class: "controls" }, sites.node), entry.node);
  entry.update();
}
