from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from modereg.commands.demo import run_jobs
from modereg.interruption import Terminated, interruptible


def stay(folder: Path) -> dict[str, Any]:
    """Say who works, and work for ever."""
    (folder / str(os.getpid())).touch()
    time.sleep(600)
    return {}


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_a_signal_to_the_demonstration_ends_its_workers(
    number: signal.Signals, kind: type[BaseException], tmp_path: Path
) -> None:
    def interrupt() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=interrupt)
    sender.start()
    jobs = [(name, stay, tmp_path) for name in ("one", "two", "three")]
    with interruptible(), pytest.raises(kind) as caught:
        run_jobs(jobs, 2, time.perf_counter())
    sender.join()
    assert caught.type is kind
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert len(workers) == 2
    assert not multiprocessing.active_children()
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)
