from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modereg.commands.workers import run_jobs
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


PARENT = """
import sys, time
from collections.abc import Callable
from pathlib import Path
from modereg.commands.workers import run_jobs
from tests.commands.test_workers import stay

jobs = [(name, stay, Path(sys.argv[1])) for name in ("one", "two")]
run_jobs(jobs, 2, time.perf_counter())
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """SIGKILL leaves the parent no time to end anything."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        cwd=Path(__file__).parents[2],
    )
    try:
        wait(lambda: len(list(tmp_path.iterdir())) == 2)
        workers = [int(path.name) for path in tmp_path.iterdir()]
        assert all(map(works, workers))
        parent.kill()
        parent.wait()
        wait(lambda: not any(map(works, workers)))
    finally:
        parent.kill()
        parent.wait()


def wait(until: Callable[[], bool], seconds: float = 100.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.02)


def works(process: int) -> bool:
    """Whether a process runs; one that ended and is waited for by nobody does not."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
