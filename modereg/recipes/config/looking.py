"""Options of the commands that look at policies, runs and the machine, and of the demonstration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from modereg.errors import ConfigurationError
from modereg.numbers import check_numbers
from modereg.recipes.config.parts import ProgressConfig, TaskConfig

__all__ = [
    "CompletionConfig",
    "DemoConfig",
    "DoctorConfig",
    "EvaluateConfig",
    "ExportConfig",
    "InspectConfig",
    "ModesConfig",
    "ReportConfig",
    "SweepConfig",
]


@dataclass(frozen=True)
class EvaluateConfig:
    """Judge a base policy, or a run with the task, the layout and the base that it was made with.

    Attributes:
        run: run folder of ``discover`` or ``finetune``; None judges the base itself.
        base: the base policy: a folder, or ``module:factory``; None takes the run's, or
            ``runs/base`` without one.
        out: folder for ``evaluation.json``; None prints only.
        task: the task; with a run, what differs from its own: options that are left at their
            defaults are the run's.
        episodes: episodes of each evaluation.
        trust_code: follow references to code (``module:factory``) that the run's ``config.yaml``
            has; without it they must be named here again.
        device: where the policies are.
        seed: of the evaluation.
        log: what is shown meanwhile.
    """

    run: str | None = None
    base: str | None = None
    out: Path | None = None
    task: TaskConfig = TaskConfig()
    episodes: int = 4096
    trust_code: bool = False
    device: str = "cpu"
    seed: int = 12345
    log: ProgressConfig = ProgressConfig()

    def __post_init__(self) -> None:
        check_numbers(self, count=("episodes",), natural=("seed",))


@dataclass(frozen=True)
class InspectConfig:
    """Say what a base policy can do before anything is trained.

    Attributes:
        base: the base policy: a folder, or ``module:factory``.
        out: folder for ``inspection.json``; None prints only.
        task: the task.
        episodes: episodes under N(0, I), from which everything is read.
        draws: noises of which the best is played at each decision, for the predicted reach.
        seed: of everything.
        log: what is shown meanwhile.
    """

    base: str = "runs/base"
    out: Path | None = None
    task: TaskConfig = TaskConfig()
    episodes: int = 1024
    draws: int = 16
    seed: int = 12345
    log: ProgressConfig = ProgressConfig()

    def __post_init__(self) -> None:
        check_numbers(self, count=("episodes", "draws"), natural=("seed",))


@dataclass(frozen=True)
class DoctorConfig:
    """Look whether this machine has what modereg needs, and mend what can be mended.

    Attributes:
        fix: run the command that mends each fault, after asking.
        yes: do not ask.
        json: print JSON instead of a table.
    """

    fix: bool = False
    yes: bool = False
    json: bool = False


@dataclass(frozen=True)
class ReportConfig:
    """Draw finished runs on one page, side by side; runs that differ in the seed alone share lines.

    Attributes:
        runs: run folders of ``discover`` or ``finetune``, of one task on one base policy.
        out: folder of the page and its pictures; None takes the run's own, or ``runs/report``
            for several.
        trust_code: follow references to code (``module:factory``) that the runs' ``config.yaml``
            have; whoever wrote them then runs code here.
        log: what is shown meanwhile.
    """

    runs: tyro.conf.Positional[tuple[str, ...]]
    out: Path | None = None
    trust_code: bool = False
    log: ProgressConfig = ProgressConfig()


@dataclass(frozen=True)
class ModesConfig:
    """List the modes of a run; name, merge, drop or favour them in a copy, to start finetune from.

    A mode is named by the number of a code, or by the name that it was given. Edits are made in the
    order of these options.

    Attributes:
        run: run folder of ``discover`` or ``finetune``, or an edited one.
        name: what modes are called from now on: ``3=left 5=right``.
        merge: modes that show one behaviour and become one: ``left 2``. Repeat it for others.
        drop: modes that are never drawn again.
        favour: how many times as often as before modes are drawn beside the others: ``left=2``.
        out: new folder of the edited copy; needed where something is edited.
        json: file for the list as JSON.
        picture: draw the kept episodes of each mode, as ``modes.png`` in the folder.
        trust_code: follow references to code (``module:factory``) that the run's ``config.yaml``
            has, for the picture; whoever wrote them then runs code here.
    """

    run: tyro.conf.Positional[str]
    name: tuple[str, ...] = ()
    merge: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    drop: tuple[str, ...] = ()
    favour: tuple[str, ...] = ()
    out: Path | None = None
    json: Path | None = None
    picture: bool = True
    trust_code: bool = False

    def __post_init__(self) -> None:
        edited = bool(self.name or self.merge or self.drop or self.favour)
        if edited != (self.out is not None):
            raise ConfigurationError(
                "expected --out, a new folder, with what is edited (--name, --merge, --drop or "
                f"--favour), and only with it, got {'no --out' if edited else 'nothing to edit'}"
            )


@dataclass(frozen=True)
class ExportConfig:
    """Write one mode of a run, or some, as a folder that ``CommandedPolicy(base, folder)`` loads.

    Attributes:
        run: run folder of ``discover`` or ``finetune``, or an edited one.
        mode: names of the modes, or numbers of codes; the others can't be commanded there.
        out: new folder.
    """

    run: tyro.conf.Positional[str]
    mode: tuple[str, ...]
    out: Path

    def __post_init__(self) -> None:
        if not self.mode:
            raise ConfigurationError("expected the name of a mode, got none; modes lists them")


@dataclass(frozen=True)
class SweepConfig:
    """Run every method on every task with every seed, as a file says; go on where it was left.

    Attributes:
        file: YAML with ``tasks``, ``methods`` and ``seeds``; see the tutorial "Many runs".
        out: folder of all runs, the table and the pages; None takes ``runs/NAME`` of the file's
            name.
        processes: runs side by side; each takes one core.
        page: whether the runs of a task are drawn on a page at the end.
        trust_code: follow references to code (``module:factory``) that the file has; whoever wrote
            it then runs code here.
    """

    file: tyro.conf.Positional[Path]
    out: Path | None = None
    processes: int = 2
    page: bool = True
    trust_code: bool = False

    def __post_init__(self) -> None:
        check_numbers(self, count=("processes",))


@dataclass(frozen=True)
class CompletionConfig:
    """Print what makes a shell complete commands and options of modereg.

    bash: ``modereg completion bash > ~/.local/share/bash-completion/completions/modereg``;
    zsh: ``modereg completion zsh > ~/.zfunc/_modereg``, with ``fpath+=~/.zfunc`` before
    ``compinit`` in ``~/.zshrc``;
    fish: ``modereg completion fish > ~/.config/fish/completions/modereg.fish``.

    Attributes:
        shell: which one.
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]


@dataclass(frozen=True)
class DemoConfig:
    """The main job on Avoid: clone a base, fine-tune it plainly and with modereg, report.

    Attributes:
        out: folder of all runs, ``summary.json`` and the report ``index.html``.
        pay_spread: routes pay between 1 minus and 1 plus this.
        wide_spread: a second, wider spread at which the coefficient decides; None leaves it out.
        env_steps: environment steps of each method, stage 1 included.
        wide_env_steps: the same at the wider spread, longer, because forgetting takes time.
        episodes: episodes of the evaluations in the table.
        jobs: runs side by side; each takes one core.
        seed: of everything.
    """

    out: Path = Path("runs/demo")
    pay_spread: float = 0.3
    wide_spread: float | None = 0.5
    env_steps: int = 4_000_000
    wide_env_steps: int = 8_000_000
    episodes: int = 4096
    jobs: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(
            self,
            count=("env_steps", "wide_env_steps", "episodes", "jobs"),
            share=("pay_spread", "wide_spread"),
            natural=("seed",),
        )
