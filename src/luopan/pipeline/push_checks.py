"""What must be true of a folder before it may go to the Hub: a whole model, a card with a licence, nothing private.

The look for secrets goes by names of files and by forms of keys in text; it finds what was left by mistake and is no
proof that there is nothing else. Found secrets are never repeated in a message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from luopan.errors import ArtifactError, ModelError
from luopan.pipeline.card_facts import card_header
from luopan.pipeline.lineage import EXPORTED

PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5"})
PRIVATE_NAMES = re.compile(
    r"\.env(\..*)?|\.netrc|\.git|\.hf_token|id_(rsa|ed25519|ecdsa)|.*\.(pem|key|p12|kdbx)|credentials(\.json)?|token(\.txt)?"
)
# A key starts a word: `multitask-instruction-following` holds sk- and is none.
SECRETS = (
    (re.compile(rb"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{30,}"), "a Hugging Face token"),
    (re.compile(rb"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{20,}"), "an API key"),
    (re.compile(rb"gh[pousr]_[A-Za-z0-9]{36}"), "a GitHub token"),
    (re.compile(rb"AKIA[0-9A-Z]{16}"), "an AWS key"),
    (re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"), "a private key"),
)
TEXT_BYTES = 32 << 20  # larger files are weights or vocabularies and are not looked through


@dataclass(frozen=True)
class Upload:
    """What would go up: files with their sizes, smallest names first, and what the user should know."""

    kind: str
    files: list[tuple[str, int]]
    notes: list[str]

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(size for _, size in self.files)


def check_upload(folder: Path) -> Upload:
    """Look at everything in `folder`. Raises ArtifactError or ModelError that names what must not or cannot go up."""
    if not folder.is_dir():
        raise ArtifactError("there is no such folder", where=folder, hint="luopan export MODEL --out DIR makes one.")
    files = _files(folder)
    kind = _whole(folder, [file.name for file in files])
    header = card_header(folder / "README.md")
    if not (folder / "README.md").is_file():
        raise ArtifactError("there is no model card (README.md)", where=folder, hint="luopan export writes one.")
    if not header.get("license"):
        raise ArtifactError(
            "the model card names no licence",
            where=folder / "README.md",
            hint="Export with --license NAME, or write `license: NAME` into the card's head.",
        )
    _no_secrets(folder, files)
    notes = []
    lineage = folder / EXPORTED
    if lineage.is_file() and re.search(r'"path": "/', lineage.read_text(encoding="utf-8")):
        notes.append(f"{EXPORTED} names folders of this machine")
    listed = [(file.relative_to(folder).as_posix(), file.stat().st_size) for file in files]
    return Upload(kind, sorted(listed), notes)


def _files(folder: Path) -> list[Path]:
    """Every file below `folder`; ArtifactError for pickles, private files, links and unfinished ones."""
    found = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_symlink():
            raise ArtifactError("is a link; only plain files are uploaded", where=path)
        if any(PRIVATE_NAMES.fullmatch(part.lower()) for part in relative.parts):
            raise ArtifactError("looks private by its name; it is not uploaded", where=path, hint="Remove it.")
        if path.is_dir():
            continue
        if path.suffix.lower() in PICKLES:
            raise ArtifactError(
                "is a pickle or of a kind that can hold one, which can run code",
                where=path,
                hint="Remove it; the weights belong into safetensors.",
            )
        if path.name.endswith((".partial", ".tmp", ".incomplete")) or any(
            part.startswith(".") for part in relative.parts
        ):
            raise ArtifactError("is hidden or unfinished; it is not uploaded", where=path, hint="Remove it.")
        if relative.parts[0] == "checkpoints" or path.name.startswith(("optimizer", "rng_state")):
            raise ArtifactError(
                "belongs to training and not to a model", where=path, hint="luopan export makes a folder to publish."
            )
        found.append(path)
    return found


def _whole(folder: Path, names: list[str]) -> str:
    """hf, gguf or adapter; ModelError where it is none, or not whole."""
    from luopan.pipeline.export_adapter import check_adapter
    from luopan.pipeline.export_folder import check_source

    if "config.json" in names:
        check_source(folder)
        return "hf"
    if "adapter_config.json" in names:
        check_adapter(folder)
        return "adapter"
    ggufs = [name for name in names if name.endswith(".gguf")]
    for name in ggufs:
        check_gguf_file(folder / name)
    if not ggufs:
        raise ModelError(
            "is no exported model: no config.json, adapter_config.json or .gguf",
            where=folder,
            hint="luopan export MODEL --out DIR makes one.",
        )
    return "gguf"


def check_gguf_file(file: Path) -> None:
    """ModelError for a GGUF file that is none or is cut short."""
    from luopan.model.gguf_tensors import need_gguf

    need_gguf()
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        ends = [int(tensor.data_offset + tensor.n_bytes) for tensor in reader.tensors]
    except Exception as error:  # a damaged file fails its parser in many ways
        raise ModelError(f"is damaged or no GGUF file ({(str(error) or type(error).__name__).splitlines()[0]})",
                         where=file) from None  # fmt: skip
    if not ends or max(ends) > file.stat().st_size:
        raise ModelError("is cut short", where=file)


def _no_secrets(folder: Path, files: list[Path]) -> None:
    for file in files:
        if file.stat().st_size > TEXT_BYTES or file.suffix in (".safetensors", ".gguf", ".png"):
            continue
        data = file.read_bytes()
        for pattern, what in SECRETS:
            if pattern.search(data):
                raise ArtifactError(f"holds what looks like {what}", where=file, hint="Remove it, and revoke the key.")
