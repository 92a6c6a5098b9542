"""No tensor, index or generator is made on the CPU in a function that is given tensors.

Read from the source: a fake accelerator sees only what a test runs through.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "modereg"
MAKERS = {
    "arange",
    "empty",
    "eye",
    "full",
    "linspace",
    "logspace",
    "ones",
    "rand",
    "randint",
    "randn",
    "randperm",
    "tensor",
    "zeros",
}


def made_on_the_cpu(source: str) -> Iterator[tuple[str, str, int]]:
    """Yield function, call and line of what is made without a device, or forgets a generator."""
    for scope, node in _calls(ast.parse(source), ""):
        name = _torch_name(node.func)
        given = {word.arg for word in node.keywords}
        if name in MAKERS and not given & {"device", None}:
            yield scope, f"torch.{name}", node.lineno
        if name == "Generator" and not node.args and "device" not in given:
            yield scope, "torch.Generator", node.lineno
        if name == "random.fork_rng" and _is_empty_list(node):
            yield scope, "fork_rng(devices=[])", node.lineno


def _calls(node: ast.AST, scope: str) -> Iterator[tuple[str, ast.Call]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield from _calls(child, f"{scope}.{child.name}".lstrip("."))
            continue
        if isinstance(child, ast.Call):
            yield scope, child
        yield from _calls(child, scope)


def _torch_name(function: ast.expr) -> str:
    parts = []
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    return (
        ".".join(reversed(parts))
        if isinstance(function, ast.Name) and (function.id == "torch")
        else ""
    )


def _is_empty_list(node: ast.Call) -> bool:
    values = [word.value for word in node.keywords if word.arg == "devices"]
    return any(isinstance(value, ast.List) and not value.elts for value in values)


FOLDERS = {
    "ddiffpg": "learning from scratch is on the CPU, and says so",
    "report": "figures and pages are drawn from what was moved to the CPU",
    "testing": "the checks make their own small data, on the CPU, for what is checked there",
}
"""What is not read, and why."""

SEEDED = "drawn on the CPU from a seed, so that it is the same on every device; moved after that"
MOVED = "a table that its caller moves to the device and type of what it goes with"
TABLE = "figures of a summary, which are lists"
EXPERT = "an expert's demonstrations are made on the CPU"
SCRATCH = "learning from scratch is on the CPU"
REGRESSED = "small regressions in float64, of what was moved to the CPU"
ALLOWED = {
    ("commands/modes.py", "_weights"): TABLE,
    ("devices.py", "forked_generators"): "it is what keeps the generators of the others too",
    ("discovery/cluster.py", "ClusterModeDiscoverer.fit"): SEEDED,
    ("discovery/clustering.py", "_shuffled"): SEEDED,
    ("discovery/clustering.py", "_stable"): SEEDED,
    ("discovery/clustering.py", "choose_num_clusters"): SEEDED,
    ("discovery/relevance.py", "_held_out_error"): REGRESSED,
    ("discovery/relevance.py", "_of_halves"): REGRESSED,
    ("discovery/relevance.py", "decided_shares"): REGRESSED,
    ("functional/denoising.py", "denoising_clip"): MOVED,
    ("information/critics.py", "_make_critic"): "networks are made on the CPU, then moved",
    ("information/_samples.py", "batches"): SEEDED,
    ("information/_samples.py", "split"): SEEDED,
    ("information/critics.py", "_validate"): "sums up numbers that were moved to the CPU",
    ("information/critics.py", "estimate_information"): SEEDED,
    ("metrics.py", "success_table"): TABLE,
    ("modes.py", "Mode.draw"): "drawn by a prior, whose probabilities are on the CPU; then moved",
    ("noise_bases.py", "cosine_basis"): MOVED,
    ("noise_bases.py", "response_basis"): SEEDED,
    ("objectives/chain.py", "ChainPPOLoss._schedules"): MOVED,
    ("paths.py", "Trace.paths"): "what was recorded lies on the CPU, for pictures",
    ("policies/flow.py", "FlowPolicy.denoising"): MOVED,
    ("priors/_make.py", "prior_from_config"): "probabilities are kept on the CPU, in float64",
    ("priors/continuous.py", "NormalPrior._distribution"): "for a number, the entropy",
    ("learners/base.py", "Problem.make_step_residual"): "networks are made on the CPU, then moved",
    ("recipes/from_scratch.py", "Judge.judge"): SCRATCH,
    ("recipes/from_scratch.py", "Judge.play"): SCRATCH,
    ("recipes/pretrain.py", "chunks_of"): EXPERT,
    ("recipes/pretrain.py", "pretrain_steps"): "indices into demonstrations, which are on the CPU",
    ("tasks/avoid.py", "route_pay"): MOVED,
    ("tasks/avoid_expert.py", "_draw_lanes"): EXPERT,
    ("tasks/experts.py", "assign_modes"): EXPERT,
    ("tasks/experts.py", "demonstrate"): EXPERT,
    ("tasks/gaussian_mixture.py", "lead_to_goals"): EXPERT,
    ("tasks/gaussian_mixture.py", "goal_pay"): MOVED,
    ("tasks/visual/env.py", "route_pay"): MOVED,
    ("tasks/visual/words.py", "WordTokenizer.__call__"): "tokens of texts, moved by the policy",
}
"""Functions, with what is within them, that may make tensors on the CPU, each with its reason."""


def _found() -> Iterator[tuple[str, str, str]]:
    """Yield file, function and what it makes; constructors make modules, which are moved later."""
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name.split("/")[0] in FOLDERS:
            continue
        for scope, call, line in made_on_the_cpu(path.read_text()):
            if not scope.endswith("__init__"):
                yield name, scope, f"{call}, line {line}"


def _allowed(file: str, scope: str) -> tuple[str, str] | None:
    for name, function in ALLOWED:
        if name == file and (scope == function or scope.startswith(f"{function}.")):
            return name, function
    return None


def test_nothing_is_made_on_the_cpu_where_a_device_is_known() -> None:
    wrong = [found for found in _found() if _allowed(*found[:2]) is None]
    assert not wrong, f"give device=, or a reason in ALLOWED: {wrong}"


def test_every_exception_is_still_needed() -> None:
    used = {_allowed(file, scope) for file, scope, _ in _found()}
    assert set(ALLOWED) <= used, f"remove from ALLOWED: {sorted(set(ALLOWED) - used)}"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("torch.arange(3)", True),
        ("torch.arange(3, device=x.device)", False),
        ("torch.arange(3, **options)", False),
        ("torch.randint(3, (2,), generator=g)", True),
        ("torch.zeros_like(x)", False),
        ("x.new_zeros(3)", False),
        ("torch.Generator().manual_seed(0)", True),
        ("torch.Generator(x.device)", False),
        ("torch.random.fork_rng(devices=[])", True),
        ("torch.random.fork_rng(devices=[x.device])", False),
        ("[torch.ones(2) for _ in x]", True),
        ("np.zeros(3)", False),
    ],
)
def test_what_is_found(line: str, found: bool) -> None:
    source = f"def f(x, g, options):\n    def inner():\n        return {line}\n"
    scopes = [scope for scope, _, _ in made_on_the_cpu(source)]
    assert scopes == (["f.inner"] if found else [])
