// The tab Templates: what a chat template makes of a conversation, what of it is trained, what is wrong with it.

import { h, put, segments } from "../dom.js";
import { icon } from "../icons.js";
import { t } from "../i18n.js";
import { request } from "../api.js";
import { read, write } from "../storage.js";
import { editors } from "./editors.js";
import { EXAMPLES } from "./examples.js";
import { lintNode } from "./lint.js";
import { tokensNode } from "./tokens.js";

const PASTED = "pasted";

export function templatesView() {
  const view = new TemplatesView();
  view.start();
  return view;
}

function textsOf(example) {
  const { messages, tools, kwargs } = EXAMPLES[example];
  const json = (value) => JSON.stringify(value, null, 2);
  return { messages: json(messages), tools: json(tools), kwargs: json(kwargs) };
}

class TemplatesView {
  constructor() {
    const fresh = { template: "shipped:luopan", tokenizer: "", source: "", view: "training", trainOn: "assistant", ...textsOf("plain") };
    this.state = { ...fresh, ...read("templates", {}) };
    this.editors = editors(this.state, (field) => this.edited(field));
    this.result = h("div", { class: "result-slot", "aria-live": "polite" });
    this.lint = h("div", { class: "lint-slot" });
    this.about = h("p", { class: "small muted" });
    this.pickers = h("div", { class: "pickers" });
    const left = h("section", { class: "left", "aria-label": t("templates.edit") }, this.pickers, this.about, this.exampleRow(), this.editors.node);
    const right = h("section", { class: "right", "aria-label": t("templates.result") }, this.modeRow(), this.result, this.lint);
    this.node = h("div", { class: "templates" }, left, right);
    this.rounds = { render: 0, lint: 0 };
  }

  async start() {
    try {
      this.known = await request("api/templates");
      request("api/templates/warm", { method: "POST" }).catch(() => null);
    } catch (error) {
      put(this.result, h("p", { class: "notice bad", role: "alert" }, error.message));
      return;
    }
    const { template, tokenizer } = this.state;
    if (tokenizer && !this.known.models.some((model) => model.name === tokenizer)) this.state.tokenizer = "";
    if (!this.options().some(([value]) => value === template)) this.state.template = "shipped:luopan";
    this.drawPickers();
    await this.loadSource();
  }

  /** [[value, words]] of the templates to choose from. */
  options() {
    const shipped = this.known.templates.map((one) => [`shipped:${one.name}`, one.name]);
    const ofModels = this.known.models.filter((one) => one.has_template).map((one) => [`model:${one.name}`, t("templates.of_model", { name: one.name })]);
    return [...shipped, ...ofModels, [PASTED, t("templates.pasted")]];
  }

  drawPickers() {
    const template = h("select", { class: "select", id: "template", onchange: () => { this.state.template = template.value; this.loadSource(true); } },
      this.options().map(([value, words]) => h("option", { value, selected: value === this.state.template }, words)));
    const tokenizer = h("select", { class: "select", id: "tokenizer", onchange: () => { this.state.tokenizer = tokenizer.value; this.work(0); } },
      h("option", { value: "" }, t("templates.stand_in")), this.known.models.map(({ name }) => h("option", { value: name, selected: name === this.state.tokenizer }, name)));
    put(this.pickers, h("label", { class: "field" }, h("span", { class: "label" }, t("templates.template")), template), h("label", { class: "field" }, h("span", { class: "label" }, t("templates.tokenizer")), tokenizer));
    const info = this.known.templates.find((one) => this.state.template === `shipped:${one.name}`);
    put(this.about, info && [info.description, info.limits && ` (${info.limits})`]);
  }

  exampleRow() {
    const button = (name) => h("button", { class: "button small quiet", type: "button", onclick: () => { Object.assign(this.state, textsOf(name)); this.editors.draw(); this.editors.select("messages"); this.work(0, false); } }, t(`example.${name}`));
    return h("div", { class: "row examples" }, h("span", { class: "tiny faint" }, t("example.label")), Object.keys(EXAMPLES).map(button));
  }

  modeRow() {
    const trainOn = h("select", { class: "select", id: "train-on", "aria-label": t("templates.train_on"), onchange: () => { this.state.trainOn = trainOn.value; this.work(0, false); } },
      ["assistant", "last_turn", "all"].map((value) => h("option", { value, selected: value === this.state.trainOn }, t(`train_on.${value}`))));
    trainOn.hidden = this.state.view !== "training";
    const view = segments(t("templates.view"), [["training", t("templates.as_training")], ["prompt", t("templates.as_prompt")]], this.state.view, (value) => {
      this.state.view = value;
      trainOn.hidden = value !== "training";
      this.work(0, false);
    });
    const run = h("button", { class: "button small", type: "button", id: "render", title: "Ctrl+Enter", onclick: () => this.work(0) }, icon("play"), t("templates.render"));
    return h("div", { class: "spread mode" }, h("div", { class: "row" }, view, trainOn), run);
  }

  async loadSource(chosen = false) {
    const { template } = this.state;
    if (template === PASTED) {
      if (chosen) {
        this.editors.select("source");
        document.getElementById("edit-source")?.focus();
      }
    } else {
      const [kind, ...rest] = template.split(":");
      const name = rest.join(":");
      if (chosen && kind === "model") this.state.tokenizer = name;
      try {
        ({ source: this.state.source } = await request(`api/templates/source?${kind}=${encodeURIComponent(name)}`));
      } catch (error) {
        put(this.result, h("p", { class: "notice bad", role: "alert" }, error.message));
        return;
      }
    }
    this.drawPickers();
    this.editors.draw();
    this.work(0);
  }

  edited(field) {
    if (field === "source" && this.state.template !== PASTED) {
      this.state.template = PASTED;
      this.drawPickers();
    }
    this.work(450, field === "source");
  }

  /** Render, and lint where the template or the tokenizer changed, once nothing was typed for a while. */
  work(wait, lintToo = true) {
    write("templates", this.state);
    clearTimeout(this.timer);
    this.lintToo ||= lintToo;
    this.timer = setTimeout(() => {
      const also = this.lintToo;
      this.lintToo = false;
      this.render().then((fit) => also && fit && this.runLint());
    }, wait);
  }

  /** True where there is something to look at: a template that runs too far is not run a second time by the lint. */
  async render() {
    const values = this.editors.values();
    if (!values) {
      put(this.result, h("p", { class: "notice warn" }, t("templates.mend_json")));
      return true;
    }
    const round = (this.rounds.render += 1);
    this.node.classList.add("working");
    const body = { ...this.subject(), messages: values.messages, tools: values.tools.length ? values.tools : null, chat_template_kwargs: values.kwargs, prompt: this.state.view === "prompt", train_on: this.state.trainOn };
    let node;
    let fit = true;
    try {
      const result = await request("api/templates/render", { method: "POST", body });
      node = h("div", { class: "stack" }, notes(result), tokensNode(result));
    } catch (error) {
      fit = error.details?.code !== "template_limit";
      node = h("p", { class: "notice bad", role: "alert" }, icon("warning"), h("span", {}, error.message));
    }
    if (round !== this.rounds.render) return false;
    this.node.classList.remove("working");
    put(this.result, node);
    if (!fit) put(this.lint);
    return fit;
  }

  subject() {
    return { source: this.state.source || null, tokenizer: this.state.tokenizer || null };
  }

  async runLint() {
    const round = (this.rounds.lint += 1);
    let node;
    try {
      node = lintNode(await request("api/templates/lint", { method: "POST", body: this.subject() }));
    } catch (error) {
      node = h("p", { class: "notice bad" }, icon("warning"), h("span", {}, error.message));
    }
    if (round === this.rounds.lint) put(this.lint, node);
  }

  keys(event) {
    if (!(event.ctrlKey || event.metaKey)) return;
    if (event.key === "Enter") this.work(0);
    else if (event.key === "l") this.runLint();
    else return;
    event.preventDefault();
  }

  close() {
    clearTimeout(this.timer);
    this.rounds.render = this.rounds.lint = -1;
  }
}

function notes(result) {
  const found = result.notes.map((note) => h("p", { class: note === "stand_in" ? "tiny faint" : "notice warn" }, note === "stand_in" ? t("templates.stand_in_note") : note));
  if (result.refused) found.unshift(h("p", { class: "notice warn" }, icon("warning"), h("span", {}, t("templates.refused", { why: result.refused }))));
  return found;
}
