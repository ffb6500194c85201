// The tab Runs: the runs folder, stages with their states, curves, samples, reports.

import { h, put, roving } from "../dom.js";
import { icon } from "../icons.js";
import { ago, duration, t } from "../i18n.js";
import { request } from "../api.js";
import { dialog, toast } from "../dialogs.js";
import { read, write } from "../storage.js";
import { StageView } from "./stage.js";

const POLL = 4000;
const CHIPS = { running: "accent", finished: "good", failed: "bad", stopped: "warn", waiting: "" };

export function runsView({ path }) {
  const view = new RunsView(path);
  view.poll();
  return view;
}

class RunsView {
  constructor([run = "", stage = ""]) {
    this.run = run;
    this.stage = stage;
    this.options = read("charts", { log: false, smooth: true });
    this.list = roving(h("ul", { class: "run-list" }), ".run-link", { vertical: true });
    this.folder = h("p", { class: "tiny faint wrap mono" });
    this.detail = h("div", { class: "inner" });
    this.detailScroll = h("div", { class: "page run-page" }, this.detail);
    this.node = h("div", { class: "runs" }, h("aside", { class: "run-side", "aria-label": t("runs.title") }, h("h1", {}, t("runs.title")), this.list, this.folder), this.detailScroll);
    this.node.classList.toggle("show-run", Boolean(run));
  }

  async poll() {
    clearTimeout(this.timer);
    try {
      const data = await request("api/runs");
      if (this.closed) return;
      this.drawList(data);
      await this.drawRun();
    } catch (error) {
      if (!this.drawn) put(this.detail, h("p", { class: "notice bad", role: "alert" }, error.message));
    }
    if (!this.closed) this.timer = setTimeout(() => this.poll(), document.hidden ? 5 * POLL : POLL);
  }

  drawList({ runs, folder }) {
    const told = JSON.stringify([runs, this.run]);
    put(this.folder, folder);
    this.names = runs.map((run) => run.name);
    if (!runs.length) {
      this.stageView?.close();
      put(this.list);
      put(this.detail, h("div", { class: "empty" }, icon("runs"), h("h2", {}, t("runs.none")), h("p", {}, t("runs.none_text", { folder }))));
      return;
    }
    if (!this.names.includes(this.run)) {
      if (this.run) this.stage = "";
      this.run = this.names[0];
    }
    if (told === this.told) return;
    this.told = told;
    const focused = this.list.contains(document.activeElement);
    put(this.list, runs.map((run) => h("li", {}, h("a", { class: "run-link", href: `#/runs/${encodeURIComponent(run.name)}`, tabindex: run.name === this.run ? 0 : -1, "aria-current": run.name === this.run ? "true" : null },
      h("span", { class: "spread" }, h("strong", { class: "wrap" }, run.name), stateChip(run.state)),
      h("span", { class: "dots", "aria-hidden": "true" }, run.stages.map((stage) => h("i", { class: stage.state, title: stage.name }))),
      h("span", { class: "tiny faint" }, run.modified ? ago(run.modified) : "")))));
    if (focused) this.list.querySelector("[aria-current]")?.focus();
  }

  async drawRun() {
    if (!this.run || !this.names.length) return;
    const data = await request(`api/runs/${encodeURIComponent(this.run)}`);
    if (this.closed || data.name !== this.run) return;
    const told = JSON.stringify([data.stages.map((stage) => [stage.name, stage.state]), data.pages.length, this.run]);
    const stages = data.stages.filter((stage) => stage.state !== "waiting");
    if (!stages.some((stage) => stage.name === this.stage)) this.stage = preferred(stages);
    if (told !== this.runTold) {
      this.runTold = told;
      this.drawn = true;
      this.drawHead(data);
    }
    this.drawStage();
  }

  drawHead(data) {
    this.rail = roving(h("div", { class: "rail", role: "tablist", "aria-label": t("runs.stages") }), "button", { pick: (button) => button.click() });
    for (const stage of data.stages) {
      this.rail.append(h("button", { type: "button", role: "tab", class: `rail-stage ${stage.state}`, id: `stage-${stage.name}`, disabled: stage.state === "waiting", dataset: { stage: stage.name }, "aria-controls": "stage-panel", onclick: () => { this.stage = stage.name; this.drawStage(); } },
        h("span", { class: "row" }, h("i", { class: `state ${stage.state}` }), h("strong", {}, stage.name)),
        h("span", { class: "tiny faint" }, [stage.kind !== stage.name && stage.kind, stage.seconds !== null ? duration(stage.seconds) : t(`state.${stage.state}`)].filter(Boolean).join(" · "))));
    }
    const toggle = (name) => h("button", { class: `button small ${this.options[name] ? "on" : ""}`, type: "button", "aria-pressed": Boolean(this.options[name]), dataset: { option: name }, onclick: () => this.setOption(name) }, t(`runs.${name}`));
    const back = h("a", { class: "button small quiet back", href: "#/runs", onclick: () => this.node.classList.remove("show-run") }, icon("left"), t("runs.all"));
    this.panel = h("div", { id: "stage-panel", role: "tabpanel", "aria-live": "off" });
    this.stageView?.close();
    this.stageView = null;
    put(this.detail, back,
      h("div", { class: "spread" }, h("h1", { class: "wrap" }, data.name), h("div", { class: "row" }, shownPages(data.pages).map((page) => this.pageButton(data, page)), data.recipe && h("button", { class: "button small", type: "button", onclick: () => showRecipe(data) }, icon("file"), t("runs.recipe")))),
      data.description && h("p", { class: "lead" }, data.description), this.rail,
      this.panel);
    this.tools = h("div", { class: "row chart-tools" }, toggle("log"), toggle("smooth"));
  }

  drawStage() {
    for (const button of this.rail?.children ?? []) {
      const on = button.dataset.stage === this.stage;
      button.setAttribute("aria-selected", on);
      button.tabIndex = on ? 0 : -1;
    }
    const key = `${this.run}/${this.stage}`;
    if (!this.rail || (this.stageView && this.stageKey === key)) return;
    this.stageView?.close();
    this.stageKey = key;
    this.stageView = this.stage ? new StageView(this.run, this.stage, this.options, this.tools) : null;
    put(this.panel, this.stageView?.node ?? h("p", { class: "muted" }, t("runs.nothing_yet")));
    this.rail.querySelector('[aria-selected="true"]')?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  pageButton(data, page) {
    const words = page.path === "report.html" ? t("runs.report") : page.path;
    return h("button", { class: `button small ${page.path === "report.html" ? "primary" : ""}`, type: "button", dataset: { page: page.path }, onclick: () => openPage(data.name, page.path, words) }, icon("file"), words);
  }

  setOption(name) {
    this.options = { ...this.options, [name]: !this.options[name] };
    write("charts", this.options);
    const button = this.detail.querySelector(`[data-option="${name}"]`);
    button.classList.toggle("on", this.options[name]);
    button.setAttribute("aria-pressed", this.options[name]);
    this.stageView?.setOptions(this.options);
  }

  /** The address changed within the tab. */
  go([run = "", stage = ""]) {
    this.node.classList.toggle("show-run", Boolean(run));
    this.rail?.querySelector('[aria-selected="true"]')?.scrollIntoView({ block: "nearest", inline: "nearest" });
    if (run && run !== this.run) {
      this.run = run;
      this.stage = stage;
      this.runTold = null;
      this.detailScroll.scrollTop = 0;
      this.poll();
    }
  }

  keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.names?.length) return;
    const step = { j: 1, k: -1 }[event.key];
    if (step) location.hash = `#/runs/${encodeURIComponent(this.names[(this.names.indexOf(this.run) + step + this.names.length) % this.names.length])}`;
    else if (event.key === "l" && this.rail) this.setOption("log");
    else return;
    event.preventDefault();
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.stageView?.close();
  }
}

function preferred(stages) {
  const running = stages.find((stage) => stage.state === "running");
  const trained = stages.filter((stage) => ["pretrain", "midtrain", "sft", "preference", "grpo", "ppo", "reward"].includes(stage.kind));
  return (running ?? trained.at(-1) ?? stages.at(-1))?.name ?? "";
}

/** The report of the run is a copy of the report stage's: shown once. */
function shownPages(pages) {
  return pages.some((page) => page.path === "report.html") ? pages.filter((page) => !page.path.endsWith("/report.html")) : pages;
}

function stateChip(state) {
  return h("span", { class: `chip ${CHIPS[state]}` }, state === "running" && h("span", { class: "spinner" }), t(`state.${state}`));
}

/** A page of the run, in a frame that can run no script, or in a tab of its own. */
async function openPage(run, path, title) {
  try {
    const parts = path.split("/").map(encodeURIComponent).join("/");
    const { url } = await request(`api/runs/${encodeURIComponent(run)}/pages/${parts}`, { method: "POST" });
    await dialog(title, () => h("div", { class: "frame-box" }, h("a", { class: "button small", href: url, target: "_blank", rel: "noopener" }, icon("expand"), t("runs.new_tab")), h("iframe", { src: url, sandbox: "", title })), { kind: "full" });
  } catch (error) {
    toast(error.message, { kind: "bad" });
  }
}

function showRecipe(data) {
  dialog(t("runs.recipe"), () => h("div", { class: "body" }, h("pre", { class: "code-view", tabindex: 0 }, h("code", {}, data.recipe))), { kind: "wide" });
}
