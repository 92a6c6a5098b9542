"""The command line: ``modereg pretrain | discover | finetune | evaluate | ...``.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from modereg.errors import ModeregError
from modereg.recipes.config import (
    DemoConfig,
    DiscoverConfig,
    DoctorConfig,
    EvaluateConfig,
    FinetuneConfig,
    InspectConfig,
    PretrainConfig,
    ReportConfig,
)

__all__ = ["main"]

Command = (
    Annotated[PretrainConfig, tyro.conf.subcommand("pretrain")]
    | Annotated[DiscoverConfig, tyro.conf.subcommand("discover")]
    | Annotated[FinetuneConfig, tyro.conf.subcommand("finetune")]
    | Annotated[EvaluateConfig, tyro.conf.subcommand("evaluate")]
    | Annotated[ReportConfig, tyro.conf.subcommand("report")]
    | Annotated[DemoConfig, tyro.conf.subcommand("demo")]
    | Annotated[InspectConfig, tyro.conf.subcommand("inspect")]
    | Annotated[DoctorConfig, tyro.conf.subcommand("doctor")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return 0, or 1 after printing one sentence about what is wrong.

    Args:
        arguments: of the command line; None reads the process's own.
    """
    config = tyro.cli(
        Command, prog="modereg", args=arguments, config=(tyro.conf.OmitSubcommandPrefixes,)
    )
    try:
        if isinstance(config, DoctorConfig):
            from modereg.doctor import doctor

            return doctor(config)
        result = _run(config)
    except ModeregError as error:
        print(f"modereg: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _explain_interruption(config)
        return 130
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
        from modereg.recipes.pictures import report

        return report(config)
    from modereg.recipes.demo import demo

    return demo(config)


def _with_page(result: dict[str, Any], config: DiscoverConfig | FinetuneConfig) -> dict[str, Any]:
    """Draw the run's pictures, and add where they are."""
    from modereg.recipes.pictures import report_run

    return result | {"page": str(report_run(config))}


def _explain_interruption(config: Any) -> None:
    if hasattr(config, "resume"):
        print(
            f"\nmodereg: interrupted; the run in {config.out} is kept. Repeat the command with "
            "--resume to go on.",
            file=sys.stderr,
        )
    else:
        print("\nmodereg: interrupted; repeat the command to go on.", file=sys.stderr)


def _short(value: Any) -> Any:
    """Leave out long lists, which are in the run folder."""
    if isinstance(value, dict):
        return {key: _short(entry) for key, entry in value.items() if not _is_long(entry)}
    return value


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 4


if __name__ == "__main__":
    sys.exit(main())
