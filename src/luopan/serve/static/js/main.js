// The frame around the four tabs: header, routes, theme, language, shortcuts.

import { h, isTyping, put, roving } from "./dom.js";
import { icon, mark } from "./icons.js";
import { LANGUAGES, chooseLanguage, language, loadLanguage, t } from "./i18n.js";
import { askForKey, dialog, toast } from "./dialogs.js";
import { hasKey, request, setKey } from "./api.js";
import { read, write, forget } from "./storage.js";
import { chatView } from "./chat/view.js";
import { compareView } from "./compare/view.js";
import { templatesView } from "./templates/view.js";
import { runsView } from "./runs/view.js";
import { SHORTCUTS } from "./shortcuts.js";

const VIEWS = { chat: chatView, compare: compareView, templates: templatesView, runs: runsView };
const THEMES = ["system", "light", "dark"];

/** The page: one view at a time, each made by a function that gets {path} and returns {node, keys, close}. */
class Page {
  constructor(root) {
    this.root = root;
    this.view = null;
    this.tab = "chat";
    this.version = "";
    window.addEventListener("hashchange", () => this.route());
    window.addEventListener("keydown", (event) => this.onKey(event));
  }

  draw() {
    this.main = h("main", { class: "view", id: "main", role: "tabpanel", tabindex: -1 });
    put(
      this.root,
      h("a", { class: "skip", href: "#main", onclick: (event) => { event.preventDefault(); this.main.focus(); } }, t("page.skip")),
      h("header", { class: "top" }, this.brand(), this.tabs(), this.tools()),
      this.main,
    );
    this.route(true);
  }

  brand() {
    return h("a", { class: "brand", href: "#/chat" }, mark(), h("span", {}, "Luopan ", h("small", { lang: "zh" }, "羅盤")));
  }

  tabs() {
    const list = h("div", { class: "tabs", role: "tablist", "aria-label": t("page.tabs") });
    for (const name of Object.keys(VIEWS)) {
      list.append(
        h("a", { role: "tab", id: `tab-${name}`, href: `#/${name}`, "aria-controls": "main", dataset: { tab: name } }, icon(name), t(`tab.${name}`)),
      );
    }
    this.tablist = roving(list, '[role="tab"]', { pick: (tab) => tab.click() });
    return list;
  }

  tools() {
    const other = LANGUAGES.find((name) => name !== language());
    const theme = read("theme", "system");
    const symbol = { system: "system", light: "sun", dark: "moon" }[theme];
    const themeLabel = t("page.theme", { theme: t(`theme.${theme}`) });
    return h(
      "div",
      { class: "tools" },
      h("button", { class: "icon-button lang", type: "button", id: "language", lang: other, "aria-label": t("page.language"), title: t("page.language"), onclick: () => this.switchLanguage(other) }, other === "zh" ? "中文" : "EN"),
      h("button", { class: "icon-button", type: "button", id: "theme", "aria-label": themeLabel, title: themeLabel, onclick: () => this.switchTheme() }, icon(symbol)),
      h("button", { class: "icon-button", type: "button", id: "help", "aria-label": t("page.help"), title: `${t("page.help")} (?)`, onclick: () => this.help() }, icon("help")),
    );
  }

  route(again = false) {
    const [, name, ...path] = decodeURI(location.hash || "#/chat").split("/");
    const tab = name in VIEWS ? name : "chat";
    for (const node of this.tablist.children) {
      const on = node.dataset.tab === tab;
      node.setAttribute("aria-selected", on);
      node.tabIndex = on ? 0 : -1;
    }
    if (!again && tab === this.tab && this.view?.go) return this.view.go(path.map(decodeURIComponent));
    this.view?.close?.();
    this.tab = tab;
    this.main.setAttribute("aria-labelledby", `tab-${tab}`);
    document.title = `${t(`tab.${tab}`)} · Luopan`;
    this.view = VIEWS[tab]({ path: path.map(decodeURIComponent) });
    put(this.main, this.view.node);
    return null;
  }

  async switchLanguage(wanted) {
    await chooseLanguage(wanted);
    this.draw();
    document.getElementById("language").focus();
  }

  switchTheme() {
    const next = THEMES[(THEMES.indexOf(read("theme", "system")) + 1) % THEMES.length];
    if (next === "system") forget("theme");
    else write("theme", next);
    if (next === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    document.getElementById("theme").parentElement.replaceWith(this.tools());
    document.getElementById("theme").focus();
  }

  help() {
    const groups = Object.entries(SHORTCUTS).map(([group, keys]) =>
      h("div", {}, h("h3", {}, t(`keys.${group}`)), keys.map(([combo, words]) =>
        h("p", {}, h("span", {}, t(words)), h("span", { class: "combo" }, combo.split(" ").map((key) => [h("kbd", {}, key), " "]))))),
    );
    const foot = h("p", { class: "faint tiny" }, t("page.about", { version: this.version }));
    dialog(t("page.help"), () => h("div", { class: "body stack" }, h("div", { class: "keys" }, groups), foot), { kind: "wide" });
  }

  onKey(event) {
    if (document.querySelector("dialog[open]") || event.defaultPrevented || event.isComposing) return;
    const combined = event.ctrlKey || event.metaKey;
    if (!combined && isTyping(event.target) && event.key !== "Escape") return;
    if (!combined && !event.altKey) {
      if (event.key === "?") return event.preventDefault(), this.help();
      const tab = Object.keys(VIEWS)[["F1", "F2", "F3", "F4"].indexOf(event.key)] ?? this.leader(event.key);
      if (tab) return event.preventDefault(), void (location.hash = `#/${tab}`);
      if (event.key === "T") return event.preventDefault(), this.switchTheme();
      if (event.key === "L") return event.preventDefault(), void this.switchLanguage(LANGUAGES.find((l) => l !== language()));
    }
    this.view?.keys?.(event);
  }

  /** `g` and then a letter goes to a tab. */
  leader(key) {
    const tab = this.waiting ? { c: "chat", v: "compare", t: "templates", r: "runs" }[key] : null;
    clearTimeout(this.waiting);
    this.waiting = key === "g" ? setTimeout(() => { this.waiting = null; }, 1200) : null;
    return tab;
  }
}

async function main() {
  await loadLanguage();
  const page = new Page(document.getElementById("app"));
  try {
    const about = await request("page.json");
    page.version = about.version;
    if (about.key_needed && !hasKey()) {
      const given = await askForKey();
      if (given) setKey(given);
    }
  } catch (error) {
    toast(error.message, { kind: "bad", seconds: 10 });
  }
  page.draw();
}

main();
