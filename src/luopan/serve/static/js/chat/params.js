// Sampling parameters: what each is called in a request, its range, and which models have it.

import { h, put } from "../dom.js";
import { t } from "../i18n.js";

const ours = (model) => Boolean(model?.luopan);

/** `has`: whether a model knows it. Foreign servers get only what OpenAI's API has. */
export const PARAMETERS = [
  { name: "temperature", min: 0, max: 2, step: 0.05, has: () => true },
  { name: "top_p", min: 0.05, max: 1, step: 0.01, has: () => true },
  { name: "top_k", min: 0, max: 200, step: 1, has: ours },
  { name: "min_p", min: 0, max: 1, step: 0.01, has: ours },
  { name: "repetition_penalty", min: 0.8, max: 2, step: 0.01, has: ours },
  { name: "max_tokens", min: 1, max: (model) => model?.luopan?.context ?? 4096, step: 1, has: () => true },
  { name: "seed", integer: true, has: () => true },
  { name: "enable_thinking", flag: true, has: (model) => Boolean(model?.luopan?.thinking) },
  { name: "thinking_budget", min: 0, max: (model) => model?.luopan?.context ?? 4096, step: 1, has: (model) => Boolean(model?.luopan?.thinking) },
];

/** The part of a request's body that the parameters make up: those that were set, and that the model has. */
export function requestParameters(params, model) {
  const body = {};
  for (const { name, has, flag } of PARAMETERS) {
    if (params[name] === undefined || params[name] === null || !has(model)) continue;
    if (flag) body.chat_template_kwargs = { ...body.chat_template_kwargs, [name]: params[name] };
    else body[name] = params[name];
  }
  return body;
}

/** The panel of parameters; `changed` is called when one was set or let go. */
export function parameterPanel(params, model, changed) {
  const node = h("div", { class: "params" });
  const draw = () => put(node, PARAMETERS.filter((spec) => spec.has(model)).map((spec) => row(spec, params, model, changed, draw)));
  draw();
  return node;
}

function row(spec, params, model, changed, redraw) {
  const set = (value) => {
    if (value === null || Number.isNaN(value)) delete params[spec.name];
    else params[spec.name] = value;
    changed();
  };
  if (spec.flag) return flag(spec, params, model, set);
  const id = `param-${spec.name}`;
  const given = params[spec.name];
  const usual = model?.luopan?.default_sampling?.[spec.name];
  const field = h("input", {
    class: "input", id, type: "number", value: given ?? "", min: spec.min ?? null, step: spec.step ?? 1, inputmode: spec.step < 1 ? "decimal" : "numeric",
    placeholder: usual ?? t("param.default"), "aria-describedby": `${id}-help`, max: bound(spec, model),
  });
  const line = h("div", { class: `param ${given === undefined ? "unset" : ""}` });
  const slider = spec.min === undefined ? null : h("input", {
    type: "range", min: spec.min, max: bound(spec, model), step: spec.step, value: given ?? usual ?? middle(spec, model), tabindex: -1, "aria-hidden": "true",
  });
  const reset = h("button", { class: "button quiet small", type: "button", hidden: given === undefined, onclick: () => { set(null); redraw(); } }, t("param.reset"));
  const mark = () => {
    const isSet = params[spec.name] !== undefined;
    line.classList.toggle("unset", !isSet);
    reset.hidden = !isSet;
  };
  field.addEventListener("input", () => {
    const value = field.value === "" ? null : clamp(spec, model, field.valueAsNumber);
    set(value);
    if (slider && value !== null) slider.value = value;
    mark();
  });
  field.addEventListener("change", () => { field.value = params[spec.name] ?? ""; });
  slider?.addEventListener("input", () => {
    field.value = slider.value;
    set(slider.valueAsNumber);
    mark();
  });
  const help = h("p", { class: "help", id: `${id}-help` }, t(`param.${spec.name}.help`));
  return add(line, h("div", { class: "head" }, h("label", { for: id }, t(`param.${spec.name}`)), h("span", { class: "row" }, reset, field)), slider, help);
}

function add(node, ...children) {
  node.append(...children.filter(Boolean));
  return node;
}

function flag(spec, params, model, set) {
  const usual = Boolean(model?.luopan?.default_sampling?.[spec.name]);
  const box = h("input", { type: "checkbox", role: "switch", checked: params[spec.name] ?? usual, id: `param-${spec.name}`, onchange: () => set(box.checked) });
  return h("div", { class: "param" }, h("label", { class: "switch" }, t(`param.${spec.name}`), box), h("p", { class: "help" }, t(`param.${spec.name}.help`)));
}

function bound(spec, model) {
  return typeof spec.max === "function" ? spec.max(model) : spec.max ?? null;
}

function middle(spec, model) {
  return { temperature: 1, top_p: 1, top_k: 0, min_p: 0, repetition_penalty: 1, max_tokens: Math.min(512, bound(spec, model)), thinking_budget: 256 }[spec.name];
}

function clamp(spec, model, value) {
  if (Number.isNaN(value)) return null;
  const whole = spec.step === 1 || spec.integer ? Math.round(value) : value;
  const high = bound(spec, model) ?? Number.MAX_SAFE_INTEGER;
  return Math.min(high, Math.max(spec.min ?? -Number.MAX_SAFE_INTEGER, whole));
}
