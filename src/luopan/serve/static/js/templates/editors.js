// The four things one edits: the template, the messages, the tools, the arguments.

import { h, put, roving } from "../dom.js";
import { t } from "../i18n.js";
import { readJson } from "../json.js";

const FIELDS = ["messages", "tools", "kwargs", "source"];

/** `state` has a text for each field. `changed(field)` is called when one was edited. Returns {node, draw(), values()}. */
export function editors(state, changed) {
  const areas = {};
  const problems = {};
  const tabs = roving(h("div", { class: "segments", role: "tablist", "aria-label": t("templates.edit") }), "button", { pick: (tab) => tab.click() });
  const panels = h("div", { class: "grow panels" });
  let open = "messages";
  for (const field of FIELDS) {
    const area = h("textarea", { class: "area code", id: `edit-${field}`, spellcheck: "false", autocapitalize: "off", "aria-label": t(`templates.${field}`) });
    const problem = h("p", { class: "notice bad", role: "alert", hidden: true });
    area.addEventListener("input", () => { state[field] = area.value; check(field); changed(field); });
    area.addEventListener("keydown", indent);
    areas[field] = area;
    problems[field] = problem;
    tabs.append(h("button", { type: "button", role: "tab", id: `tab-${field}`, "aria-controls": `panel-${field}`, dataset: { field }, onclick: () => select(field) }, t(`templates.${field}`)));
    panels.append(h("div", { role: "tabpanel", id: `panel-${field}`, "aria-labelledby": `tab-${field}` }, area, problem));
  }
  const check = (field) => {
    const words = field === "source" ? "" : problemOf(field, areas[field].value);
    problems[field].hidden = !words;
    put(problems[field], words);
    areas[field].setAttribute("aria-invalid", Boolean(words));
    tabs.querySelector(`[data-field="${field}"]`).classList.toggle("wrong", Boolean(words));
    return !words;
  };
  const select = (field) => {
    open = field;
    for (const tab of tabs.children) {
      const on = tab.dataset.field === field;
      tab.setAttribute("aria-selected", on);
      tab.tabIndex = on ? 0 : -1;
    }
    for (const panel of panels.children) panel.hidden = panel.id !== `panel-${field}`;
  };
  const draw = () => {
    for (const field of FIELDS) {
      if (areas[field].value !== state[field]) areas[field].value = state[field];
      check(field);
    }
    select(open);
  };
  /** {messages, tools, kwargs}; null while one of them is broken. */
  const values = () => {
    const sound = FIELDS.map(check).every(Boolean);
    if (!sound) return null;
    const read = (field, otherwise) => (state[field].trim() ? readJson(state[field]).value : otherwise);
    return { messages: read("messages", []), tools: read("tools", []), kwargs: read("kwargs", {}) };
  };
  draw();
  return { node: h("div", { class: "editors" }, tabs, panels), draw, values, select };
}

function problemOf(field, text) {
  if (!text.trim()) return field === "messages" ? t("json.empty") : "";
  const { value, error } = readJson(text);
  if (error) return t("json.at", { line: error.line, column: error.column, what: t(error.what) });
  if (field === "kwargs") return value !== null && typeof value === "object" && !Array.isArray(value) ? "" : t("json.not_object");
  return Array.isArray(value) ? "" : t("json.not_list");
}

/** Enter keeps the indentation of the line. Tab stays what moves the focus. */
function indent(event) {
  if (event.key !== "Enter" || event.shiftKey || event.ctrlKey || event.metaKey || event.isComposing) return;
  const area = event.target;
  const before = area.value.slice(0, area.selectionStart);
  const spaces = /[^\n]*$/.exec(before)[0].match(/^ */)[0];
  if (!spaces) return;
  event.preventDefault();
  area.setRangeText(`\n${spaces}`, area.selectionStart, area.selectionEnd, "end");
  area.dispatchEvent(new Event("input"));
}
