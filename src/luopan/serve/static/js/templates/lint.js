// The lint's findings: the same thing found in several places is said once.

import { h } from "../dom.js";
import { icon } from "../icons.js";
import { t } from "../i18n.js";

const LOOK = { error: ["bad", "warning"], warning: ["warn", "warning"], info: ["", "info"] };

/** `report` is what /api/templates/lint answers. */
export function lintNode(report) {
  const { error, warning } = report.counts;
  const verdict = error ? ["bad", t("lint.errors", { n: error })] : warning ? ["warn", t("lint.warnings", { n: warning })] : ["good", t("lint.clean")];
  const rest = error && warning ? h("span", { class: "chip warn" }, t("lint.warnings", { n: warning })) : null;
  const groups = new Map();
  for (const finding of report.findings) {
    const key = [finding.severity, finding.rule, finding.message].join("\0");
    groups.set(key, [...(groups.get(key) ?? []), finding]);
  }
  const infos = [...groups.values()].filter(([one]) => one.severity === "info");
  const serious = [...groups.values()].filter(([one]) => one.severity !== "info");
  return h("section", { class: "lint", "aria-label": t("lint.title") },
    h("div", { class: "row" }, h("h2", {}, t("lint.title")), h("span", { class: `chip ${verdict[0]}` }, verdict[1]), rest),
    serious.length > 0 && h("ul", {}, serious.map(findingNode)),
    infos.length > 0 && h("details", { class: "more" }, h("summary", {}, t("lint.show_infos", { n: infos.length })), h("ul", {}, infos.map(findingNode))));
}

function findingNode(found) {
  const { severity, rule, message, hint, example } = found[0];
  const [kind, symbol] = LOOK[severity];
  const places = [...new Set(found.map((one) => one.where))].join("; ");
  return h("li", { class: `finding ${kind}` }, icon(symbol), h("div", { class: "grow" },
    h("p", {}, h("code", { class: "rule" }, rule), " ", message),
    h("p", { class: "tiny faint wrap" }, places),
    hint && severity !== "info" && h("p", { class: "small muted" }, hint),
    example && h("pre", { class: "tiny wrap" }, h("code", {}, example))));
}
