// What the models of a run said: the same dialogues side by side, or the text of samples.md.

import { h } from "../dom.js";
import { icon } from "../icons.js";
import { t } from "../i18n.js";
import { markdown } from "../markdown.js";

const AT_FIRST = 6;

/** `data` is what /api/runs/…/samples answers; null where there is nothing to show. */
export function samplesNode(data) {
  if (!data.samples.length && !data.text) return null;
  const cards = data.samples.map(sample);
  const more = cards.length > AT_FIRST && h("details", { class: "more" }, h("summary", {}, t("samples.more", { n: cards.length - AT_FIRST })), cards.slice(AT_FIRST));
  const text = !cards.length && data.text && h("div", { class: "card pad sample-text" }, markdown(data.text));
  return h("section", { class: "samples stack" }, h("h2", {}, t("samples.title")), cards.slice(0, AT_FIRST), more, text, data.cut && h("p", { class: "tiny faint" }, t("samples.cut")));
}

function sample(one) {
  const answers = Object.entries(one.answers ?? {});
  const chips = [one.group, one.thinking === true && t("samples.asked_to_think"), one.expected && t("samples.expected", { what: one.expected })].filter(Boolean);
  return h("article", { class: "card sample" },
    h("div", { class: "asked-block" }, (one.messages ?? []).map((message) => h("p", {}, h("span", { class: "role tiny faint" }, message.role), h("span", { class: "pre" }, message.content)))),
    chips.length > 0 && h("p", { class: "row" }, chips.map((text) => h("span", { class: "chip" }, text))),
    h("div", { class: "sample-answers" }, answers.map(([model, answer]) => answerNode(model, answer))));
}

function answerNode(model, answer) {
  const verdict = answer.correct === true ? h("span", { class: "chip good" }, icon("check"), t("samples.right")) : answer.correct === false ? h("span", { class: "chip bad" }, icon("close"), t("samples.wrong")) : null;
  return h("div", { class: "sample-answer" },
    h("p", { class: "row small" }, h("strong", {}, model), verdict, answer.finish_reason === "length" && h("span", { class: "chip warn" }, t("samples.did_not_stop"))),
    answer.thinking && h("p", { class: "pre small faint thought" }, answer.thinking),
    h("p", { class: "pre small" }, answer.text || "–"));
}
