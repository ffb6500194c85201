// The panel beside a conversation: system prompt, parameters, tools.

import { h, put } from "../dom.js";
import { icon } from "../icons.js";
import { t } from "../i18n.js";
import { readJson } from "../json.js";
import { parameterPanel } from "./params.js";

/** `changed` is called when a setting was. Returns {node, draw(chat, model)}. */
export function settingsPanel(changed, close) {
  const body = h("div", { class: "body" });
  const node = h("aside", { class: "settings", id: "settings", "aria-label": t("chat.settings") },
    h("header", {}, h("h2", {}, t("chat.settings")), h("button", { class: "icon-button", type: "button", "aria-label": t("action.close"), onclick: close }, icon("close"))), body);
  const draw = (chat, model) => put(body, about(model), system(chat, changed), h("h3", {}, t("chat.parameters")), parameterPanel(chat.params, model, changed), model?.luopan?.tools && tools(chat, changed));
  return { node, draw };
}

function about(model) {
  const facts = model?.luopan;
  if (!facts) return null;
  const words = [facts.parameters && t("model.parameters", { n: compact(facts.parameters) }), facts.context && t("model.context", { n: facts.context })];
  return h("div", { class: "about" },
    h("p", { class: "mono small wrap" }, model.id), facts.description && h("p", { class: "small muted wrap" }, facts.description),
    h("p", { class: "row" }, words.filter(Boolean).map((text) => h("span", { class: "chip" }, text)),
      facts.thinking && h("span", { class: "chip accent" }, t("model.thinks")), facts.tools && h("span", { class: "chip accent" }, t("model.tools"))));
}

function compact(n) {
  return new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(n);
}

function system(chat, changed) {
  const area = h("textarea", { class: "area", rows: 3, id: "system", value: chat.system, placeholder: t("chat.system_hint") });
  area.addEventListener("input", () => { chat.system = area.value; changed(); });
  return h("label", { class: "field" }, h("span", { class: "label" }, t("role.system")), area);
}

function tools(chat, changed) {
  const area = h("textarea", { class: "area code", rows: 5, id: "tools", value: chat.tools ?? "", spellcheck: "false", placeholder: '[{"type": "function", "function": {"name": "…", "parameters": {…}}}]' });
  const problem = h("p", { class: "notice bad", role: "alert", hidden: true });
  const check = () => {
    const { value, error } = area.value.trim() ? readJson(area.value) : { value: [] };
    const words = error ? t("json.at", { line: error.line, column: error.column, what: t(error.what) }) : Array.isArray(value) ? "" : t("json.not_list");
    problem.hidden = !words;
    put(problem, words);
    area.setAttribute("aria-invalid", Boolean(words));
  };
  area.addEventListener("input", () => { chat.tools = area.value; check(); changed(); });
  check();
  return h("div", {}, h("label", { class: "field" }, h("span", { class: "label" }, t("chat.tools")), area), problem);
}
