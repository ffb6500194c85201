// Elements out of plain calls. Text only ever becomes text nodes: nothing here parses markup.

const SVG = "http://www.w3.org/2000/svg";

/** h("p", {class: "lead", onclick: f, "aria-label": "…", dataset: {id: 1}}, "text", node, [more], null) */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props ?? {}, children);
}

/** The same for SVG. */
export function s(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props ?? {}, children);
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(node.dataset, value);
    else if (name === "value" || name === "checked" || name === "selected" || name === "indeterminate") node[name] = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  add(node, children);
  return node;
}

/** Append children; null and false are left out, numbers and strings become text. */
export function add(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

/** Replace what is in a node. */
export function put(node, ...children) {
  node.replaceChildren();
  return add(node, children);
}

/** A width in per cent, set through the style object, which the content security policy allows. */
export function width(node, share) {
  node.style.width = `${(100 * Math.max(0, Math.min(1, share))).toFixed(2)}%`;
  return node;
}

/** Arrow keys move among `items()` inside `container`; one of them is in the tab order. `pick` is called with focus. */
export function roving(container, selector, { vertical = false, pick = null } = {}) {
  const items = () => [...container.querySelectorAll(selector)].filter((item) => !item.disabled);
  container.addEventListener("keydown", (event) => {
    const all = items();
    const at = all.indexOf(document.activeElement);
    if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = vertical ? { ArrowDown: 1, ArrowUp: -1 } : { ArrowRight: 1, ArrowLeft: -1 };
    let to = null;
    if (event.key in steps) to = (at + steps[event.key] + all.length) % all.length;
    else if (event.key === "Home") to = 0;
    else if (event.key === "End") to = all.length - 1;
    if (to === null) return;
    event.preventDefault();
    for (const item of all) item.tabIndex = -1;
    all[to].tabIndex = 0;
    all[to].focus();
    if (pick) pick(all[to]);
  });
  return container;
}

/** A switch between few values, as a radio group with roving tab order. */
export function segments(label, options, chosen, choose) {
  const group = h("div", { class: "segments", role: "radiogroup", "aria-label": label });
  const mark = (value) => {
    for (const button of group.children) {
      const on = button.dataset.value === String(value);
      button.setAttribute("aria-checked", on);
      button.tabIndex = on ? 0 : -1;
    }
  };
  for (const [value, text] of options) {
    group.append(h("button", { type: "button", role: "radio", dataset: { value }, onclick: () => { mark(value); choose(value); } }, text));
  }
  mark(chosen);
  return roving(group, "button", { pick: (button) => button.click() });
}

/** Whether a key press belongs to a field that is being written in. */
export function isTyping(target) {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
}

/** Save text as a file of the user's. */
export function download(name, text, type = "application/json") {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
