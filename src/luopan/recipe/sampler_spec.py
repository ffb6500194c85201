"""What a recipe says of who samples: the engine in this process, or a server that is given the policy's weights.

    sampler: {kind: endpoint, base_url: "http://127.0.0.1:8000/v1", model: policy}

No torch is imported here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from luopan.recipe.parts import Spec


class OwnSampler(Spec):
    """The engine in this process, with the policy's own weights."""

    kind: Literal["engine"]


class EndpointSpec(Spec):
    """A server that speaks the OpenAI API. `patience` seconds without any answer end the run, with everything saved."""

    base_url: str = Field(description="with the version: http://127.0.0.1:8000/v1")
    model: str = Field(description="what the server calls it")
    api_key_env: str | None = Field(default=None, description="the environment variable that holds the key")
    timeout: float = Field(default=300.0, gt=0, description="seconds for one answer")
    patience: float = Field(default=600.0, ge=0, description="seconds that an absent server is waited for")
    concurrency: PositiveInt = Field(default=16, description="requests under way at once")
    extra: dict[str, Any] = Field(default_factory=dict, description="put into every request")


class EndpointSampler(EndpointSpec):
    """A server that samples (`luopan serve --reload-from`, vLLM), given the policy's weights before each generation."""

    kind: Literal["endpoint"]
    concurrency: PositiveInt = Field(default=64, description="requests under way at once")
    command: str | None = Field(
        default=None,
        description="how the server is given weights, with {path} and {version}; default: POST /v1/reload of luopan's",
    )

    @model_validator(mode="after")
    def _command_names_the_path(self) -> Self:
        if self.command is not None and "{path}" not in self.command:
            raise ValueError("command does not say where the weights are: write {path} where they belong")
        return self


SamplerSpec = Annotated[OwnSampler | EndpointSampler, Field(discriminator="kind")]
