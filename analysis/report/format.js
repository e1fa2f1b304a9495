// Numbers as people read them.

function formatNumber(value, digits = 4) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  let text;
  if (size >= 1e7 || size < 1e-4) {
    const [mantissa, exponent] = value.toExponential(Math.max(digits - 2, 0)).split("e");
    text = `${mantissa}e${Number(exponent)}`;
  } else if (size >= 1e4 || Number.isInteger(value)) {
    text = Math.round(value).toLocaleString("en-US").replaceAll(",", "\u202f");
  } else {
    const exponent = Number(size.toExponential(digits - 1).split("e")[1]);  // of the rounded number
    const places = Math.max(digits - 1 - exponent, 0);
    text = value.toFixed(Math.min(places, 8));
  }
  return text.replace("-", "−").replace("e-", "e−");
}

// A difference, always with its sign.
function formatDelta(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "";
  if (value === 0) return "±0";
  return (value > 0 ? "+" : "") + formatNumber(value, 3);
}

// For axes and small cells.
function formatShort(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  for (const [limit, unit] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]])
    if (size >= limit) return formatShort(value / (unit === "k" ? 1e3 : limit)) + unit;
  if (size !== 0 && size < 1e-3) return value.toExponential(0).replaceAll("-", "−");
  return String(Number(value.toPrecision(3))).replace("-", "−");
}

function plural(count, word) {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}
