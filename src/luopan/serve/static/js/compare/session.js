// One comparison: the order of the models for each prompt, their answers, the votes. Kept in the browser, to go on later.

import { request } from "../api.js";
import { answer, wireMessages } from "../chat/answer.js";
import { message } from "../chat/store.js";
import { requestParameters } from "../chat/params.js";
import { read, write } from "../storage.js";

/** The comparison that was begun before, or null. */
export function kept() {
  const state = read("compare", {});
  return state.suite?.prompts?.length && state.models?.length ? state : null;
}

export function begin({ suite, models, params, blind }) {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const orders = suite.prompts.map(() => (blind ? shuffled(models) : [...models]));
  return { id, suite, models, params, blind, orders, answers: {}, votes: {}, at: 0 };
}

export class Comparison extends EventTarget {
  constructor(state, known) {
    super();
    this.state = state;
    this.known = known;
    this.working = new Map();
    this.controller = new AbortController();
  }

  get prompt() {
    return this.state.suite.prompts[this.state.at];
  }

  /** [{model, turns: [message, …]}] of the prompt shown, in the order in which they are shown. */
  shown(at = this.state.at) {
    return this.state.orders[at].map((model) => ({ model, turns: this.state.answers[at]?.[model] ?? [] }));
  }

  vote(at = this.state.at) {
    return this.state.votes[at] ?? null;
  }

  /** Whether every model has answered every turn, well or badly. */
  complete(at = this.state.at) {
    const turns = this.state.suite.prompts[at].turns.length;
    return this.shown(at).every(({ turns: said }) => said.some((one) => one.error) || (said.length === turns && said.every((one) => !one.pending)));
  }

  failed(at = this.state.at) {
    return this.shown(at).some(({ turns }) => turns.some((one) => one.error));
  }

  get voted() {
    return Object.keys(this.state.votes).length;
  }

  get count() {
    return this.state.suite.prompts.length;
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  keep() {
    const answers = Object.fromEntries(Object.entries(this.state.answers).filter(([at]) => this.complete(Number(at))));
    write("compare", { ...this.state, answers });
  }

  /** Have the prompt answered, and the one after it while the first is being read. */
  async work() {
    const { at } = this.state;
    await this.ask(at);
    if (at + 1 < this.count && this.state.at === at) await this.ask(at + 1);
  }

  /** Have every model answer a prompt that has no answers yet. */
  ask(at) {
    if (this.working.has(at)) return this.working.get(at);
    if (this.complete(at)) return Promise.resolve();
    this.state.answers[at] = {};
    const all = Promise.all(this.state.orders[at].map((model) => this.one(at, model))).then(() => {
      this.working.delete(at);
      if (this.controller.signal.aborted) delete this.state.answers[at];
      else this.keep();
      this.changed();
    });
    this.working.set(at, all);
    return all;
  }

  async one(at, name) {
    const prompt = this.state.suite.prompts[at];
    const model = this.known.find((other) => other.id === name) ?? { id: name };
    const talk = [];
    const said = (this.state.answers[at][name] = []);
    for (const turn of prompt.turns) {
      talk.push(message("user", turn));
      const reply = message("assistant", "", { pending: true });
      said.push(reply);
      const body = { model: name, messages: wireMessages(prompt.system ?? "", talk), ...requestParameters(this.state.params, model) };
      await answer(body, reply, { signal: this.controller.signal, changed: () => this.dispatchEvent(new CustomEvent("stream", { detail: at })) });
      if (reply.error || this.controller.signal.aborted) return;
      talk.push(reply);
    }
  }

  /** Forget the answers to the prompt shown, and ask again. */
  again() {
    delete this.state.answers[this.state.at];
    this.working.delete(this.state.at);
    this.changed();
    this.work();
  }

  /** Write a vote to the server's file. Throws ApiError. */
  async choose(vote, winner = null) {
    const { at, id, suite, params, blind } = this.state;
    const answers = this.shown(at).map(({ model, turns }) => ({ model, texts: turns.map((one) => one.content) }));
    await request("api/compare/votes", { method: "POST", body: { suite: suite.name, session: id, prompt: suite.prompts[at], answers, parameters: params, vote, winner, blind } });
    this.state.votes[at] = { vote, winner };
    this.keep();
    this.changed();
  }

  go(at) {
    this.state.at = Math.max(0, Math.min(this.count - 1, at));
    this.keep();
    this.changed();
    this.work();
  }

  /** The next prompt without a vote after this one; null if there is none. */
  next() {
    for (let step = 1; step <= this.count; step += 1) {
      const at = (this.state.at + step) % this.count;
      if (!this.vote(at)) return at;
    }
    return null;
  }

  stop() {
    this.controller.abort();
    this.controller = new AbortController();
  }
}

function shuffled(items) {
  const left = [...items];
  const out = [];
  while (left.length) {
    // A byte is drawn again where it would favour the first items.
    const fair = 256 - (256 % left.length);
    let byte;
    do [byte] = crypto.getRandomValues(new Uint8Array(1)); while (byte >= fair);
    out.push(...left.splice(byte % left.length, 1));
  }
  return out;
}
