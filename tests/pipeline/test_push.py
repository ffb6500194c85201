"""Uploads, against a local imitation of the Hub: what goes up, what is refused, and one line for what goes wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from export_toys import make_run
from fake_hub import TOKEN, FakeHub, fake_hub

from luopan.cli.main import run_verb
from luopan.errors import LuopanError
from luopan.pipeline.card_facts import CardOptions
from luopan.pipeline.export import export_hf
from luopan.pipeline.export_gguf import export_gguf
from luopan.pipeline.push_checks import check_gguf_file, check_upload


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "toy")


@pytest.fixture(scope="module")
def exported(stage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_hf(stage, tmp_path_factory.mktemp("out") / "toy", card=CardOptions(license="mit")).folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "toy"))


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as made:
        yield made


def luopan_push(hub: FakeHub, folder: Path, *words: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own: the hub's library reads its address when it is imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder.parent / "hf")}
    if token is not None:
        environment["HF_TOKEN"] = token
    command = [sys.executable, "-m", "luopan", "push", str(folder), "me/toy", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.e2e
def test_a_folder_goes_up_whole(hub: FakeHub, exported: Path) -> None:
    done = luopan_push(hub, exported, "--private", "--message", "First")
    assert done.returncode == 0, done.stderr
    assert hub.repositories == {"me/toy": True}
    sent = hub.files["me/toy", "main"]
    assert sent == {path.name: path.read_bytes() for path in exported.iterdir()}
    assert f"{hub.address}/me/toy/commit/" in done.stdout
    assert TOKEN not in done.stdout + done.stderr
    assert hub.validated and "license: mit" in hub.validated[0]


@pytest.mark.e2e
def test_proposals_and_branches(hub: FakeHub, exported: Path) -> None:
    hub.repositories["me/toy"] = False
    done = luopan_push(hub, exported, "--create-pr")
    assert done.returncode == 0 and "/discussions/1" in done.stdout, done.stderr
    assert ("me/toy", "main") not in hub.files and "model.safetensors" in hub.files["me/toy", "a proposal"]
    done = luopan_push(hub, exported, "--revision", "v2")
    assert done.returncode == 0 and "README.md" in hub.files["me/toy", "v2"]
    assert not [one for one in hub.requests if one == "POST /api/repos/create"]


@pytest.mark.e2e
def test_a_dry_run_asks_nobody(hub: FakeHub, exported: Path) -> None:
    done = luopan_push(hub, exported, "--dry-run", token=None)
    assert done.returncode == 0 and hub.requests == []
    assert "model.safetensors" in done.stdout and "nothing was uploaded" in done.stdout


@pytest.mark.e2e
@pytest.mark.parametrize(("status", "message"), [
    (401, "does not accept the token"), (403, "may not write there"), (404, "no such repository"),
    (500, "the Hub answers 500"),
])  # fmt: skip
def test_refusals_of_the_hub_are_one_line(hub: FakeHub, exported: Path, status: int, message: str) -> None:
    hub.answer = status
    done = luopan_push(hub, exported)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2 and TOKEN not in done.stdout + done.stderr


@pytest.mark.e2e
def test_no_token_and_no_network(hub: FakeHub, exported: Path) -> None:
    done = luopan_push(hub, exported, token=None)
    assert done.returncode == 2 and "token" in done.stderr and "hf auth login" in done.stderr
    hub.address = "http://127.0.0.1:9"
    done = luopan_push(hub, exported)
    assert done.returncode == 2 and "cannot be reached" in done.stderr


def spoil(folder: Path, what: str) -> None:
    if what == "licence":
        card = folder / "README.md"
        card.write_text(card.read_text().replace("license: mit\n", ""))
    elif what == "card":
        (folder / "README.md").unlink()
    elif what == "secret":
        (folder / "notes.txt").write_text("login with hf_" + "b" * 34)
    elif what == "link":
        (folder / "more.txt").symlink_to("/etc/hostname")
    elif what == "weights":
        (folder / "model.safetensors").unlink()
    else:
        (folder / what).parent.mkdir(exist_ok=True)
        (folder / what).write_text("x")


@pytest.mark.parametrize(("what", "message"), [
    ("card", "no model card"), ("licence", "names no licence"), ("secret", "looks like a Hugging Face token"),
    ("link", "is a link"), ("weights", "not whole"), ("training_args.bin", "pickle"), ("old.pt", "pickle"),
    (".env", "private"), ("id_rsa", "private"), ("optimizer.safetensors", "belongs to training"),
    ("checkpoints/x.json", "belongs to training"), (".cache", "hidden"), ("model.incomplete", "unfinished"),
])  # fmt: skip
def test_what_must_not_go_up(folder: Path, what: str, message: str) -> None:
    check_upload(folder)
    spoil(folder, what)
    with pytest.raises(LuopanError, match=message) as caught:
        check_upload(folder)
    assert "b" * 20 not in str(caught.value)


@pytest.mark.parametrize("words", [
    "data: multitask-instruction-following-v2", "risk-averse_decision-making-under-pressure", "alhf_" + "x" * 40,
])  # fmt: skip
def test_ordinary_words_are_no_keys(folder: Path, words: str) -> None:
    (folder / "notes.txt").write_text(words)
    assert "notes.txt" in [name for name, _ in check_upload(folder).files]


@pytest.mark.parametrize("before", ["", "key=", '"', "OPENAI_", "\n"])
@pytest.mark.parametrize("key", ["sk-" + "b" * 30, "sk-proj-" + "b" * 30, "hf_" + "b" * 34])
def test_keys_are_found_wherever_a_word_starts(folder: Path, before: str, key: str) -> None:
    (folder / "notes.txt").write_text(f"login {before}{key}")
    with pytest.raises(LuopanError, match="holds what looks like"):
        check_upload(folder)


def test_a_gguf_folder_must_be_whole(stage: Path, tmp_path: Path) -> None:
    folder = export_gguf(stage, tmp_path / "toy", card=CardOptions(license="mit")).folder
    assert check_upload(folder).kind == "gguf"
    file = folder / "toy-f16.gguf"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(LuopanError, match=r"cut short|damaged"):
        check_upload(folder)
    file.write_bytes(b"GGUF nothing")
    with pytest.raises(LuopanError, match="damaged"):
        check_gguf_file(file)


def test_a_folder_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb("push", [str(tmp_path / "gone"), "me/toy"]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert run_verb("push", [str(tmp_path), "me/toy"]) == 2
    assert "no exported model" in capsys.readouterr().err
    for name in ("toy", "a/b/c", "me/to y"):
        assert run_verb("push", [str(tmp_path), name]) == 2
        assert "no name on the Hub" in capsys.readouterr().err
