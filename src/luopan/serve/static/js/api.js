// The server: JSON requests, errors as what they say, and answers that stream.

import { askForKey } from "./dialogs.js";
import { t } from "./i18n.js";

/** An error with the server's own words. */
export class ApiError extends Error {
  constructor(message, status = 0, details = {}) {
    super(message);
    this.status = status;
    this.details = details;
  }
}

let key = "";
try {
  key = sessionStorage.getItem("luopan.key") ?? "";
} catch {
  key = "";
}

/** Keep the API key for as long as this browser tab lives. */
export function setKey(value) {
  key = value;
  try {
    sessionStorage.setItem("luopan.key", value);
  } catch {
    return; // kept in memory
  }
}

export function hasKey() {
  return key !== "";
}

/** A request that is answered with JSON. Throws ApiError. Asks for the key, and tries again, where one is needed. */
export async function request(path, { method = "GET", body = null, signal = null } = {}) {
  const response = await send(path, { method, body, signal });
  if (response.status === 204) return null;
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(t("error.not_json", { path }), response.status);
  }
}

async function send(path, { method = "POST", body = null, signal = null }) {
  for (;;) {
    const used = key;
    const headers = {};
    if (body !== null) headers["Content-Type"] = "application/json";
    if (used) headers.Authorization = `Bearer ${used}`;
    let response;
    try {
      response = await fetch(path, { method, headers, signal, cache: "no-store", body: body === null ? null : JSON.stringify(body) });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(t("error.unreachable"));
    }
    if (response.ok) return response;
    const error = await errorOf(response);
    if (response.status !== 401) throw error;
    if (key === used) {
      const given = await askForKey(used ? error.message : "");
      if (given === null) throw error;
      setKey(given);
    }
  }
}

async function errorOf(response) {
  const text = await response.text();
  try {
    const { error } = JSON.parse(text);
    if (error?.message) return new ApiError(error.message, response.status, error);
  } catch {
    return new ApiError(t("error.status", { status: response.status, text: text.slice(0, 300) }), response.status);
  }
  return new ApiError(t("error.status", { status: response.status, text: text.slice(0, 300) }), response.status);
}

/** The models of the server, as /v1/models has them. */
export async function listModels() {
  const { data } = await request("v1/models");
  return data;
}

/**
 * A streamed chat completion. `onEvent` gets each chunk as the API sends it.
 * Resolves when the stream has ended; throws ApiError, or AbortError where `signal` stopped it.
 */
export async function streamChat(body, { signal, onEvent }) {
  const asked = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await send("v1/chat/completions", { body: asked, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  let done = false;
  for (;;) {
    let read;
    try {
      read = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(t("error.broken"));
    }
    buffer += (read.value ?? "").replaceAll("\r", "");
    const blocks = buffer.split("\n\n");
    buffer = read.done ? "" : blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart()).join("\n");
      if (data === "[DONE]") done = true;
      else if (data) takeEvent(data, onEvent);
    }
    if (read.done) break;
  }
  if (!done) throw new ApiError(t("error.broken"));
}

function takeEvent(data, onEvent) {
  let event;
  try {
    event = JSON.parse(data);
  } catch {
    throw new ApiError(t("error.broken"));
  }
  if (event.error) throw new ApiError(event.error.message, 0, event.error);
  onEvent(event);
}
