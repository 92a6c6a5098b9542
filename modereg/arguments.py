"""The commands of modereg, and what a line of words makes of them; nothing heavy is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import field, fields, make_dataclass
from typing import Annotated, Any, Union

import tyro

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
from modereg.recipes.config.text import choices

__all__ = ["COMMANDS", "parse"]

COMMANDS: dict[str, type] = {
    "pretrain": PretrainConfig,
    "from-scratch": FromScratchConfig,
    "discover": DiscoverConfig,
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
    "sweep": SweepConfig,
    "modes": ModesConfig,
    "export": ExportConfig,
    "report": ReportConfig,
    "demo": DemoConfig,
    "inspect": InspectConfig,
    "doctor": DoctorConfig,
    "completion": CompletionConfig,
}
"""What each command's options become."""


def parse(given: Sequence[str]) -> Any:
    """Return the configuration of a command line, without the program's name.

    Raises:
        SystemExit: after it has printed what is wrong, or the help that was asked for.
        ModeregError: if options do not go together.
    """
    if os.environ.get("NO_COLOR") or not sys.stderr.isatty():
        tyro._experimental_options["ansi_codes"] = False
    kinds = COMMANDS | _with_choices(given[0] if given else "")
    named = [Annotated[kind, tyro.conf.subcommand(name)] for name, kind in kinds.items()]
    command: Any = Union[tuple(named)]  # noqa: UP007  (made of a list)
    config = tyro.cli(
        command, prog="modereg", args=given, config=(tyro.conf.CascadeSubcommandArgs,)
    )
    original = COMMANDS[next(name for name, kind in kinds.items() if kind is type(config))]
    values = {entry.name: getattr(config, entry.name) for entry in fields(original)}
    return original(**values)


def _with_choices(command: str) -> dict[str, Any]:
    """Return a command whose options depend on choices, with sub-commands for each.

    ``modereg finetune sac bound --balance.share 0.8``: an option that what is chosen does not read
    is refused by the parser.
    """
    chosen = {"finetune": ("learner", "balance"), "discover": ("method",)}.get(command)
    if chosen is None:
        return {}
    kind = COMMANDS[command]
    made = make_dataclass(
        kind.__name__,
        [_choice(kind, option) for option in chosen],
        bases=(kind,),
        namespace={"__doc__": kind.__doc__},
        frozen=True,
    )
    return {command: made}


def _choice(kind: type, option: str) -> tuple[str, Any, Any]:
    """Return an option of a command as a field of which each kind is a sub-command."""
    named = [
        Annotated[part, tyro.conf.subcommand(name, prefix_name=False)]
        for name, part in choices(option).items()
    ]
    usual = next(entry.default for entry in fields(kind) if entry.name == option)
    of_them: Any = Union[tuple(named)]  # noqa: UP007
    return option, of_them, field(default=usual)
