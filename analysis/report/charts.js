// Charts: a canvas with a title, a table of the same numbers, hover, and arrow keys.

const allCharts = [];

// Of every curve the point nearest to the pointer, so that curves with other steps are read too.
Chart.Interaction.modes.everyCurve = (chart, event) => {
  const x = chart.scales.x.getValueForPixel(event.x);
  const items = [];
  for (const meta of chart.getSortedVisibleDatasetMetas()) {
    const { points, silent } = chart.data.datasets[meta.index];
    if (silent || !points.length) continue;
    let best = 0;
    for (let i = 1; i < points.length; ++i)
      if (Math.abs(points[i].x - x) < Math.abs(points[best].x - x)) best = i;
    items.push({ element: meta.data[best], datasetIndex: meta.index, index: best });
  }
  return items;
};

const crosshair = {
  id: "crosshair",
  beforeDatasetsDraw(chart) {
    const active = chart.getActiveElements();
    if (!active.length || chart.options.indexAxis === "y") return;
    const { ctx, chartArea } = chart;
    ctx.save();
    ctx.strokeStyle = colour("muted");
    ctx.lineWidth = 1;
    ctx.beginPath();
    ctx.moveTo(active[0].element.x, chartArea.top);
    ctx.lineTo(active[0].element.x, chartArea.bottom);
    ctx.stroke();
    ctx.restore();
  },
};

function axis(title, options = {}) {
  return {
    border: { color: colour("rule") },
    grid: { color: colour("faint"), borderColor: colour("rule"), tickLength: 4 },
    ticks: { color: colour("muted"), maxRotation: 0, autoSkipPadding: 14, callback: formatShort, ...options.ticks },
    title: { display: Boolean(title), text: title, color: colour("muted") },
    type: options.type || "linear",
    ...options.scale,
  };
}

// Powers of ten alone have labels on a logarithmic axis.
function logTick(value) {
  return Math.abs(Math.log10(value) - Math.round(Math.log10(value))) < 1e-6 ? formatShort(value) : "";
}

function chartOptions(spec) {
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  Chart.defaults.font.size = 12;
  const y = spec.log ? { type: "logarithmic", ticks: { callback: logTick } } : {};
  return {
    animation: false, responsive: true, maintainAspectRatio: false, parsing: false, normalized: true,
    interaction: { mode: "everyCurve", intersect: false },
    elements: { point: { radius: 0, hoverRadius: 4, hitRadius: 0 }, line: { borderJoinStyle: "round" } },
    scales: { x: axis(spec.xLabel, spec.x), y: axis(spec.yLabel, y) },
    plugins: {
      legend: { display: false },
      tooltip: {
        backgroundColor: colour("panel"), titleColor: colour("ink"), bodyColor: colour("ink"),
        borderColor: colour("rule"), borderWidth: 1, padding: 8, usePointStyle: true, boxPadding: 4,
        callbacks: {
          title: items => items.length ? spec.tooltipTitle(items[0].raw.x) : "",
          label: item => `${item.dataset.label}: ${formatNumber(item.raw.y)}`,
          labelColor: item => ({ borderColor: item.dataset.borderColor, backgroundColor: item.dataset.borderColor }),
        },
      },
    },
    ...spec.options,
  };
}

// The line of a curve {points: [{x, y}]}; extra: Chart.js's own settings.
function lineOf(variant, label, points, extra = {}) {
  const style = styleOf(variant);
  return {
    label, points, data: points, borderColor: style.colour, backgroundColor: style.colour,
    borderDash: style.dash, borderWidth: 2, pointStyle: style.marker, ...extra,
  };
}

function pointsOf(curve) {
  return curve ? curve.steps.map((x, i) => ({ x, y: curve.values[i] })) : [];
}

// A variant's curve, and its single runs thin behind it.
function variantLines(variant, kind, name, extra = {}) {
  const { main, single } = curvesOf(variant, kind, name);
  const lines = single.map(curve =>
    lineOf(variant, variant.name, pointsOf(curve), { borderWidth: 0.75, silent: true, order: 2, pointHoverRadius: 0 }));
  if (main) lines.push(lineOf(variant, variant.name, pointsOf(main), { order: 1, ...extra }));
  return lines;
}

// The numbers of a chart as a table: x, then a column per curve.
function chartTable(spec, datasets) {
  const curves = datasets.filter(dataset => !dataset.silent);
  const xs = unique(curves.flatMap(curve => curve.points.map(point => point.x))).sort((a, b) => a - b);
  const values = curves.map(curve => new Map(curve.points.map(point => [point.x, point.y])));
  return plainTable(spec.title, [spec.xLabel, ...curves.map(curve => curve.label)],
                    xs.map(x => [spec.tableX ? spec.tableX(x) : formatNumber(x),
                                 ...values.map(of => formatNumber(of.get(x)))]));
}

function describeChart(spec, datasets) {
  const ends = datasets.filter(dataset => !dataset.silent && dataset.points.length)
    .map(dataset => `${dataset.label} ${formatNumber(dataset.points.at(-1).y)}`);
  return `${spec.title}. At the right end: ${ends.join(", ") || "no values"}. ` +
         "Arrow keys read the values; a table follows.";
}

// Moves the tooltip by steps along the longest curve; Home and End to its ends.
function readWithKeys(event, entry) {
  const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };
  const { chart } = entry;
  if (event.key === "Escape") {
    entry.at = null;
    chart.setActiveElements([]);
    chart.tooltip.setActiveElements([], { x: 0, y: 0 });
    chart.update("none");
    return;
  }
  if (!(event.key in moves) || chart.options.indexAxis === "y") return;
  const curves = chart.data.datasets.filter(dataset => !dataset.silent);
  const longest = curves.reduce((a, b) => (b.points.length > a.points.length ? b : a), { points: [] }).points;
  if (!longest.length) return;
  event.preventDefault();
  const start = entry.at ?? (event.key === "ArrowLeft" ? longest.length : -1);
  entry.at = Math.min(Math.max(start + moves[event.key], 0), longest.length - 1);
  const x = chart.scales.x.getPixelForValue(longest[entry.at].x);
  const items = Chart.Interaction.modes.everyCurve(chart, { x });
  chart.setActiveElements(items);
  chart.tooltip.setActiveElements(items, { x, y: chart.chartArea.top });
  chart.update("none");
  speak(entry.spec().tooltipTitle(longest[entry.at].x) + ": " +
        items.map(({ datasetIndex, index }) => {
          const dataset = chart.data.datasets[datasetIndex];
          return `${dataset.label} ${formatNumber(dataset.points[index].y)}`;
        }).join(", "));
}

// spec(): {title, xLabel, yLabel, log, datasets, tooltipTitle, ...}, asked again by update().
function makeChart(spec, kind = "line", tall = false) {
  const canvas = el("canvas", { tabindex: 0, role: "img" });
  const title = el("h3");
  const note = el("span", { class: "note" });
  const entry = { spec, canvas, chart: null, at: null };
  const table = lazyDetails("Table of this chart", () => {
    const now = spec();
    return now.table ? now.table() : chartTable(now, now.datasets());
  });
  entry.node = el("figure", {}, el("figcaption", {}, title, note),
                  el("div", { class: tall ? "plot tall" : "plot" }, canvas), table.node);
  entry.update = () => {
    const now = spec();
    const datasets = now.datasets();
    title.textContent = now.title;
    note.textContent = now.note || "";
    canvas.setAttribute("aria-label", describeChart(now, datasets));
    entry.at = null;
    if (entry.chart) entry.chart.destroy();
    entry.chart = new Chart(canvas, { type: kind, data: { datasets, labels: now.labels },
                                      options: chartOptions(now), plugins: [crosshair] });
    table.refresh();
  };
  canvas.addEventListener("keydown", event => readWithKeys(event, entry));
  allCharts.push(entry);
  return entry;
}

function updateCharts() {
  for (const entry of allCharts)
    if (!entry.canvas || entry.canvas.isConnected) entry.update();
}
