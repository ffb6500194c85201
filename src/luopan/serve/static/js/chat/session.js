// What happens in a conversation: sending, stopping, answering again, editing. Knows no elements; views listen.

import { requestParameters } from "./params.js";
import { answer, wireMessages } from "./answer.js";
import * as store from "./store.js";

/** The conversations that are answering now: {id: {chat, controller}}. They go on when the view shows something else. */
const running = new Map();

export class Session extends EventTarget {
  constructor(chat) {
    super();
    this.chat = chat;
  }

  get busy() {
    return running.has(this.chat.id);
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  kept() {
    if (!store.save(this.chat)) this.dispatchEvent(new Event("full"));
    this.changed();
  }

  /** Say something, and have it answered. */
  send(text, model) {
    if (this.busy) return;
    this.chat.messages.push(store.message("user", text));
    this.respond(model);
  }

  /** Answer what stands there; `earlier` are other answers to the same, to be leafed through. */
  async respond(model, earlier = []) {
    const { chat } = this;
    const said = store.message("assistant", "", { model: model.id, pending: true });
    const tools = parseTools(chat.tools, model);
    const body = { model: model.id, messages: wireMessages(chat.system, chat.messages), ...requestParameters(chat.params, model) };
    if (tools) body.tools = tools;
    const controller = new AbortController();
    running.set(chat.id, controller);
    chat.messages.push(said);
    this.kept();
    await answer(body, said, { signal: controller.signal, changed: () => this.dispatchEvent(new CustomEvent("stream", { detail: said })) });
    running.delete(chat.id);
    if (earlier.length) {
      said.variants = [...earlier, bare(said)];
      said.chosen = earlier.length;
    }
    this.kept();
  }

  stop() {
    running.get(this.chat.id)?.abort();
  }

  /** Another answer in place of the newest. */
  again(model) {
    const { messages } = this.chat;
    if (this.busy || !messages.length) return;
    const last = messages.at(-1);
    if (last.role !== "assistant") return void this.respond(model);
    messages.pop();
    const earlier = last.variants ?? (last.content || last.thinking || last.tool_calls ? [bare(last)] : []);
    this.respond(model, earlier);
  }

  /** Show another of the answers. */
  variant(message, step) {
    const to = (message.chosen + step + message.variants.length) % message.variants.length;
    const { variants } = message;
    for (const name of ["content", "thinking", "tool_calls", "stats", "finish", "error", "model", "thought_seconds"]) delete message[name];
    Object.assign(message, { ...structuredClone(variants[to]), variants, chosen: to });
    this.kept();
  }

  /** Say something else at an earlier place; what followed goes. Returns how to take it back. */
  edit(message, text, model) {
    const at = this.chat.messages.indexOf(message);
    const before = this.chat.messages;
    this.chat.messages = before.slice(0, at);
    this.send(text, model);
    return () => {
      this.stop();
      this.chat.messages = before;
      this.kept();
    };
  }

  /** The result of a tool call; when all calls have theirs, the model goes on. */
  result(message, call, text, model) {
    const at = this.chat.messages.indexOf(message);
    const given = this.chat.messages.slice(at + 1).filter((other) => other.role === "tool").length;
    this.chat.messages.splice(at + 1 + given, 0, store.message("tool", text, { tool_call_id: call.id, name: call.function.name }));
    if (given + 1 >= message.tool_calls.length) this.respond(model);
    else this.kept();
  }

  /** Whether a call has no result yet and could be given one. */
  wants(message, call) {
    const rest = this.chat.messages.slice(this.chat.messages.indexOf(message) + 1);
    return !this.busy && rest.every((other) => other.role === "tool") && !rest.some((other) => other.tool_call_id === call.id);
  }
}

function bare(message) {
  const { id, role, variants, chosen, pending, ...rest } = message;
  return structuredClone(rest);
}

function parseTools(text, model) {
  if (!text?.trim() || !model.luopan?.tools) return null;
  try {
    const tools = JSON.parse(text);
    return Array.isArray(tools) && tools.length ? tools : null;
  } catch {
    return null; // the panel says what is wrong with it
  }
}
