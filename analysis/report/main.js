// The page, from top to bottom.

function addKey() {
  const key = document.getElementById("key");
  for (const variant of report.variants) {
    const button = el("button", { type: "button", "aria-pressed": "true",
                                  title: variant.attention, onclick: () => {
      variant.shown = !variant.shown;
      button.setAttribute("aria-pressed", String(variant.shown));
      updateCharts();
    } }, swatch(variant), el("span", { class: "name" }, variant.name));
    key.append(button);
  }
}

function start() {
  const runs = report.runs.length, variants = report.variants.length;
  document.title = `${report.variants.map(variant => variant.name).join(", ").slice(0, 80)}: runs compared`;
  document.getElementById("subtitle").textContent =
    runs === variants ? plural(runs, "run") : `${plural(variants, "variant")}, ${plural(runs, "run")}`;
  document.getElementById("thinning").textContent = report.thinned
    ? `Long curves are thinned, those of logs to ${report.points.log} points and those of statistics to ` +
      `${report.points.statistics}, the ones that keep the shape (largest triangles); tables hold the same points.`
    : "";
  startTheme();
  addKey();
  addSummary();
  addTraining();
  addOverTime();
  addSites();
  addHistograms();
  addHeads();
  addQuantized();
  addConfig();
  addRuns();
  themeListeners.push(updateCharts);
}

start();
