// Elements. Text from files goes into the page as text nodes and attributes alone, never as HTML.

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(2).filter(child => child !== null && child !== undefined));
  return node;
}

// A section of the page with an entry in the navigation.
function section(id, title, lead) {
  const node = el("section", { id, "aria-labelledby": `${id}-title` },
                  el("h2", { id: `${id}-title` }, title), lead ? el("p", { class: "note" }, lead) : null);
  document.getElementById("main").append(node);
  document.getElementById("sections").append(el("li", {}, el("a", { href: `#${id}` }, title)));
  return node;
}

// A labelled choice; choices: [[value, text]]. Its value is in .value.
function choice(label, choices, changed) {
  const node = el("select", { onchange: () => changed(node.value) },
                  choices.map(([value, text]) => el("option", { value }, text)));
  return { node: el("label", {}, label, node), select: node };
}

function setChoices(select, choices) {
  const before = select.value;
  select.replaceChildren(...choices.map(([value, text]) => el("option", { value }, text)));
  if (choices.some(([value]) => value === before)) select.value = before;
}

function check(label, checked, changed) {
  const node = el("input", { type: "checkbox", checked, onchange: () => changed(node.checked) });
  return el("label", {}, node, label);
}

// A container that a wide table scrolls in, for the keyboard too.
function scrolling(label, ...children) {
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, children);
}

// rows: lists of cells (text or nodes), the first of them the row's header.
function plainTable(caption, header, rows, kind = "") {
  return scrolling(caption, el("table", { class: `data ${kind}` },
    el("caption", { class: "unseen" }, caption),
    el("thead", {}, el("tr", {}, header.map(cell => el("th", { scope: "col" }, cell)))),
    el("tbody", {}, rows.map(([first, ...rest]) =>
      el("tr", {}, el("th", { scope: "row" }, first), rest.map(cell => el("td", {}, cell)))))));
}

// A disclosure whose content is made when it is opened.
function lazyDetails(summary, make) {
  const node = el("details", {}, el("summary", {}, summary));
  const fill = () => {
    while (node.children.length > 1) node.lastChild.remove();
    if (node.open) node.append(make());
  };
  node.addEventListener("toggle", fill);
  return { node, refresh: fill };
}

function speak(text) {
  document.getElementById("spoken").textContent = text;
}
