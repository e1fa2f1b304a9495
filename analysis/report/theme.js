// Light and dark, and the colour, dash and marker that a variant has in every chart.

const colours = 8;
const markers = ["circle", "rectRot", "triangle", "rect", "star", "crossRot", "cross", "rectRounded"];
const dashes = [[], [7, 3], [2, 2.5], [9, 3, 2, 3]];
const themeChoices = ["auto", "light", "dark"];
const darkScheme = window.matchMedia("(prefers-color-scheme: dark)");
const themeListeners = [];
let themeChoice = "auto";

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function styleOf(variant) {
  const again = Math.floor(variant.index / colours);
  return {
    colour: colour(`v${variant.index % colours}`),
    dash: dashes[again % dashes.length],
    marker: markers[variant.index % markers.length],
  };
}

function applyTheme() {
  const dark = themeChoice === "auto" ? darkScheme.matches : themeChoice === "dark";
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  const button = document.getElementById("theme");
  button.textContent = `Theme: ${themeChoice}`;
  button.setAttribute("aria-label", `Colour theme: ${themeChoice}; change`);
  for (const listener of themeListeners) listener();
}

function startTheme() {
  document.getElementById("theme").addEventListener("click", () => {
    themeChoice = themeChoices[(themeChoices.indexOf(themeChoice) + 1) % themeChoices.length];
    applyTheme();
  });
  darkScheme.addEventListener("change", applyTheme);
  applyTheme();
}

// A short piece of a variant's line.
function swatch(variant) {
  const dash = dashes[Math.floor(variant.index / colours) % dashes.length];
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("class", "swatch");
  svg.setAttribute("viewBox", "0 0 28 12");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(ns, "line");
  for (const [name, value] of Object.entries({ x1: 0, x2: 28, y1: 6, y2: 6, "stroke-width": 3,
                                               "stroke-dasharray": dash.join(" ") || "none" }))
    line.setAttribute(name, value);
  line.style.stroke = `var(--v${variant.index % colours})`;
  svg.append(line);
  return svg;
}
