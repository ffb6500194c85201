// The tab Compare: choose models and prompts, vote without knowing who is who, see how the votes add up.

import { h, put } from "../dom.js";
import { t } from "../i18n.js";
import { toast } from "../dialogs.js";
import { chatModels } from "../models.js";
import { request } from "../api.js";
import { read, write } from "../storage.js";
import { arenaNode } from "./arena.js";
import { Comparison, begin, kept } from "./session.js";
import { setupNode } from "./setup.js";
import { tallyNode } from "./tally.js";

let live = null; // goes on when another tab is looked at

export function compareView() {
  const view = new CompareView();
  view.start();
  return view;
}

class CompareView {
  constructor() {
    this.stageNode = h("div");
    this.tallySlot = h("div");
    this.suite = read("tally-suite", "");
    this.node = h("div", { class: "page compare" }, h("div", { class: "inner stack" },
      h("div", { class: "intro" }, h("h1", {}, t("compare.title")), h("p", { class: "lead" }, t("compare.lead"))), this.stageNode, this.tallySlot));
  }

  async start() {
    this.drawTally();
    try {
      this.models = await chatModels({ anew: true });
    } catch (error) {
      put(this.stageNode, h("p", { class: "notice bad", role: "alert" }, error.message));
      return;
    }
    if (live) this.show(live);
    else this.setup();
  }

  setup() {
    live = null;
    this.unlisten();
    const resume = kept();
    put(this.stageNode, setupNode(this.models, resume, {
      begin: (settings) => this.show(new Comparison(begin(settings), this.models)),
      resume: () => this.show(new Comparison(resume, this.models)),
    }));
    this.node.classList.remove("in-arena");
  }

  unlisten() {
    this.listening?.abort();
    this.listening = new AbortController();
  }

  show(comparison) {
    live = comparison;
    this.unlisten();
    const { signal } = this.listening;
    comparison.addEventListener("change", () => this.draw(), { signal });
    comparison.addEventListener("stream", (event) => this.stream(event.detail), { signal });
    this.node.classList.add("in-arena");
    if (comparison.vote() && comparison.next() !== null) comparison.state.at = comparison.next();
    comparison.keep();
    this.draw();
    comparison.work();
    this.node.scrollTop = 0;
  }

  draw() {
    const focused = document.activeElement?.dataset?.focus;
    put(this.stageNode, arenaNode(live, {
      vote: (vote, winner) => this.vote(vote, winner), next: () => this.next(), go: (at) => live.go(at), again: () => live.again(),
      leave: () => { live.stop(); this.setup(); },
    }));
    const wanted = live.vote() ? "next" : focused;
    if (focused && wanted) this.stageNode.querySelector(`[data-focus="${wanted}"]`)?.focus();
  }

  stream(at) {
    if (at !== live.state.at || this.frame) return;
    this.frame = requestAnimationFrame(() => { this.frame = null; if (live) this.draw(); });
  }

  async vote(vote, winner) {
    if (!live.complete() || live.failed() || live.vote() || this.sending) return;
    this.sending = true;
    try {
      await live.choose(vote, winner);
      this.suite = live.state.suite.name;
      await this.drawTally();
      this.stageNode.querySelector('[data-focus="next"]')?.focus();
    } catch (error) {
      toast(error.message, { kind: "bad", seconds: 8 });
    } finally {
      this.sending = false;
    }
  }

  next() {
    const at = live.next();
    if (at === null) toast(t("compare.done"));
    else live.go(at);
  }

  async drawTally(suite = this.suite) {
    this.suite = suite;
    write("tally-suite", suite);
    try {
      let data = await request(`api/compare/votes?suite=${encodeURIComponent(suite)}`);
      if (suite && !data.suites.includes(suite)) {
        this.suite = "";
        data = await request("api/compare/votes");
      }
      put(this.tallySlot, tallyNode(data, this.suite, (other) => this.drawTally(other)));
    } catch (error) {
      put(this.tallySlot, h("p", { class: "notice bad" }, error.message));
    }
  }

  keys(event) {
    if (!live || event.ctrlKey || event.metaKey || event.altKey) return;
    const shown = live.shown();
    const number = /^[1-8]$/.test(event.key) ? Number(event.key) - 1 : -1;
    if (shown[number]) this.vote("win", shown[number].model);
    else if (event.key === "t") this.vote("tie");
    else if (event.key === "b") this.vote("bad");
    else if (event.key === "s") this.next();
    else return;
    event.preventDefault();
  }

  close() {
    this.listening?.abort();
  }
}
