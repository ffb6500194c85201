// One prompt with the answers side by side, and the vote.

import { h, width } from "../dom.js";
import { icon } from "../icons.js";
import { t } from "../i18n.js";
import { figures } from "../chat/message.js";
import { markdown } from "../markdown.js";

const LETTERS = "ABCDEFGH";

/** `act`: {vote(vote, winner), next(), go(at), again(), leave()}. */
export function arenaNode(comparison, act) {
  const { state } = comparison;
  const vote = comparison.vote();
  const complete = comparison.complete();
  const known = !state.blind || Boolean(vote);
  return h("div", { class: "arena stack" }, progress(comparison, act), promptNode(comparison.prompt, comparison.shown(), known || complete, { known, complete, vote, streaming: !state.blind }),
    complete && !vote && ballot(comparison, act), vote && verdict(comparison, vote, act));
}

function progress(comparison, act) {
  const { state, count, voted } = comparison;
  const meter = h("div", { class: "meter", role: "progressbar", "aria-valuenow": voted, "aria-valuemin": 0, "aria-valuemax": count, "aria-label": t("compare.progress") }, width(h("i"), voted / count));
  const step = (by, name, label) => h("button", { class: "icon-button small", type: "button", "aria-label": label, title: label, disabled: state.at + by < 0 || state.at + by >= count, onclick: () => act.go(state.at + by) }, icon(name));
  return h("div", { class: "stack" },
    h("div", { class: "spread" },
      h("div", { class: "row" }, step(-1, "left", t("compare.before")), h("strong", {}, `${state.at + 1} / ${count}`), step(1, "right", t("compare.after")), h("span", { class: "chip" }, state.suite.name), h("span", { class: "small muted" }, t("compare.voted", { n: voted }))),
      h("button", { class: "button small", type: "button", id: "compare-leave", onclick: act.leave }, t("compare.leave"))), meter);
}

function promptNode(prompt, shown, visible, how) {
  const parts = [h("h2", {}, prompt.title)];
  if (prompt.system) parts.push(h("p", { class: "system small" }, h("span", { class: "chip" }, t("role.system")), " ", prompt.system));
  const rows = prompt.turns.map((turn, i) => h("div", { class: "turn" },
    h("p", { class: "asked" }, turn),
    h("div", { class: "columns", dataset: { count: shown.length } }, shown.map((one, j) => column(one, i, j, prompt.turns.length, visible, how)))));
  return h("section", { class: "prompt-card" }, parts, rows);
}

function column({ model, turns }, turn, at, count, visible, { known, complete, vote, streaming }) {
  const said = turns[turn];
  const last = turn === count - 1;
  const won = vote?.winner === model;
  const name = known ? model : t("compare.answer", { letter: LETTERS[at] });
  const node = h("article", { class: `answer card ${won ? "won" : ""}`, "aria-label": name },
    h("header", {}, h("span", { class: "letter" }, LETTERS[at]), h("strong", { class: "wrap" }, known ? model : t("compare.hidden")), won && h("span", { class: "chip good" }, icon("check"), t("compare.winner"))));
  const show = visible && (complete || streaming);
  if (!show && !(said?.error && complete)) {
    node.append(h("div", { class: "skeleton", role: "status", "aria-label": t("chat.waiting") }, h("i"), h("i"), h("i")));
    return node;
  }
  if (said?.thinking) node.append(h("details", { class: "thinking" }, h("summary", {}, icon("thought"), t("chat.thought")), h("div", { class: "thoughts" }, said.thinking.trim())));
  if (said?.content) node.append(markdown(said.content));
  if (said?.error) node.append(h("p", { class: "notice bad" }, icon("warning"), h("span", {}, said.error)));
  if (said && !said.pending && !said.content && !said.error) node.append(h("p", { class: "faint small" }, t("chat.nothing")));
  if (said?.finish === "length") node.append(h("p", { class: "tiny faint" }, t("chat.cut")));
  if (known && last && said && !said.pending) node.append(h("p", { class: "tiny faint" }, figures(said)));
  return node;
}

function ballot(comparison, act) {
  if (comparison.failed()) {
    return h("div", { class: "ballot" }, h("p", { class: "small muted" }, t("compare.failed")), h("div", { class: "row" },
      h("button", { class: "button primary", type: "button", onclick: act.again }, icon("again"), t("action.retry")), h("button", { class: "button", type: "button", onclick: act.next }, t("compare.skip"))));
  }
  const shown = comparison.shown();
  const button = (key, words, onclick, cls = "") => h("button", { class: `button ${cls}`, type: "button", dataset: { focus: `vote-${key}` }, onclick }, words, h("kbd", {}, key));
  return h("div", { class: "ballot", role: "group", "aria-label": t("compare.which") }, h("p", { class: "small muted" }, t("compare.which")), h("div", { class: "row" },
    shown.map(({ model }, i) => button(String(i + 1), t("compare.better", { letter: LETTERS[i] }), () => act.vote("win", model), "primary")),
    button("t", t("compare.tie"), () => act.vote("tie")), button("b", t(shown.length > 2 ? "compare.all_bad" : "compare.both_bad"), () => act.vote("bad")),
    button("s", t("compare.skip"), act.next, "quiet")));
}

function verdict(comparison, vote, act) {
  const words = { win: t("compare.won", { model: vote.winner ?? "" }), tie: t("compare.tied"), bad: t("compare.were_bad") }[vote.vote];
  const left = comparison.next() !== null;
  return h("div", { class: "ballot" }, h("p", { role: "status" }, words), left
    ? h("button", { class: "button primary", type: "button", dataset: { focus: "next" }, onclick: act.next }, t("compare.next"), icon("right"))
    : h("p", { class: "notice good" }, icon("check"), t("compare.done")));
}
