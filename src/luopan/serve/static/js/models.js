// The server's models, asked for once and again when a view wants to know anew.

import { listModels } from "./api.js";

let known = null;

/** Those that have a chat template: with others one cannot talk. */
export async function chatModels(options) {
  return (await models(options)).filter((model) => model.luopan?.chat !== false);
}

/** The list of models: [{id, luopan: {description, context, thinking, tools, default_sampling}}]. Throws ApiError. */
export function models({ anew = false } = {}) {
  if (anew || !known) {
    known = listModels();
    known.catch(() => { known = null; });
  }
  return known;
}
