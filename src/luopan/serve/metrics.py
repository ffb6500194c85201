"""What the server counts, in Prometheus' form. A registry for each app, none for the process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """All meters of an app."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        by = ["model"]
        self.requests = Counter(
            "luopan_requests", "HTTP requests by what became of them", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "luopan_request_seconds",
            "from request to last byte",
            ["route"],
            buckets=(*_SECONDS, 300.0),
            registry=registry,
        )
        self.prompt_tokens = Counter("luopan_prompt_tokens", "tokens read", by, registry=registry)
        self.generated_tokens = Counter("luopan_generated_tokens", "tokens written", by, registry=registry)
        self.cancelled = Counter("luopan_cancelled_generations", "ended because nobody waits", by, registry=registry)
        self.first = Histogram(
            "luopan_time_to_first_token_seconds", "from request to first token", by, buckets=_SECONDS, registry=registry
        )
        self.between = Histogram(
            "luopan_inter_token_seconds", "from one token to the next", by, buckets=_SECONDS, registry=registry
        )
        self.running = Gauge("luopan_generations_running", "generations that run", by, registry=registry)
        self.waiting = Gauge("luopan_generations_waiting", "generations that wait", by, registry=registry)
        self.held = Gauge("luopan_cache_tokens", "tokens whose keys and values are held", by, registry=registry)
        self.share = Gauge("luopan_cache_use_ratio", "of the tokens that may be held", by, registry=registry)

    def of(self, model: str, capacity: int) -> ModelMeter:
        """The meters of one model; `capacity`: how many tokens' keys and values may be held."""
        return ModelMeter(self, model, capacity)

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)


class ModelMeter:
    """One model's meters, looked up once."""

    def __init__(self, metrics: Metrics, model: str, capacity: int) -> None:
        self.capacity = max(1, capacity)
        self._prompt, self._generated = metrics.prompt_tokens.labels(model), metrics.generated_tokens.labels(model)
        self._first, self._between = metrics.first.labels(model), metrics.between.labels(model)
        self._running, self._waiting = metrics.running.labels(model), metrics.waiting.labels(model)
        self._held, self._share = metrics.held.labels(model), metrics.share.labels(model)
        self.cancelled = metrics.cancelled.labels(model)

    def heard(self, tokens: int, prompt_tokens: int, seconds: float, *, first: bool) -> None:
        """Tokens that came together, so many seconds after the request or after those before."""
        self._generated.inc(tokens)
        if first:
            self._prompt.inc(prompt_tokens)
            self._first.observe(seconds)
        else:
            for _ in range(tokens):
                self._between.observe(seconds / tokens)

    def state(self, running: int, waiting: int, held: int) -> None:
        """How it stands after a step."""
        self._running.set(running)
        self._waiting.set(waiting)
        self._held.set(held)
        self._share.set(held / self.capacity)
