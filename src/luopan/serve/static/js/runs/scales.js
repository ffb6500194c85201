// Axes: from values to places, and round numbers to write beside them.

/** Multiples of 1, 2 or 5 × 10^k within [low, high], about `count` of them. */
export function ticks(low, high, count = 5, factors = [1, 2, 5, 10]) {
  const span = high - low;
  if (!(span > 0) || !Number.isFinite(span)) return [low];
  const rough = span / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * factors.find((factor) => power * factor >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(Number((i * step).toPrecision(12)));
  return found;
}

/** Powers of ten, or 1-2-5 steps where there would be too few. */
export function logTicks(low, high) {
  const from = Math.floor(Math.log10(low));
  const to = Math.ceil(Math.log10(high));
  for (const factors of [[1], [1, 3], [1, 2, 5]]) {
    const found = [];
    for (let e = from; e <= to; e += 1) for (const f of factors) found.push(f * 10 ** e);
    const inside = found.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
    if (inside.length >= 3 || factors.length === 3) {
      if (inside.length >= 2) return inside.filter((_, i) => i % Math.ceil(inside.length / 6) === 0);
    }
  }
  return ticks(low, high, 4);
}

/** A function from values in [low, high] to places in [start, end]. */
export function scale(low, high, start, end, log = false) {
  const f = log ? Math.log : (x) => x;
  const [a, b] = [f(low), f(high)];
  return (value) => start + ((f(value) - a) / (b - a || 1)) * (end - start);
}

/** The range to draw, with a margin. */
export function extent(values, { log = false, fromZero = false } = {}) {
  const known = values.filter((v) => v !== null && Number.isFinite(v) && (!log || v > 0));
  if (!known.length) return log ? [0.1, 1] : [0, 1];
  let low = known.reduce((a, b) => Math.min(a, b));
  let high = known.reduce((a, b) => Math.max(a, b));
  if (log) return high > low ? [low / 1.1, high * 1.1] : [low / 2, high * 2];
  if (fromZero) [low, high] = [Math.min(0, low), Math.max(0, high)];
  if (high - low <= 1e-9 * Math.max(Math.abs(high), Math.abs(low))) {
    const room = Math.abs(high) * 0.1 || 1;
    return [fromZero && low >= 0 ? 0 : low - room, high + room];
  }
  const margin = (high - low) * 0.06;
  return [fromZero && low >= 0 ? low : low - margin, high + margin];
}

/** Centred moving mean over about `share` of the points; gaps stay out of it. */
export function smoothed(points, share = 0.05) {
  const half = Math.max(1, Math.round((points.length * share) / 2));
  return points.map(([x], i) => {
    const reach = Math.min(half, i, points.length - 1 - i);
    const near = points.slice(i - reach, i + reach + 1).map(([, y]) => y).filter((y) => y !== null);
    return [x, near.length ? near.reduce((a, b) => a + b, 0) / near.length : null];
  });
}
