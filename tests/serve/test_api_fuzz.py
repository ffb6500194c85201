"""The API under requests made up from its own schema: never a 5xx, and every answer as the schema says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from serve_kit import Running

load_all_checks()
HELD = CHECKS.get_by_names(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
    ]
)
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/v1/models/{name}", "/health")


def aimed(body: Any) -> Any:
    """The request, sent to a model that is there, short and not streamed, so that most reach the engine."""
    if not isinstance(body, dict):
        return body
    body = {**body, "model": "noise"} if isinstance(body.get("model"), str) else dict(body)
    for name in ("max_tokens", "max_completion_tokens"):
        if isinstance(body.get(name), int) and body[name] > 3:
            body[name] = 3
    if isinstance(body.get("messages"), list):
        body.setdefault("max_tokens", 3)
        if len(str(body)) % 2:  # a conversation made up at random has hardly ever sense
            plain = ("model", "max_tokens", "temperature", "top_p", "n", "seed", "stop", "user", "logprobs")
            body = {name: value for name, value in body.items() if name in plain}
            body["messages"] = [{"role": "user", "content": "the cat"}]
    if isinstance(body.get("n"), int) and body["n"] > 3:
        body["n"] = 2
    return {name: value for name, value in body.items() if name != "stream"}


@pytest.mark.parametrize(
    ("path", "mode"),
    [*((path, GenerationMode.POSITIVE) for path in PATHS), *((path, GenerationMode.NEGATIVE) for path in PATHS[:3])],
)
def test_made_up_requests(server: Running, path: str, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    seen: Counter[int] = Counter()
    operation = schema[path]["POST" if path in PATHS[:3] else "GET"]

    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    @hypothesis.settings(
        max_examples=40 if path in PATHS[:3] else 10, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck), phases=(hypothesis.Phase.generate,),
    )  # fmt: skip
    def ask(case: schemathesis.Case) -> None:
        case.body = aimed(case.body)
        response = case.call(base_url=server.url)
        seen[response.status_code] += 1
        case.validate_response(response, checks=HELD)

    ask()
    assert server.idle("noise")
    if path in PATHS[:3]:  # only so is what is above worth anything
        assert seen[400] >= 10
        assert mode is not GenerationMode.POSITIVE or seen[200] >= 3
