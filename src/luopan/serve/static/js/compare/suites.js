// Prompt suites: those that ship, and those that are pasted. {name, prompts: [{title, system?, turns: [text, …]}]}

import { readJson } from "../json.js";
import { t } from "../i18n.js";
import { request } from "../api.js";

export const SHIPPED = ["everyday-en", "everyday-zh"];
const MAX_PROMPTS = 500;

export function loadSuite(name) {
  return request(`static/suites/${name}.json`);
}

/**
 * A suite out of what was pasted: JSON (a suite, or a list of prompts), JSON lines, or plain text (prompts between lines
 * of ---, or one on each line). Throws Error with words for the user.
 */
export function parseSuite(text, name) {
  const trimmed = text.trim();
  if (!trimmed) throw new Error(t("suite.empty"));
  let given;
  if (/^[[{]/.test(trimmed)) given = fromJson(trimmed);
  else given = /^---\s*$/m.test(trimmed) ? trimmed.split(/^---\s*$/m) : trimmed.split("\n");
  const list = Array.isArray(given) ? given : given.prompts;
  if (!Array.isArray(list)) throw new Error(t("suite.no_prompts"));
  const prompts = list.map((one, i) => prompt(one, i)).filter(Boolean);
  if (!prompts.length) throw new Error(t("suite.empty"));
  if (prompts.length > MAX_PROMPTS) throw new Error(t("suite.too_many", { n: MAX_PROMPTS }));
  return { name: (typeof given.name === "string" && given.name.trim().slice(0, 100)) || name.trim().slice(0, 100) || t("suite.pasted"), prompts };
}

function fromJson(text) {
  const whole = readJson(text);
  if (!whole.error) return whole.value.prompts || Array.isArray(whole.value) ? whole.value : [whole.value];
  const lines = text.split("\n").filter((line) => line.trim());
  if (lines.length > 1 && lines.every((line) => /^\s*[{"[].*[}"\]]\s*$/.test(line))) {
    return lines.map((line, i) => {
      const { value, error } = readJson(line);
      if (error) throw new Error(t("json.at", { line: i + 1, column: error.column, what: t(error.what) }));
      return value;
    });
  }
  throw new Error(t("json.at", { line: whole.error.line, column: whole.error.column, what: t(whole.error.what) }));
}

function prompt(given, index) {
  const place = t("suite.prompt_n", { n: index + 1 });
  if (typeof given === "string") return given.trim() ? { title: titleOf(given), turns: [given.trim()] } : null;
  if (given === null || typeof given !== "object") throw new Error(t("suite.bad_prompt", { place }));
  let { system, turns } = given;
  if (Array.isArray(given.messages)) {
    system ??= given.messages.find((message) => message.role === "system")?.content;
    turns = given.messages.filter((message) => message.role === "user").map((message) => message.content);
  }
  turns ??= given.prompt === undefined ? undefined : [given.prompt];
  const sound = Array.isArray(turns) && turns.length > 0 && turns.length <= 20 && turns.every((turn) => typeof turn === "string" && turn.trim());
  if (!sound || (system !== undefined && system !== null && typeof system !== "string")) throw new Error(t("suite.bad_prompt", { place }));
  const title = typeof given.title === "string" && given.title ? given.title.slice(0, 100) : titleOf(turns[0]);
  return system ? { title, system, turns } : { title, turns };
}

function titleOf(text) {
  const line = text.trim().replace(/\s+/g, " ");
  return line.length > 48 ? `${line.slice(0, 47)}…` : line;
}
