"""Where the work of a corpus runs: in this process, in a pool of processes, or on a Ray cluster.

`map` runs a picklable function over items and gives the results in the order of the items, so that nothing of a result
depends on who did it when. Every process sees the same files: on a cluster the corpus folder and the sources must lie
on storage that all machines mount at the same place.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Literal, Protocol, TypeVar

from luopan.errors import DataError, LuopanError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs work. `work` is a function of a module, or a `functools.partial` of one; items and results are small (they
    name files rather than hold texts)."""

    def map(
        self, work: Callable[[Item], Result], items: Sequence[Item], done: Callable[[Result], None] | None = None
    ) -> list[Result]:
        """[len(items)] results in the items' order; `done` is called with each result as it comes, in any order."""
        ...

    def feed(self, work: Callable[[Item], Result], items: Sequence[Item], take: Callable[[Result], None]) -> None:
        """As `map`, for results that are not small: each is handed to `take`, in the items' order, and not kept."""
        ...


class InProcess:
    """One after the other, here."""

    def map(
        self, work: Callable[[Item], Result], items: Sequence[Item], done: Callable[[Result], None] | None = None
    ) -> list[Result]:
        results = []
        for item in items:
            results.append(work(item))
            if done is not None:
                done(results[-1])
        return results

    def feed(self, work: Callable[[Item], Result], items: Sequence[Item], take: Callable[[Result], None]) -> None:
        for item in items:
            take(work(item))


def collected(numbered: Iterable[tuple[int, Result]], done: Callable[[Result], None] | None) -> list[Result]:
    """All results in the order of their numbers."""
    results: dict[int, Result] = {}
    for number, result in numbered:
        results[number] = result
        if done is not None:
            done(result)
    return [results[number] for number in range(len(results))]


def hand_on(numbered: Iterable[tuple[int, Result]], take: Callable[[Result], None]) -> None:
    """Give each result to `take`, in the order of their numbers however they come; none is kept that was handed on."""
    early: dict[int, Result] = {}
    due = 0
    for number, result in numbered:
        early[number] = result
        while due in early:
            take(early.pop(due))
            due += 1


class LocalPool:
    """A pool of processes of this machine, started when it is first used.

    They are spawned, not forked: a process that holds a thread pool or a GPU cannot be forked safely. So a script that
    calls this needs its `if __name__ == "__main__"`.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.pool: ProcessPoolExecutor | None = None
        self.others: set[Any] = set()

    def map(
        self, work: Callable[[Item], Result], items: Sequence[Item], done: Callable[[Result], None] | None = None
    ) -> list[Result]:
        return collected(self.numbered(work, items), done)

    def feed(self, work: Callable[[Item], Result], items: Sequence[Item], take: Callable[[Result], None]) -> None:
        hand_on(self.numbered(work, items), take)

    def numbered(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
        """(number of the item, result) as they come."""
        if self.pool is None:
            self.others = set(multiprocessing.active_children())
            self.pool = ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn"), initializer=quiet)
        waiting = {self.pool.submit(work, item): number for number, item in enumerate(items)}
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process died, most likely for want of memory",
                hint="Run again with fewer workers or a smaller split_bytes; what is finished is kept. A script of "
                'yours needs its `if __name__ == "__main__":` around the call.',
            ) from error
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """End the processes at once: what they were doing has no marker and is done again."""
        assert self.pool is not None
        self.pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - self.others:
            child.terminate()

    def close(self) -> None:
        """End the processes."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


def quiet() -> None:
    """In a worker: Ctrl-C is the parent's business, libraries use one thread, and a worker ends with its parent."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    import pyarrow as pa

    pa.set_cpu_count(1)


def end_with_parent(parent: int) -> None:
    """A parent that is killed cannot end its workers, and theirs would be the files of the next run."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


class OnRay:
    """A Ray cluster, through Ray Data: that of `RAY_ADDRESS`, or one started here. Items and results travel pickled."""

    def __init__(self, workers: int | None) -> None:
        self.workers = workers

    def map(
        self, work: Callable[[Item], Result], items: Sequence[Item], done: Callable[[Result], None] | None = None
    ) -> list[Result]:
        return collected(self.numbered(work, items), done)

    def feed(self, work: Callable[[Item], Result], items: Sequence[Item], take: Callable[[Result], None]) -> None:
        hand_on(self.numbered(work, items), take)

    def numbered(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
        """(number of the item, result) as they come."""
        if not items:
            return
        ray = started(self.workers)
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = [{"number": number, "item": pickle.dumps(item)} for number, item in enumerate(items)]
        task = {"work": pickle.dumps(work)}
        compute = ray.data.TaskPoolStrategy(size=min(self.workers or len(rows), len(rows)))
        data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            run_row, fn_kwargs=task, num_cpus=1, compute=compute
        )
        for row in data.iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, LuopanError | OSError):
                raise result
            yield row["number"], result


def run_row(row: dict[str, Any], work: bytes) -> dict[str, Any]:
    """On a Ray worker: one item. What a user can mend travels back as a value, so that Ray does not wrap it."""
    try:
        result = pickle.loads(work)(pickle.loads(row["item"]))
    except (LuopanError, OSError) as error:
        result = error
    return {"number": row["number"], "result": pickle.dumps(result)}


def started(workers: int | None) -> Any:
    """Ray, connected. DataError if it is not installed or the cluster does not answer."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise DataError("executor ray needs Ray", hint="pip install 'luopan[ray]'") from error
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    if not ray.is_initialized():
        try:
            address = os.environ.get("RAY_ADDRESS")
            own: dict[str, Any] = {} if address else {"num_cpus": workers or cores(), "include_dashboard": False}
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **own)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise DataError(
                f"no Ray cluster: {error}", hint="Check RAY_ADDRESS, or unset it to start one here."
            ) from error
    return ray


@contextmanager
def executor_for(kind: Literal["local", "ray"], workers: int | None, tasks: int) -> Iterator[Executor]:
    """What the configuration asks for; a single task or worker stays in this process."""
    if kind == "ray":
        yield OnRay(workers)
        return
    count = min(workers or cores(), tasks)
    if count <= 1:
        yield InProcess()
        return
    pool = LocalPool(count)
    try:
        yield pool
    finally:
        pool.close()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
