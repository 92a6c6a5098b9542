"""Independent runs side by side, in processes that end with the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.process import BaseProcess
from typing import Any

import torch

__all__ = ["Job", "brief", "end_with", "run_jobs"]

Job = tuple[str, Callable[[Any], dict[str, Any]], Any]
"""A name, what is called, and what it is called with."""

LOOKS = 0.25
"""Seconds after which a worker looks again whether its parent is still there."""


def run_jobs(jobs: Sequence[Job], workers: int, started: float) -> list[dict[str, Any]]:
    """Run independent jobs in processes of one thread each, and print how each ended.

    Ctrl-C and SIGTERM end the workers; so does the end of this process, even by SIGKILL.

    Args:
        jobs: what to run; each returns a run's summary.
        workers: how many run side by side.
        started: ``time.perf_counter()`` of the beginning, for the times that are printed.
    """
    results: list[dict[str, Any]] = []
    others = multiprocessing.active_children()
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(os.getpid(),)
    ) as pool:
        try:
            futures = {name: pool.submit(_run_job, function, job) for name, function, job in jobs}
            for name, future in futures.items():
                results.append(future.result())
                print(f"[{time.perf_counter() - started:5.0f} s] {name}: {brief(results[-1])}")
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            _end([child for child in multiprocessing.active_children() if child not in others])
            raise
    return results


def _end(workers: Sequence[BaseProcess]) -> None:
    """End workers in the middle of their runs, each of which goes on from its checkpoint."""
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join()


def _begin(parent: int) -> None:
    """Leave Ctrl-C to the parent, which ends its workers by SIGTERM, and end without a parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()


def end_with(parent: int) -> None:
    """Wait for the end of the parent, however it came, and end at once.

    Whoever adopts an orphan has another number. A run goes on from its checkpoint.
    """
    while os.getppid() == parent:
        time.sleep(LOOKS)
    os._exit(1)


def _run_job(function: Callable[[Any], dict[str, Any]], config: Any) -> dict[str, Any]:
    torch.set_num_threads(1)
    return function(config)


def brief(result: dict[str, Any]) -> str:
    """Return what a run came to, in a line."""
    figures = result.get("sampled")
    if figures is None:
        return f"loss {result['loss']:.4f}"
    text = f"success {figures['success']:.3f}"
    if figures.get("present_modes") is None:  # no label tells them
        return text
    return (
        f"{text}, entropy {figures['entropy']:.3f}, modes present {figures['present_modes']}, "
        f"commandable {figures['commandable_modes']}"
    )
