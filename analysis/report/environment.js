// How the configs differ, and where the runs ran.

function addConfig() {
  const node = section("config", "Configuration",
    report.variants.length > 1 ? "Keys whose values differ; all others are equal." : null);
  if (!report.differences.length) {
    node.append(el("p", {}, report.variants.length > 1 ? "No key differs." : "One variant: nothing to compare."));
    return;
  }
  const caption = "Config keys that differ";
  node.append(scrolling(caption, el("table", { class: "data text" },
    el("caption", { class: "unseen" }, caption),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Key"),
      report.variants.map(variant => variantHeader(variant)))),
    el("tbody", {}, report.differences.map(({ key, values }) => el("tr", {},
      el("th", { scope: "row" }, key), values.map(value => el("td", {}, value === "" ? "–" : value))))))));
}

function addRuns() {
  const node = section("runs", "Runs and environment");
  const keys = unique(report.runs.flatMap(run => run.environment.map(([key]) => key)));
  const rows = report.variants.flatMap(variant => variant.members.map(run => {
    const environment = new Map(run.environment);
    return [run.name, variant.name, run.seed || "–", ...keys.map(key => environment.get(key) ?? "–"), run.directory];
  }));
  node.append(plainTable("Runs", ["Run", "Variant", "Seed", ...keys.map(key => key.replaceAll("_", " ")), "Directory"],
                         rows, "text"));
  if (!keys.length)
    node.append(el("p", { class: "note" }, "These runs did not record version, commit and device."));
}
