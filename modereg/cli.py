"""The command line: ``modereg pretrain | discover | finetune | evaluate | ...``.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from modereg.errors import ModeregError
from modereg.interruption import Terminated, again, interruptible
from modereg.recipes.config import (
    CompletionConfig,
    DemoConfig,
    DiscoverConfig,
    DoctorConfig,
    EvaluateConfig,
    FinetuneConfig,
    InspectConfig,
    PretrainConfig,
    ReportConfig,
)
from modereg.suggestions import did_you_mean

__all__ = ["main"]

COMMANDS: dict[str, type] = {
    "pretrain": PretrainConfig,
    "discover": DiscoverConfig,
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
    "report": ReportConfig,
    "demo": DemoConfig,
    "inspect": InspectConfig,
    "doctor": DoctorConfig,
    "completion": CompletionConfig,
}
"""What each command's options become."""

INTERRUPTED, TERMINATED = 128 + 2, 128 + 15
"""Exit statuses after SIGINT and SIGTERM, as a shell has them."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return 0, or 1 after printing one sentence about what is wrong.

    After Ctrl-C and SIGTERM the command that goes on is printed, and 130 or 143 returned.

    Args:
        arguments: of the command line; None reads the process's own.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if given and not given[0].startswith("-") and given[0] not in COMMANDS:
        known, hint = ", ".join(COMMANDS), did_you_mean(given[0], COMMANDS)
        print(f"modereg: There is no command {given[0]!r}, only {known}.{hint}", file=sys.stderr)
        return 2
    config = _parse(given)
    with interruptible():
        try:
            return _execute(config)
        except ModeregError as error:
            print(f"modereg: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt as interruption:
            _explain_interruption(config, given)
            return TERMINATED if isinstance(interruption, Terminated) else INTERRUPTED


def _parse(given: list[str]) -> Any:
    if os.environ.get("NO_COLOR") or not sys.stderr.isatty():
        tyro._experimental_options["ansi_codes"] = False
    kinds = [Annotated[kind, tyro.conf.subcommand(name)] for name, kind in COMMANDS.items()]
    command: Any = Union[tuple(kinds)]  # noqa: UP007  (made of a list)
    return tyro.cli(command, prog="modereg", args=given, config=(tyro.conf.OmitSubcommandPrefixes,))


def _execute(config: Any) -> int:
    """Run a command and print what it found."""
    if isinstance(config, CompletionConfig):
        _parse(["--tyro-print-completion", config.shell])
    if isinstance(config, DoctorConfig):
        from modereg.doctor import doctor

        return doctor(config)
    result = _run(config)
    if isinstance(config, InspectConfig):
        from modereg.recipes.inspect_table import table

        print(table(result))
    elif not isinstance(config, DemoConfig):
        print(json.dumps(_short(result), indent=2))
    return 0


def _run(config: Any) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # for module:factory of the folder one works in
    if isinstance(config, PretrainConfig):
        from modereg.recipes.pretrain import pretrain

        return pretrain(config)
    if isinstance(config, DiscoverConfig):
        from modereg.recipes.discover import discover

        return _with_page(discover(config), config)
    if isinstance(config, FinetuneConfig):
        from modereg.recipes.finetune import finetune

        return _with_page(finetune(config), config)
    if isinstance(config, EvaluateConfig):
        from modereg.recipes.evaluate import evaluate

        return evaluate(config)
    if isinstance(config, InspectConfig):
        from modereg.recipes.inspect_base import inspect_base

        return inspect_base(config)
    if isinstance(config, ReportConfig):
        from modereg.commands.report import report

        return report(config)
    from modereg.commands.demo import demo

    return demo(config)


def _with_page(result: dict[str, Any], config: DiscoverConfig | FinetuneConfig) -> dict[str, Any]:
    """Draw the run's pictures, and add where they are."""
    from modereg.commands.report import report_run

    return result | {"page": str(report_run(config))}


def _explain_interruption(config: Any, given: list[str]) -> None:
    resume = hasattr(config, "resume")
    then = "To begin again:"
    if resume or isinstance(config, DemoConfig):
        then = f"the run in {config.out} is kept. To go on:"
    print(f"\nmodereg: interrupted; {then}\n{again(given, resume=resume)}", file=sys.stderr)


def _short(value: Any) -> Any:
    """Leave out long lists, which are in the run folder."""
    if isinstance(value, dict):
        return {key: _short(entry) for key, entry in value.items() if not _is_long(entry)}
    return value


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 4


if __name__ == "__main__":
    sys.exit(main())
