// Layer x site and layer x head: tables whose cells are coloured, one per variant, one scale for all.

function channels(name) {
  const hex = colour(name);
  return [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16));
}

// Relative luminance (WCAG 2.1).
function luminance(rgb) {
  const [r, g, b] = rgb.map(c => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

// Background and text of a share of the scale: of the two inks the one with more contrast.
function cellColours(share) {
  const [low, high] = [channels("heat-low"), channels("heat-high")];
  const back = low.map((from, i) => Math.round(from + (high[i] - from) * share));
  const contrast = ink => {
    const [a, b] = [luminance(channels(ink)), luminance(back)];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  const ink = contrast("heat-ink") >= contrast("heat-ink-high") ? "heat-ink" : "heat-ink-high";
  return { background: `rgb(${back.join(",")})`, color: colour(ink) };
}

// value -> share of the colour scale; logarithmic where the values ask for it, and with zero or negative ones among
// them only far from zero (asinh).
function scaleOf(values) {
  const numbers = values.filter(value => typeof value === "number");
  const low = Math.min(...numbers), high = Math.max(...numbers);
  const [kind, at] = low > 0 && high / low > 20 ? [", logarithmic", Math.log]
    : low <= 0 && high > 10 ? [", logarithmic above 1", Math.asinh] : ["", value => value];
  const share = value => (high > low ? (at(value) - at(low)) / (at(high) - at(low)) : 0);
  return { low, high, kind, share, empty: !numbers.length };
}

function paint(node, value, scale) {
  if (typeof value !== "number") {
    node.classList.add("none");
    return node;
  }
  Object.assign(node.style, cellColours(scale.share(value)));
  return node;
}

function scaleLegend(scale) {
  if (scale.empty) return null;
  return el("span", { class: "scale" }, formatShort(scale.low), el("i", { "aria-hidden": "true" }),
            formatShort(scale.high) + scale.kind);
}

// One variant's or run's table; map: {title, swatch, rows, columns, value(row, column), outside: [[name, value]]}.
function heatTable(map, scale, corner, kind) {
  const breakable = text => String(text).split(/(?<=[._])/).flatMap(part => [part, el("wbr")]);
  return el("figure", {},
    el("figcaption", {}, el("h3", {}, map.swatch, " ", map.title)),
    scrolling(map.title, el("table", { class: `heat ${kind}` },
      el("caption", { class: "unseen" }, map.title),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, corner),
         map.columns.map(column => el("th", { scope: "col" }, breakable(column))))),
      el("tbody", {}, map.rows.map(row => el("tr", {}, el("th", { scope: "row" }, row),
        map.columns.map(column => {
          const value = map.value(row, column);
          return paint(el("td", { title: formatNumber(value, 6) }, formatShort(value)), value, scale);
        })))))),
    map.outside && map.outside.length
      ? el("p", { class: "note" }, "Outside the layers: ", map.outside.flatMap(([name, value]) =>
          [`${name} `, paint(el("span", { class: "chip" }, formatShort(value)), value, scale), " "]))
      : null);
}

// Tables for a chosen quantity, again whenever variants or colours change.
function heatSection(node, quantities, corner, kind, mapsFor, extra = null) {
  const legend = el("span");
  const tables = el("div", { class: "heats" });
  const update = () => {
    const maps = mapsFor(quantity.select.value);
    const values = maps.flatMap(map => [...map.rows.flatMap(row => map.columns.map(column => map.value(row, column))),
                                        ...(map.outside || []).map(([, value]) => value)]);
    const scale = scaleOf(values);
    legend.replaceChildren(scaleLegend(scale) || "");
    tables.replaceChildren(...maps.map(map => heatTable(map, scale, corner, kind)));
  };
  const quantity = choice("Quantity", quantities.map(name => [name, nameOfQuantity(name)]), update);
  node.append(el("div", { class: "controls" }, quantity.node, extra && extra.node, legend), tables);
  if (extra) extra.select.addEventListener("change", update);
  allCharts.push({ update });
  update();
}

function siteMap(variant, quantity) {
  const values = new Map();  // site -> mean over runs
  for (const site of unique(variant.members.flatMap(run => run.sites.map(entry => entry.name))))
    values.set(site, mean(variant.members.map(run =>
      run.sites.find(entry => entry.name === site)?.values[quantity])));
  const cells = new Map(), rows = [], columns = [], outside = [];
  for (const [site, value] of values) {
    if (value === null) continue;
    const { layer, place } = placeOf(site);
    if (layer === null) {
      outside.push([place, value]);
      continue;
    }
    rows.push(layer);
    columns.push(place);
    cells.set(`${layer}/${place}`, value);
  }
  return { title: variant.name, swatch: swatch(variant), rows: unique(rows).sort((a, b) => a - b),
           columns: unique(columns), value: (row, column) => cells.get(`${row}/${column}`), outside };
}

function addSites() {
  const node = section("sites", "Layers and sites",
    "Statistics of the final weights on the validation part; means over a variant's runs.");
  const present = new Set(report.runs.flatMap(run => run.sites.flatMap(site => Object.keys(site.values))));
  const quantities = ["kurtosis", "infinity_norm", "max_abs", "outliers_6", "outliers_6_sigma", "variance", "mean"]
    .filter(quantity => present.has(quantity));
  if (!quantities.length) {
    node.append(el("p", {}, "No run has statistics of activations."));
    return;
  }
  heatSection(node, quantities, "layer", "", quantity =>
    shownVariants().map(variant => siteMap(variant, quantity)).filter(map => map.rows.length || map.outside.length));
}

function addHeads() {
  const node = section("heads", "Attention heads",
    "Of the final weights: how much of a row's weight the first token gets, how much of 1 the row leaves " +
    "unspent (sink), and the entropy of its weights. Heads of different seeds do not correspond, so there is no mean over them.");
  const quantities = unique(report.runs.flatMap(run => run.heads.map(heads => heads.quantity)));
  if (!quantities.length) {
    node.append(el("p", {}, "No run has statistics of single heads in its results.json."));
    return;
  }
  const most = Math.max(...report.variants.map(variant => variant.members.length));
  const which = choice("Run of each variant", Array.from({ length: most }, (_, i) => [String(i), String(i + 1)]), () => {});
  heatSection(node, quantities, "layer / head", "narrow", quantity =>
    shownVariants().flatMap(variant => variant.members.slice(Number(which.select.value)).slice(0, 1).map(run => {
      const layers = new Map(run.heads.filter(heads => heads.quantity === quantity)
        .map(heads => [placeOf(heads.attention).layer ?? heads.attention, heads.values]));
      const width = Math.max(0, ...[...layers.values()].map(values => values.length));
      return { title: variant.members.length > 1 ? `${variant.name}, seed ${run.seed}` : variant.name,
               swatch: swatch(variant), rows: [...layers.keys()],
               columns: Array.from({ length: width }, (_, head) => head),
               value: (row, column) => layers.get(row)[column] };
    })).filter(map => map.rows.length), most > 1 ? which : null);
}
