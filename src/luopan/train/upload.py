"""Copies checkpoints away after they were saved: by any command, or to the Hugging Face Hub; never stops training.

`upload_command` is a list of words, run without a shell, in which {folder} and {name} stand for the checkpoint's folder
and name; exit code 0 means it was copied. `upload_verify_command` then says, by its exit code, whether the copy is
whole; without it the first command's word is taken for it. The Hub is asked for the size and SHA-256 of every file.

A checkpoint whose upload is not verified is not removed here, so a destination that is down fills the disk: one line
says so, the upload is tried again after 1, 2, 4, … up to 300 seconds, and goes on in the next sitting. `uploads.json`
remembers what is safe, by content: a step that is written anew after going back is uploaded anew.

Limits: one upload at a time, in the order of saving. A command that hangs is not ended before training is.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from luopan.artifacts import atomic_write_json, read_manifest
from luopan.errors import ArtifactError, TrainingError
from luopan.train import checkpoint as checkpoints
from luopan.train.checkpoint import Note
from luopan.train.config import TrainConfig

UPLOADS_NAME = "uploads.json"
LONGEST_WAIT = 300.0


class UploadFailed(Exception):
    """An upload or its check did not work; the text says why. Only the uploader sees it."""


class Destination(Protocol):
    """Where checkpoints are copied to. Both methods raise; what they raise is reported and tried again."""

    def send(self, folder: Path) -> None:
        """Copy the folder away."""

    def check(self, folder: Path) -> None:
        """Raise unless the copy is whole."""

    def stop(self) -> None:
        """End what is under way: the process leaves."""


class Uploader:
    """A thread that uploads one checkpoint after the other."""

    def __init__(self, folder: Path, destination: Destination, note: Note, first_wait: float = 1.0) -> None:
        self.folder, self.destination, self.note, self.first_wait = Path(folder), destination, note, first_wait
        self.on_verified: Callable[[], None] = lambda: None
        self.done: dict[str, str] = read_uploads(self.folder / UPLOADS_NAME)  # name: content
        self.waiting: deque[int] = deque()
        self.change = threading.Condition()
        self.leaving = threading.Event()
        self.thread: threading.Thread | None = None

    def start(self, steps: Iterable[int]) -> None:
        """Begin, with what earlier sittings left."""
        self.waiting.extend(step for step in steps if not self.verified(step))
        # A daemon: a destination that is down must not keep the process alive; `close` says what is left.
        self.thread = threading.Thread(target=self.work, name="luopan-upload", daemon=True)
        self.thread.start()

    def add(self, step: int) -> None:
        """A checkpoint that is written and whole."""
        with self.change:
            if step not in self.waiting:
                self.waiting.append(step)
            self.change.notify_all()

    def verified(self, step: int) -> bool:
        """Whether a whole copy of this very checkpoint is elsewhere."""
        path = checkpoints.checkpoint_path(self.folder, step)
        return path.name in self.done and self.done[path.name] == content(path)

    def close(self, patience: float, hurried: Callable[[], bool] = lambda: False) -> None:
        """Wait up to `patience` seconds, or until `hurried` says so, for what is under way; one line tells of
        checkpoints that were not copied."""
        until = time.monotonic() + patience
        if self.waiting and patience >= 60.0:
            self.note(f"Waiting for uploads, at most {patience / 60:.0f} min; Ctrl-C leaves them for the next time.")
        with self.change:
            while self.waiting and time.monotonic() < until and not hurried():
                self.change.wait(min(1.0, max(until - time.monotonic(), 0.01)))
            left = len(self.waiting)
            self.leaving.set()
            self.change.notify_all()
        self.destination.stop()
        if self.thread is not None:
            self.thread.join(10.0)
        if left:
            self.note(f"WARNING: {left} checkpoints were not uploaded; they are in {self.folder} and go next time.")

    # ---- the thread ----

    def work(self) -> None:
        """Upload until told to leave."""
        while not self.leaving.is_set():
            with self.change:
                if not self.waiting:
                    self.change.wait(1.0)
                    continue
                step = self.waiting[0]
            self.upload(step)
            if not self.leaving.is_set():
                with self.change:
                    self.waiting.popleft()
                    self.change.notify_all()

    def upload(self, step: int) -> None:
        """Try until the copy of one checkpoint is verified, it is gone, or the process leaves."""
        path = checkpoints.checkpoint_path(self.folder, step)
        wait, told = self.first_wait, False
        while path.is_dir() and not self.leaving.is_set():
            before = content(path)
            try:
                self.destination.send(path)
                self.destination.check(path)
            except Exception as error:
                if not told and not self.leaving.is_set():
                    why = " ".join(str(error).split())[:300]
                    self.note(f"WARNING: {path.name} could not be uploaded: {why}. It stays here and is tried again.")
                told = True
                self.leaving.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT)
                continue
            if content(path) != before:  # written anew meanwhile: what was copied is no more
                continue
            self.remember(path.name, before)
            if told:
                self.note(f"{path.name} is uploaded now.")
            self.on_verified()
            return

    def remember(self, name: str, what: str | None) -> None:
        """Keep on record that this checkpoint is safe elsewhere; without a record it is only uploaded again."""
        if what is None:
            return
        self.done = {**self.done, name: what}
        with suppress(Exception):
            atomic_write_json(self.folder / UPLOADS_NAME, self.done)


class CommandDestination:
    """Copies and checks by commands of the user's, run without a shell."""

    def __init__(self, command: Sequence[str], verify_command: Sequence[str] | None) -> None:
        self.command, self.verify_command = tuple(command), verify_command
        self.process: subprocess.Popen[str] | None = None
        self.stopped = False

    def send(self, folder: Path) -> None:
        self.call(self.command, folder)

    def check(self, folder: Path) -> None:
        if self.verify_command is not None:
            self.call(self.verify_command, folder)

    def call(self, command: Sequence[str], folder: Path) -> None:
        """Run a command to its end; UploadFailed with the last line it wrote where it does not end with 0."""
        words = [word.replace("{folder}", str(folder)).replace("{name}", folder.name) for word in command]
        if self.stopped:
            raise UploadFailed("stopped")
        try:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C is for the training
            )
        except OSError as error:
            raise UploadFailed(f"{words[0]} cannot be run: {error.strerror}") from None
        output, _ = self.process.communicate()
        if self.process.returncode:
            last = output.strip().splitlines()[-1:] or ["no message"]
            raise UploadFailed(f"{words[0]} ended with {self.process.returncode}: {last[0]}")

    def stop(self) -> None:
        self.stopped = True
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()


class HubDestination:
    """A folder per checkpoint in a private model repository on the Hugging Face Hub."""

    def __init__(self, repository: str, api: Any = None) -> None:
        if api is None:
            try:
                from huggingface_hub import HfApi
            except ImportError:
                raise TrainingError(
                    "upload_to_hub needs huggingface_hub, which is not installed", hint="pip install huggingface_hub"
                ) from None
            api = HfApi()
        self.repository, self.api, self.made = repository, api, False

    def send(self, folder: Path) -> None:
        if not self.made:
            self.api.create_repo(self.repository, private=True, exist_ok=True)
            self.made = True
        self.api.upload_folder(
            repo_id=self.repository,
            folder_path=str(folder),
            path_in_repo=folder.name,
            commit_message=f"checkpoint {folder.name}",
        )

    def check(self, folder: Path) -> None:
        files = {f"{folder.name}/{path.name}": path for path in folder.iterdir() if path.is_file()}
        there = {info.path: info for info in self.api.get_paths_info(self.repository, list(files))}
        records = read_manifest(folder).files
        for name, path in files.items():
            info = there.get(name)
            if info is None or info.size != path.stat().st_size:
                raise UploadFailed(f"{name} is not on the Hub in its full size")
            if getattr(info, "lfs", None) is not None:
                if path.name in records and info.lfs.sha256 != records[path.name].sha256:
                    raise UploadFailed(f"{name} has another checksum on the Hub")
            elif info.blob_id != git_blob_id(path.read_bytes()):
                raise UploadFailed(f"{name} has other contents on the Hub")

    def stop(self) -> None:
        """An upload under way ends with the process."""


def git_blob_id(data: bytes) -> str:
    """How git, and so the Hub, names a small file: the SHA-1 of its length and its bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def make_uploader(folder: Path, config: TrainConfig, note: Note) -> Uploader | None:
    """The uploader that the settings ask for, not started; None where they ask for none."""
    if config.upload_command is not None:
        return Uploader(folder, CommandDestination(config.upload_command, config.upload_verify_command), note)
    if config.upload_to_hub is not None:
        return Uploader(folder, HubDestination(config.upload_to_hub), note)
    return None


def content(path: Path) -> str | None:
    """The content hash of a checkpoint, from its manifest; None where there is none."""
    try:
        return read_manifest(path).content
    except ArtifactError:
        return None


def read_uploads(path: Path) -> dict[str, str]:
    """What earlier sittings uploaded; a record that cannot be read only makes them upload again."""
    try:
        return {str(name): str(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        return {}
