"""A model from elsewhere as a stage: found, read, checked, given what a chat model needs, and handed on.

Where the weights come from is hashed, so that another file under the same name is another result. What a model lacks
for fine-tuning (a template, a padding token that is not its stop token, tokens of the template that the vocabulary does
not know) is asked before hours of training, not after.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from luopan.artifacts import sha256_file, stable_hash
from luopan.errors import ModelError
from luopan.model import hf
from luopan.model.hub import from_hub, is_hub_id
from luopan.recipe.sft_specs import ImportSpec
from luopan.report.data import Note, StageReport, Table
from luopan.stages.base import Inputs, Workspace
from luopan.stages.common import MODEL_PAYLOAD, Chat, save_model, start_device
from luopan.stages.handover import metrics_of, write_report
from luopan.stages.measure import check_suite, samples_of, suite_after, suite_figures
from luopan.tokens.base_model import BaseCheck, check_base, choose_pad
from luopan.tokens.extend import extend_model
from luopan.tokens.foreign import PACKAGE, package_path
from luopan.tokens.gguf import check_gguf, convert_gguf
from luopan.tokens.template import compile_template
from luopan.tokens.templates import TEMPLATES, template_source
from luopan.tokens.tokenizer import load_tokenizer

TEMPLATE_BYTES = 1 << 20


class Imported:
    """See the module."""

    kind: ClassVar[str] = "import"
    version: ClassVar[int] = 2
    payload: ClassVar[tuple[str, ...]] = MODEL_PAYLOAD

    @staticmethod
    def fingerprint(spec: ImportSpec) -> str:
        """Of all files the model is made of, and of the template's text."""
        source = find_model(spec.path)
        files = [source] if source.is_file() else _model_files(source)
        return stable_hash([*map(sha256_file, files), read_template(spec.chat_template)])

    @staticmethod
    def check(spec: ImportSpec) -> None:
        source = find_model(spec.path)
        if source.is_file():
            check_gguf(source)
        else:
            hf.read_config(source)
        read_template(spec.chat_template)
        check_suite(spec.suite)

    @staticmethod
    def run(spec: ImportSpec, inputs: Inputs, out: Workspace) -> dict[str, Any]:
        device = start_device()
        template = read_template(spec.chat_template)
        with _prepared(spec, template, out) as folder:
            tokenizer = load_tokenizer(folder)
            first = check_base(tokenizer, hf.read_config(folder).vocab_size, folder)
            model = hf.load(folder).to(device)
        if template is not None:
            tokenizer.chat_template = template
            _check_vocabulary(spec, tokenizer)
        tokenizer.pad_token = choose_pad(tokenizer, spec.pad_token)
        chat = Chat(model, tokenizer, device, spec.path)
        checks = check_base(tokenizer, model.config.vocab_size)
        for check in checks:
            if check.advice:
                out.progress.note(f"{check.question}: {check.found}. {check.advice}")
        save_model(chat, out.path)
        after = suite_after(out.path, chat, spec.suite) if spec.suite.tests else {"tests": {}, "total": {}}
        figures = suite_figures(None, after, headline=("skills, mean",)) if spec.suite.tests else []
        write_report(out.path, _report(spec, out, chat, first, checks, figures=figures, samples=_samples(after, out)))
        return metrics_of(figures, parameters=model.config.num_parameters(), vocabulary=len(tokenizer))


def find_model(path: str) -> Path:
    """The Hugging Face folder or GGUF file that `path` names; ModelError where there is none."""
    place = package_path(path) if path.startswith(PACKAGE) else Path(path)
    if place.is_file():
        if place.suffix != ".gguf":
            hint = "Give a Hugging Face folder, a .gguf file, or a hub id such as owner/name."
            raise ModelError("is no model", where=place, hint=hint)
        return place
    if place.is_dir():
        if (place / "config.json").is_file():
            return place
        if (place / "model" / "config.json").is_file():  # a stage of another run
            return place / "model"
        found = sorted(place.glob("*.gguf"))
        if len(found) == 1:
            return found[0]
        hint = "A Hugging Face folder holds config.json and model.safetensors."
        raise ModelError(
            f"no model in this folder{', but several .gguf files' if found else ''}", where=place, hint=hint
        )
    if not path.startswith(PACKAGE) and is_hub_id(path):
        return from_hub(path)
    raise ModelError("there is no such file or folder", where=path, hint="Paths are relative to where luopan is run.")


def read_template(name: str | None) -> str | None:
    """The source of a shipped template, or of a .jinja file; None for None. ModelError where it is neither."""
    if name is None:
        return None
    if name in TEMPLATES:
        return template_source(name)
    file = Path(name)
    if not file.is_file():
        known = ", ".join(TEMPLATES)
        raise ModelError(f"there is no chat template {name!r}", hint=f"Known: {known}; or give a .jinja file.")
    if file.stat().st_size > TEMPLATE_BYTES:
        raise ModelError("is too large for a chat template", where=file)
    try:
        source = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"is not UTF-8 text ({error.reason})", where=file) from error
    compile_template(source)
    return source


@contextmanager
def _prepared(spec: ImportSpec, template: str | None, out: Workspace) -> Iterator[Path]:
    """A Hugging Face folder with the new tokens; what was made on the way is gone afterwards."""
    source = find_model(spec.path)
    work = out.path / "work"
    shutil.rmtree(work, ignore_errors=True)
    try:
        if source.is_file():
            out.progress.note(f"reading {source.name}")
            convert_gguf(source, work / "converted")
            source = work / "converted"
        if spec.add_tokens:
            # What the template writes are control tokens: text that looks like them must stay text.
            text = template if template is not None else str(load_tokenizer(source).chat_template or "")
            for special in (True, False):
                tokens = [token for token in spec.add_tokens if (token in text or token == spec.pad_token) is special]
                if tokens:
                    target = work / ("control" if special else "words")
                    extend_model(source, tokens, target, special=special)
                    source = target
        yield source
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_vocabulary(spec: ImportSpec, tokenizer: Any) -> None:
    """A template whose control tokens fall to pieces teaches a model to spell them."""
    info = TEMPLATES.get(spec.chat_template or "")
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in (info.tokens if info is not None else ()) if token not in vocabulary]
    if missing:
        raise ModelError(
            f"the vocabulary lacks {', '.join(missing)}, which the chat template {spec.chat_template} writes",
            where=spec.path,
            hint=f"Set add_tokens: [{', '.join(repr(token) for token in missing)}]",
        )


def _model_files(folder: Path) -> list[Path]:
    kinds = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
    return sorted(file for kind in kinds for file in folder.glob(kind))


def _samples(result: dict[str, Any], out: Workspace) -> list[Any]:
    return samples_of(result, out.name) if result["tests"] else []


def _report(
    spec: ImportSpec, out: Workspace, chat: Chat, first: list[BaseCheck], checks: list[BaseCheck], **parts: Any
) -> StageReport:
    was = {check.question: check.found for check in first}
    parameters = chat.model.config.num_parameters()
    return StageReport(
        kind="import",
        name=out.name,
        parameters=parameters,
        summary=f"{spec.path}: {parameters / 1e6:,.1f}M parameters, {len(chat.tokenizer):,} tokens, "
        f"{chat.model.config.max_position_embeddings:,} tokens of context.",
        notes=[Note(text=f"{c.question}: {c.found}. {c.advice}", level="warning") for c in checks if c.advice],
        tables=[
            Table(
                title="What a model needs before it is fine-tuned",
                columns=["question", "as it came", "as it goes on"],
                rows=[[check.question, was.get(check.question, ""), check.found] for check in checks],
            )
        ],
        **parts,
    )
