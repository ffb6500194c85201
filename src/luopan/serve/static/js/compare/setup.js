// Before a comparison: which models, which prompts, with which parameters.

import { h, put, segments } from "../dom.js";
import { icon } from "../icons.js";
import { language, t } from "../i18n.js";
import { parameterPanel } from "../chat/params.js";
import { read, write } from "../storage.js";
import { SHIPPED, loadSuite, parseSuite } from "./suites.js";

const MOST = 8;

/** `act`: {begin({suite, models, params, blind}), resume()}. */
export function setupNode(models, resume, act) {
  const before = read("compare-setup", {});
  const ids = models.map((model) => model.id);
  const chosen = new Set((before.models ?? ids.slice(0, 2)).filter((id) => ids.includes(id)));
  const params = before.params ?? {};
  const source = { kind: "shipped", name: language() === "zh" ? SHIPPED[1] : SHIPPED[0], text: before.text ?? "", title: "" };
  let blind = before.blind ?? true;
  const problem = h("p", { class: "notice bad", role: "alert", hidden: true });
  const panel = h("div");
  const start = h("button", { class: "button primary", type: "submit", id: "compare-begin" }, icon("play"), t("compare.begin"));
  const drawPanel = () => {
    put(panel, parameterPanel(params, common(models.filter((model) => chosen.has(model.id))), () => {}));
    start.disabled = chosen.size < 2;
  };
  const submit = async (event) => {
    event.preventDefault();
    try {
      const suite = source.kind === "shipped" ? await loadSuite(source.name) : parseSuite(source.text, source.title);
      write("compare-setup", { models: [...chosen], params, blind, text: source.text });
      act.begin({ suite, models: ids.filter((id) => chosen.has(id)), params: { ...params }, blind });
    } catch (error) {
      problem.hidden = false;
      put(problem, error.message);
    }
  };
  drawPanel();
  const blindSwitch = h("input", { type: "checkbox", role: "switch", checked: blind, id: "blind", onchange: () => { blind = blindSwitch.checked; } });
  return h("form", { class: "setup", onsubmit: submit },
    resume && resumeNode(resume, act),
    h("div", { class: "setup-grid" },
      h("div", { class: "card pad stack" }, modelChoice(models, chosen, drawPanel), suiteChoice(source),
        h("label", { class: "switch" }, h("span", {}, t("compare.blind"), h("span", { class: "help tiny faint block" }, t("compare.blind_help"))), blindSwitch),
        h("div", { class: "setup-foot stack" }, problem, h("div", { class: "row" }, start, models.length < 2 && h("span", { class: "small muted" }, t("compare.needs_two"))))),
      h("details", { class: "card pad", open: window.innerWidth > 900 }, h("summary", {}, h("h2", {}, t("chat.parameters"))), panel)));
}

function resumeNode(state, act) {
  const words = t("compare.resume_text", { suite: state.suite.name, done: Object.keys(state.votes).length, all: state.suite.prompts.length });
  return h("div", { class: "notice resume" }, icon("again"), h("span", { class: "grow" }, words), h("button", { class: "button small", type: "button", id: "compare-resume", onclick: act.resume }, t("compare.resume")));
}

function modelChoice(models, chosen, changed) {
  const box = (model) => {
    const input = h("input", { type: "checkbox", value: model.id, checked: chosen.has(model.id) });
    input.addEventListener("change", () => {
      if (input.checked && chosen.size >= MOST) input.checked = false;
      if (input.checked) chosen.add(model.id);
      else chosen.delete(model.id);
      changed();
    });
    return h("label", { class: "check model-choice" }, input, h("span", { class: "wrap" }, model.id), model.luopan?.thinking && h("span", { class: "chip accent" }, t("model.thinks")));
  };
  return h("fieldset", { class: "bare" }, h("legend", {}, t("compare.models")), models.map(box));
}

function suiteChoice(source) {
  const slot = h("div");
  const draw = () => {
    if (source.kind === "shipped") {
      const select = h("select", { class: "select", "aria-label": t("compare.suite"), onchange: () => { source.name = select.value; } },
        SHIPPED.map((name) => h("option", { value: name, selected: name === source.name }, t(`suite.${name}`))));
      return put(slot, select);
    }
    const title = h("input", { class: "input", value: source.title, placeholder: t("suite.name"), "aria-label": t("suite.name"), oninput: () => { source.title = title.value; } });
    const text = h("textarea", { class: "area code", rows: 8, value: source.text, "aria-label": t("suite.paste"), placeholder: t("suite.placeholder"), spellcheck: "false", oninput: () => { source.text = text.value; } });
    return put(slot, h("div", { class: "stack" }, title, text, h("p", { class: "tiny faint" }, t("suite.help"))));
  };
  draw();
  const kinds = segments(t("compare.suite"), [["shipped", t("suite.shipped")], ["paste", t("suite.paste")]], source.kind, (kind) => { source.kind = kind; draw(); });
  return h("fieldset", { class: "bare" }, h("legend", {}, t("compare.suite")), kinds, slot);
}

/** What all the chosen models can do, as a model. */
function common(models) {
  if (!models.length || models.some((model) => !model.luopan)) return null;
  const facts = models.map((model) => model.luopan);
  return { luopan: { context: Math.min(...facts.map((one) => one.context ?? 4096)), thinking: facts.every((one) => one.thinking), default_sampling: {} } };
}
