// One answer while it streams: chunks of the API become a message, with its counts and its speed.

import { streamChat } from "../api.js";

/**
 * Streams an answer into `message` ({content, thinking, tool_calls, stats, finish, error}).
 * `changed()` is called whenever the message grew. Never throws: what goes wrong is the message's `error`.
 */
export async function answer(body, message, { signal, changed }) {
  const clock = { begun: performance.now(), first: null, chunks: 0, usage: null };
  message.pending = true;
  try {
    await streamChat(body, { signal, onEvent: (event) => { take(event, message, clock); changed(); } });
  } catch (error) {
    if (error.name === "AbortError") message.finish = "stopped";
    else message.error = error.message;
  }
  message.stats = figures(clock, performance.now());
  delete message.pending;
  changed();
  return message;
}

function take(event, message, clock) {
  if (event.usage) clock.usage = event.usage;
  const choice = event.choices?.[0];
  if (!choice) return;
  const delta = choice.delta ?? {};
  const thinking = delta.reasoning_content ?? delta.reasoning ?? "";
  if (thinking) message.thinking = (message.thinking ?? "") + thinking;
  if (delta.content) message.content += delta.content;
  for (const call of delta.tool_calls ?? []) takeCall(call, message);
  if (thinking || delta.content || delta.tool_calls) {
    clock.first ??= performance.now();
    clock.chunks += 1;
  }
  if (thinking && !delta.content) message.thought_seconds = (performance.now() - clock.begun) / 1000;
  if (choice.finish_reason) message.finish = choice.finish_reason;
  message.stats = figures(clock, performance.now());
}

function takeCall(call, message) {
  message.tool_calls ??= [];
  const at = call.index ?? message.tool_calls.length;
  const known = (message.tool_calls[at] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
  if (call.id) known.id = call.id;
  known.function.name += call.function?.name ?? "";
  known.function.arguments += call.function?.arguments ?? "";
}

/** Tokens are the server's count where it has come, else the number of chunks (a token each, nearly). */
function figures(clock, now) {
  const tokens = clock.usage?.completion_tokens ?? clock.chunks;
  const seconds = clock.first === null ? 0 : (now - clock.first) / 1000;
  return {
    tokens,
    exact: Boolean(clock.usage),
    prompt: clock.usage?.prompt_tokens ?? null,
    first: clock.first === null ? null : (clock.first - clock.begun) / 1000,
    rate: tokens > 1 && seconds > 0.01 ? (tokens - 1) / seconds : null,
  };
}

/** The messages of a conversation as the API takes them. */
export function wireMessages(system, messages) {
  const sent = system.trim() ? [{ role: "system", content: system }] : [];
  for (const message of messages) {
    if (message.error && !message.content && !message.tool_calls) continue;
    if (message.role === "tool") sent.push({ role: "tool", tool_call_id: message.tool_call_id, content: message.content });
    else if (message.tool_calls?.length) sent.push({ role: "assistant", content: message.content || null, tool_calls: message.tool_calls });
    else sent.push({ role: message.role, content: message.content });
  }
  return sent;
}
