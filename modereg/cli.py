"""The command line: ``modereg pretrain | discover | finetune | evaluate | ...``.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from modereg.arguments import COMMANDS, parse
from modereg.errors import ModeregError
from modereg.interruption import Terminated, again, interruptible
from modereg.lazy import optional
from modereg.recipes.config import (
    CompletionConfig,
    DemoConfig,
    DiscoverConfig,
    DoctorConfig,
    EvaluateConfig,
    ExportConfig,
    FinetuneConfig,
    FromScratchConfig,
    InspectConfig,
    ModesConfig,
    PretrainConfig,
    ReportConfig,
    SweepConfig,
)
from modereg.suggestions import did_you_mean

__all__ = ["main"]

REPORT_EXTRA = "modereg[report]"

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
    config = None
    with interruptible():
        try:
            config = parse(given)
            return _execute(config)
        except (ModeregError, OSError) as error:
            return _explain(error)
        except KeyboardInterrupt as interruption:
            _explain_interruption(config, given)
            return TERMINATED if isinstance(interruption, Terminated) else INTERRUPTED


def _explain(error: Exception) -> int:
    """Print one sentence about what is wrong."""
    if isinstance(error, BrokenPipeError):  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    print(f"modereg: {error}", file=sys.stderr)
    return 1


def _execute(config: Any) -> int:
    """Run a command and print what it found."""
    if isinstance(config, CompletionConfig):
        parse(["--tyro-print-completion", config.shell])
    if isinstance(config, DoctorConfig):
        from modereg.doctor import doctor

        return doctor(config)
    result = _run(config)
    if isinstance(config, InspectConfig):
        from modereg.recipes.inspect_table import table

        print(table(result))
    elif isinstance(config, ModesConfig):
        from modereg.commands.modes import table as modes_table

        print(modes_table(result))
    elif not isinstance(config, DemoConfig | SweepConfig):
        print(json.dumps(_short(result), indent=2))
    return 0


def _run(config: Any) -> dict[str, Any]:
    os.environ.setdefault("RL_LOGGING_LEVEL", "WARNING")  # TorchRL tells of each buffer it makes

    import torch

    torch.set_num_threads(1)
    if isinstance(config, PretrainConfig | FromScratchConfig | DiscoverConfig | FinetuneConfig):
        from modereg.recipes import follow

        if getattr(config, "page", False):  # before hours of training
            for library in ("matplotlib", "jinja2"):
                optional(library, "The page at the end (--no-page leaves it out)", REPORT_EXTRA)
        summary: dict[str, Any] = getattr(follow, _name(config).replace("-", "_"))(config)
        if getattr(config, "page", False):
            from modereg.commands.report import report_run

            summary = summary | {"page": str(report_run(config))}  # type: ignore[arg-type]
        return summary
    if isinstance(config, EvaluateConfig):
        from modereg.recipes.evaluate import evaluate

        return evaluate(config)
    if isinstance(config, InspectConfig):
        from modereg.recipes.inspect_base import inspect_base

        return inspect_base(config)
    if isinstance(config, ModesConfig | ExportConfig):
        from modereg.commands import modes

        return modes.export(config) if isinstance(config, ExportConfig) else modes.modes(config)
    if isinstance(config, SweepConfig):
        from modereg.commands.sweep import sweep

        return sweep(config)
    if isinstance(config, ReportConfig):
        from modereg.commands.report import report

        return report(config)
    from modereg.commands.demo import demo

    return demo(config)


def _name(config: Any) -> str:
    return next(name for name, kind in COMMANDS.items() if kind is type(config))


def _explain_interruption(config: Any, given: list[str]) -> None:
    if config is None:
        print("\nmodereg: interrupted before anything was done", file=sys.stderr)
        return
    resume = hasattr(config, "resume")
    then = "To begin again:"
    if resume or isinstance(config, DemoConfig):
        then = f"the run in {config.out} is kept. To go on:"
    print(f"\nmodereg: interrupted; {then}\n{again(given, resume=resume)}", file=sys.stderr)


def _short(value: Any) -> Any:
    """Leave out tables and long lists, which are in the run folder."""
    if isinstance(value, dict):
        return {key: _short(part) for key, part in value.items() if not _is_long(part)}
    return value


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and (len(value) > 4 or any(isinstance(v, list) for v in value))


if __name__ == "__main__":
    sys.exit(main())
