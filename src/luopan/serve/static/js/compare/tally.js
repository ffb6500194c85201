// The table of votes: win rates with their intervals, and who beat whom.

import { h, width } from "../dom.js";
import { icon } from "../icons.js";
import { number, t } from "../i18n.js";

/** `data` is what /api/compare/votes answers; `choose(suite)` looks at another suite. */
export function tallyNode(data, suite, choose) {
  const suites = h("select", { class: "select", id: "tally-suite", "aria-label": t("tally.suite"), onchange: () => choose(suites.value) },
    h("option", { value: "" }, t("tally.all")), data.suites.map((name) => h("option", { value: name, selected: name === suite }, name)));
  const head = h("div", { class: "spread" }, h("h2", {}, t("tally.title")), h("div", { class: "row" }, h("span", { class: "small muted" }, t("tally.count", { n: number(data.count) })), suites));
  if (!data.count) return h("section", { class: "card pad tally" }, head, h("p", { class: "muted" }, t("tally.none")));
  return h("section", { class: "card pad tally" }, head, h("div", { class: "scroll", tabindex: 0, "aria-label": t("tally.title") }, scores(data.models)), pairs(data), note(data));
}

function scores(models) {
  const heads = ["tally.model", "tally.score", "", "tally.wins", "tally.ties", "tally.losses", "tally.bad"];
  return h("table", { class: "plain scores" },
    h("thead", {}, h("tr", {}, heads.map((key, i) => h("th", { class: i > 2 ? "num" : null }, key ? t(key) : h("span", { class: "sr" }, t("tally.interval")))))),
    h("tbody", {}, models.map((one) => h("tr", {},
      h("th", { scope: "row", class: "wrap" }, one.model),
      h("td", { class: "score" }, one.score === null ? "–" : percent(one.score)),
      h("td", { class: "bar-cell" }, one.score === null ? null : bar(one)),
      [one.wins, one.ties, one.losses, one.bad].map((n) => h("td", { class: "num" }, number(n)))))));
}

function bar({ score, low, high }) {
  const range = width(h("i", { class: "range" }), high - low);
  range.style.left = `${100 * low}%`;
  const dot = h("i", { class: "dot" });
  dot.style.left = `${100 * score}%`;
  return h("div", { class: "interval" }, h("div", { class: "track" }, h("i", { class: "half" }), range, dot), h("span", { class: "tiny faint" }, `${percent(low)} – ${percent(high)}`));
}

function pairs(data) {
  if (data.models.length < 3) return null;
  const names = data.models.map((one) => one.model);
  const of = (a, b) => data.pairs.find((pair) => pair.a === a && pair.b === b);
  const cell = (a, b) => {
    const pair = a === b ? null : of(a, b);
    return h("td", { class: "num" }, pair ? `${pair.wins} : ${pair.losses}${pair.ties ? ` (${pair.ties})` : ""}` : "");
  };
  return h("div", {}, h("h3", {}, t("tally.pairs")), h("div", { class: "scroll", tabindex: 0, "aria-label": t("tally.pairs") }, h("table", { class: "plain" },
    h("thead", {}, h("tr", {}, h("th", {}), names.map((name) => h("th", { class: "num wrap" }, name)))),
    h("tbody", {}, names.map((a) => h("tr", {}, h("th", { scope: "row", class: "wrap" }, a), names.map((b) => cell(a, b))))))));
}

function note(data) {
  return h("p", { class: "tiny faint wrap" }, icon("info"), " ", t("tally.note", { file: data.file }));
}

const percent = (share) => `${number(100 * share, 0)}%`;
