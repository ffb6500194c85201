// Which series belong into one picture. What is not known here gets a picture of its own, so nothing logged is lost.

import { t } from "../i18n.js";

const COUNTERS = new Set(["step", "seconds", "tokens", "epoch", "micro_batches", "wall_seconds", "total_tokens"]);
const KNOWN = [
  { title: "chart.loss", names: ["loss", "held_out_loss", "heldout_loss", "eval_loss", "validation_loss"], main: true },
  { title: "chart.by_source", pattern: /^source\/(.+)\/loss$/, main: true },
  { title: "chart.bits", names: ["bits_per_byte", "held_out_bits_per_byte"], main: true },
  { title: "chart.reward", names: ["reward", "reward_mean"], main: true },
  { title: "chart.rewards", pattern: /^rewards?\/(chosen|rejected|verifier|format)$/, main: true },
  { title: "chart.accuracy", names: ["accuracy", "verifier_accuracy", "rewards/accuracies", "pair_accuracy"], main: true },
  { title: "chart.length", names: ["completion_length", "completion_tokens"], main: true, zero: true },
  { title: "chart.learning_rate", names: ["learning_rate"], main: true, zero: true, plain: true },
  { title: "chart.tokens_per_second", names: ["tokens_per_second", "sampled_tokens_per_second"], main: true, zero: true },
  { title: "chart.grad_norm", names: ["grad_norm"], main: true, zero: true },
  { title: "chart.grad_norm_by", pattern: /^grad_norm\/(.+)$/, zero: true },
  { title: "chart.memory", names: ["memory_bytes"], zero: true, plain: true },
];

/** [{title, lines: [{name, points}], main, zero, plain}] for {name: points}. */
export function groups(series) {
  const left = new Map(Object.entries(series).filter(([name, points]) => !COUNTERS.has(name) && points.some(([, y]) => y !== null)));
  const found = [];
  for (const known of KNOWN) {
    const names = [...left.keys()].filter((name) => known.names?.includes(name) || known.pattern?.test(name));
    if (!names.length) continue;
    const lines = names.map((name) => ({ name: known.pattern?.exec(name)?.[1] ?? name, points: left.get(name) }));
    for (const name of names) left.delete(name);
    found.push({ id: known.title, title: t(known.title), lines, main: Boolean(known.main), zero: known.zero, plain: known.plain });
  }
  for (const [name, points] of [...left].sort()) {
    if (points.every(([, y]) => y === points[0][1])) continue; // a constant: the table of the newest values has it
    found.push({ id: name, title: name.replaceAll("_", " "), lines: [{ name, points }], main: false });
  }
  return found;
}
