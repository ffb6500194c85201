// One stage of a run: what it did, its figures, its curves while they grow, what its model said.

import { h, put } from "../dom.js";
import { duration, number, short, t } from "../i18n.js";
import { request } from "../api.js";
import { Chart } from "./chart.js";
import { groups } from "./groups.js";
import { samplesNode } from "./samples.js";

const POLL = 2000;

export class StageView {
  constructor(run, stage, options, tools) {
    this.path = `api/runs/${encodeURIComponent(run)}/stages/${encodeURIComponent(stage)}`;
    this.options = options;
    this.charts = new Map();
    this.facts = h("div", { class: "stack" });
    this.head = h("div", { class: "stack" });
    this.tools = tools;
    this.live = h("dl", { class: "live" });
    this.main = h("div", { class: "charts" });
    this.others = h("details", { class: "more", hidden: true }, h("summary", {}, t("runs.more_curves")), h("div", { class: "charts small-charts" }));
    this.samples = h("div");
    this.node = h("div", { class: "stage-view stack" }, this.head, this.live, tools, this.main, this.others, this.facts, this.samples);
    tools.hidden = true;
    this.seen = "";
    this.refresh();
    this.poll();
  }

  async refresh() {
    try {
      const [details, samples] = await Promise.all([request(this.path), request(`${this.path}/samples`)]);
      put(this.head, headNode(details));
      put(this.facts, detailsNode(details));
      put(this.samples, samplesNode(samples));
    } catch (error) {
      put(this.facts, h("p", { class: "notice bad" }, error.message));
    }
  }

  async poll() {
    if (this.closed) return;
    let wait = POLL;
    try {
      const data = await request(`${this.path}/metrics?seen=${encodeURIComponent(this.seen)}`);
      if (this.closed) return;
      if (!data.unchanged) this.take(data);
      this.seen = data.version;
      if (this.state && data.state !== this.state) this.refresh();
      this.state = data.state;
      if (data.more) wait = 50;
      else if (data.state !== "running") return;
    } catch (error) {
      wait = 3 * POLL;
    }
    this.timer = setTimeout(() => this.poll(), document.hidden ? 5 * POLL : wait);
  }

  take(data) {
    const { last } = data;
    const shown = [["step", number(last.step)], ["loss", short(last.loss)], ["learning_rate", short(last.learning_rate)], ["tokens_per_second", short(last.tokens_per_second)], ["tokens", short(last.tokens)], ["seconds", duration(last.seconds)]];
    put(this.live, data.rows ? shown.filter(([name]) => last[name] !== undefined).map(([name, value]) => h("div", {}, h("dt", {}, t(`live.${name}`)), h("dd", {}, value))) : null);
    const found = groups(data.series);
    this.tools.hidden = !found.length;
    for (const group of found) {
      const chart = this.charts.get(group.id);
      if (chart) chart.update(group);
      else this.add(group);
    }
    this.others.hidden = !found.some((group) => !group.main);
    if (data.skipped) this.main.dataset.skipped = data.skipped;
  }

  add(group) {
    const chart = new Chart(group, this.options);
    this.charts.set(group.id, chart);
    (group.main ? this.main : this.others.lastElementChild).append(chart.node);
  }

  /** Other options for all charts: {log, smooth}. */
  setOptions(options) {
    this.options = options;
    for (const chart of this.charts.values()) chart.update(chart.group, options);
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    for (const chart of this.charts.values()) chart.close();
  }
}

function headNode(stage) {
  const facts = [stage.parameters && t("model.parameters", { n: short(stage.parameters) }), stage.tokens && t("runs.tokens", { n: short(stage.tokens) }), stage.seconds !== null && duration(stage.seconds), stage.identity && stage.identity.slice(0, 12)].filter(Boolean);
  return h("div", { class: "stack" },
    stage.summary && h("p", { class: "lead" }, stage.summary),
    facts.length > 0 && h("p", { class: "row" }, facts.map((text) => h("span", { class: "chip" }, text)), Object.entries(stage.inputs).map(([role, path]) => h("span", { class: "chip" }, `${role}: ${path.replace(/^\.\.\//, "")}`))),
    stage.notes.filter((note) => note.level !== "info").slice(0, 5).map((note) => h("p", { class: `notice ${note.level === "bad" ? "bad" : note.level === "good" ? "good" : "warn"}` }, note.text)));
}

function detailsNode(stage) {
  const notes = stage.notes.filter((note) => note.level === "info");
  return h("div", { class: "stack" },
    figuresNode(stage.figures),
    notes.length > 0 && h("details", { class: "more" }, h("summary", {}, t("runs.notes", { n: notes.length })), h("ul", { class: "small muted" }, notes.slice(0, 100).map((note) => h("li", { class: "wrap" }, note.text)))),
    Object.keys(stage.spec).length > 0 && h("details", { class: "more" }, h("summary", {}, t("runs.settings")), h("pre", { class: "card pad code-view", tabindex: 0 }, h("code", {}, JSON.stringify(stage.spec, null, 2)))));
}

function figuresNode(figures) {
  const known = figures.filter((one) => one.after !== null && one.after !== undefined);
  if (!known.length) return null;
  const rows = (some) => some.map((one) => h("tr", {}, h("th", { scope: "row", class: "wrap" }, one.name), h("td", { class: "num muted" }, value(one.before, one.unit)), h("td", { class: "num" }, value(one.after, one.unit)), h("td", { class: "num" }, change(one)), h("td", { class: "tiny faint" }, one.unit === "%" ? "" : one.unit)));
  const heads = ["figures.what", "figures.before", "figures.after", "figures.change"];
  const table = (some) => h("div", { class: "card scroll", tabindex: 0, "aria-label": t("figures.title") }, h("table", { class: "plain figures-table" }, h("thead", {}, h("tr", {}, heads.map((key, i) => h("th", { class: i ? "num" : null }, t(key))), h("th"))), h("tbody", {}, rows(some))));
  const headline = known.filter((one) => one.headline);
  if (!headline.length || headline.length === known.length) return table(known);
  return h("div", { class: "stack" }, table(headline), h("details", { class: "more" }, h("summary", {}, t("figures.all", { n: known.length })), table(known)));
}

function value(x, unit) {
  if (x === null || x === undefined || typeof x !== "number") return "–";
  return unit === "%" ? `${number(100 * x, 1)}%` : short(x);
}

/** Better or worse where the change exceeds two standard errors of the difference, as in the report. */
function change({ before, after, unit, higher_is_better: higher, stderr_before: a, stderr_after: b }) {
  if (typeof before !== "number" || typeof after !== "number") return null;
  const difference = after - before;
  const sign = difference > 0 ? "+" : "";
  const text = unit === "%" ? `${sign}${number(100 * difference, 1)}` : `${sign}${short(difference)}`;
  const noise = typeof a === "number" && typeof b === "number" ? 2 * Math.hypot(a, b) : 0;
  if (higher === null || Math.abs(difference) <= noise) return h("span", { class: "chip" }, text);
  return h("span", { class: `chip ${difference > 0 === higher ? "good" : "bad"}` }, text);
}
