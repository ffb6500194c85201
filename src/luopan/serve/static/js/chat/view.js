// The tab Chat.

import { h, download, isTyping, put } from "../dom.js";
import { icon, mark } from "../icons.js";
import { t } from "../i18n.js";
import { dialog, toast } from "../dialogs.js";
import { chatModels } from "../models.js";
import { read, write } from "../storage.js";
import { composer } from "./composer.js";
import { asJson, asMarkdown, fileName } from "./export.js";
import { messageNode } from "./message.js";
import { Session } from "./session.js";
import { settingsPanel } from "./settings.js";
import { sidebar } from "./sidebar.js";
import * as store from "./store.js";

/** Sessions that were opened, so that one that is answering is found again when the view comes back. */
const opened = new Map();
let lastOpen = null;

export function chatView({ path }) {
  const view = new ChatView();
  view.open(path[0] || lastOpen);
  view.fetching = view.fetchModels();
  return view;
}

class ChatView {
  constructor() {
    this.models = [];
    this.folds = new Set();
    this.editing = null;
    this.listeners = null;
    this.side = sidebar({ open: (id) => this.open(id, true), fresh: () => this.fresh(), remove: (id) => this.remove(id) });
    this.settings = settingsPanel(() => store.save(this.session.chat), () => this.toggleSettings(false));
    this.composer = composer({ send: (text) => this.send(text), stop: () => this.session.stop() });
    this.thread = h("div", { class: "thread", role: "log", "aria-label": t("chat.log") });
    this.scroller = h("div", { class: "scroller", tabindex: 0, "aria-label": t("chat.log") }, this.thread);
    this.down = h("button", { class: "icon-button to-end", type: "button", hidden: true, "aria-label": t("chat.to_end"), onclick: () => this.toEnd() }, icon("down"));
    this.scroller.addEventListener("scroll", () => { this.down.hidden = this.atEnd(); });
    this.picker = h("select", { class: "select model-picker", id: "model", "aria-label": t("chat.model"), onchange: () => this.chooseModel(this.picker.value) });
    this.settingsButton = h("button", { class: "icon-button", type: "button", id: "settings-button", "aria-controls": "settings", "aria-label": t("chat.settings"), title: `${t("chat.settings")} (p)`, onclick: () => this.toggleSettings() }, icon("sliders"));
    this.sideButton = h("button", { class: "icon-button side-button", type: "button", "aria-controls": "chats", "aria-label": t("chat.conversations"), title: t("chat.conversations"), onclick: () => this.node.classList.toggle("show-side") }, icon("menu"));
    const exportButton = h("button", { class: "icon-button", type: "button", id: "export", "aria-label": t("chat.export"), title: t("chat.export"), onclick: () => this.export() }, icon("download"));
    const bar = h("div", { class: "chat-bar" }, this.sideButton, this.picker, h("span", { class: "grow" }), exportButton, this.settingsButton);
    const middle = h("section", { class: "middle" }, bar, this.scroller, this.down, this.composer.node);
    this.veil = h("div", { class: "veil", onclick: () => { this.node.classList.remove("show-side"); this.toggleSettings(false); } });
    this.node = h("div", { class: "chat" }, this.side.node, middle, this.settings.node, this.veil);
    const wide = window.matchMedia("(min-width: 75.01rem)").matches;
    this.toggleSettings(wide && read("chat-panel", "open") === "open", false);
  }

  get model() {
    return this.models.find((model) => model.id === this.session.chat.model) ?? null;
  }

  async fetchModels() {
    try {
      this.models = await chatModels({ anew: true });
    } catch (error) {
      this.modelsError = error.message;
    }
    this.fetched = true;
    const { chat } = this.session;
    if (!this.model && this.models.length) chat.model = this.models[0].id;
    this.draw();
  }

  open(id, focus = false) {
    const session = opened.get(id) ?? new Session((id && store.load(id)) || store.create(this.session?.chat));
    this.listeners?.abort();
    this.listeners = new AbortController();
    const { signal } = this.listeners;
    session.addEventListener("change", () => this.draw(), { signal });
    session.addEventListener("stream", (event) => this.stream(event.detail), { signal });
    session.addEventListener("full", () => toast(t("chat.full"), { kind: "bad" }), { signal });
    this.session = session;
    opened.set(session.chat.id, session);
    lastOpen = session.chat.id;
    this.editing = null;
    if (!this.model && this.models.length) session.chat.model = this.models[0].id;
    this.node.classList.remove("show-side");
    this.draw();
    this.toEnd();
    if (focus && window.matchMedia("(pointer: fine)").matches) this.composer.field.focus();
  }

  fresh() {
    this.open(null, true);
  }

  async remove(id) {
    const chat = store.load(id);
    opened.get(id)?.stop();
    store.remove(id);
    opened.delete(id);
    if (id === this.session.chat.id) this.open(null);
    else this.side.draw();
    if (!chat) return;
    toast(t("chat.removed"), { action: [t("action.undo"), () => { store.save(chat); this.open(id); }] });
  }

  send(text) {
    if (!this.fetched) {
      this.fetching.then(() => this.send(text) || (this.composer.field.value ||= text));
      return true;
    }
    if (!this.model) {
      toast(this.modelsError ?? t("chat.no_model"), { kind: "bad" });
      return false;
    }
    this.session.send(text, this.model);
    this.toEnd();
    return true;
  }

  draw() {
    const { chat, busy } = this.session;
    const stay = this.atEnd();
    put(this.thread, chat.messages.length ? chat.messages.map((message, i) => this.one(message, i === chat.messages.length - 1)) : this.welcome());
    put(this.picker, this.models.map(({ id }) => h("option", { value: id, selected: id === chat.model }, id)));
    if (!this.models.length) put(this.picker, h("option", {}, this.modelsError ? t("chat.no_models") : t("chat.loading")));
    this.picker.disabled = !this.models.length;
    this.composer.draw(busy);
    this.side.draw(chat.id);
    if (this.drawnFor !== `${chat.id} ${chat.model} ${this.models.length}`) this.settings.draw(chat, this.model);
    this.drawnFor = `${chat.id} ${chat.model} ${this.models.length}`;
    if (stay) this.toEnd();
  }

  one(message, last) {
    if (message === this.editing) return this.editor(message);
    const act = {
      edit: (m) => { this.editing = m; this.draw(); },
      again: () => this.session.again(this.model),
      variant: (m, step) => this.session.variant(m, step),
      result: (m, call, text) => this.session.result(m, call, text, this.model),
      wants: (m, call) => this.session.wants(m, call),
      fold: (m, open) => (open ? this.folds.add(m.id) : this.folds.delete(m.id)),
    };
    return messageNode(message, { act, last, busy: this.session.busy, folds: this.folds });
  }

  /** Only the growing message is drawn anew, at most once per frame. */
  stream(message) {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      const stay = this.atEnd();
      const node = this.thread.querySelector(`[data-id="${message.id}"]`);
      if (node && message.pending) node.replaceWith(this.one(message, true));
      if (stay) this.toEnd();
    });
  }

  editor(message) {
    const area = h("textarea", { class: "area", rows: Math.min(12, message.content.split("\n").length + 1), value: message.content, "aria-label": t("chat.edit") });
    const cancel = () => { this.editing = null; this.draw(); this.composer.field.focus(); };
    const submit = (event) => {
      event.preventDefault();
      const text = area.value.trim();
      if (!text || !this.model) return;
      this.editing = null;
      const undo = this.session.edit(message, text, this.model);
      toast(t("chat.edited"), { action: [t("action.undo"), undo], seconds: 8 });
    };
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { event.stopPropagation(); cancel(); }
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
    });
    requestAnimationFrame(() => area.focus());
    return h("form", { class: "message user editing", onsubmit: submit }, area,
      h("div", { class: "row" }, h("button", { class: "button small", type: "button", onclick: cancel }, t("action.cancel")), h("button", { class: "button primary small", type: "submit" }, t("chat.send"))));
  }

  welcome() {
    if (this.modelsError) return h("div", { class: "empty" }, mark(), h("h2", {}, t("chat.no_models")), h("p", { class: "notice bad" }, this.modelsError), h("button", { class: "button", type: "button", onclick: () => { this.modelsError = null; this.fetching = this.fetchModels(); } }, t("action.retry")));
    const ideas = ["chat.idea_1", "chat.idea_2", "chat.idea_3", "chat.idea_4"].map((key) => h("button", { class: "idea", type: "button", onclick: () => this.send(t(key)) }, t(key)));
    return h("div", { class: "empty welcome" }, mark(), h("h2", {}, t("chat.welcome")), h("p", {}, t("chat.welcome_text")), h("div", { class: "ideas" }, ideas));
  }

  chooseModel(id) {
    this.session.chat.model = id;
    store.save(this.session.chat);
    this.draw();
  }

  toggleSettings(open = !this.node.classList.contains("show-settings"), keep = true) {
    this.node.classList.toggle("show-settings", open);
    this.settingsButton.setAttribute("aria-expanded", open);
    if (keep) write("chat-panel", open ? "open" : "closed");
  }

  async export() {
    const { chat } = this.session;
    if (!chat.messages.length) return toast(t("chat.nothing_to_export"));
    const choose = (text, hint, make) => (close) => h("button", { class: "choice", type: "button", onclick: () => { make(); close(); } }, h("strong", {}, text), h("span", { class: "muted small" }, hint));
    const choices = [
      choose("JSON", t("chat.export_json"), () => download(fileName(chat, "json"), asJson(chat))),
      choose("Markdown", t("chat.export_markdown"), () => download(fileName(chat, "md"), asMarkdown(chat), "text/markdown")),
    ];
    return dialog(t("chat.export"), (close) => h("div", { class: "body choices" }, choices.map((one) => one(close))));
  }

  atEnd() {
    return this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight < 60;
  }

  toEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  keys(event) {
    if (event.key === "Escape") {
      if (this.session.busy) this.session.stop();
      else if (isTyping(event.target)) this.scroller.focus();
      return;
    }
    if (isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
    const lastOf = (role) => this.session.chat.messages.filter((message) => message.role === role).at(-1);
    const does = {
      "/": () => this.composer.field.focus(),
      n: () => this.fresh(),
      p: () => this.toggleSettings(),
      r: () => this.model && this.session.again(this.model),
      e: () => { if (lastOf("user") && !this.session.busy) { this.editing = lastOf("user"); this.draw(); } },
    }[event.key];
    if (!does) return;
    event.preventDefault();
    does();
  }

  close() {
    this.listeners?.abort();
  }
}
