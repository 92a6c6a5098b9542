from __future__ import annotations

from modereg.doctor.findings import Finding, table


def test_a_fault_stands_above_what_mends_it() -> None:
    findings = [
        Finding("torch", "ok", "2.13.0", ("pip", "install", "torch")),
        Finding("[wandb]", "absent", "not installed", ("pip", "install", "modereg[wandb]")),
        Finding("gpu", "wrong", "asleep", advice="wake it"),
    ]
    assert table(findings).splitlines() == [
        "ok  torch    2.13.0",
        " -  [wandb]  not installed",
        "             -> pip install 'modereg[wandb]'",
        "!!  gpu      asleep",
        "             -> wake it",
    ]


def test_only_what_is_required_and_wrong_is_fatal() -> None:
    assert Finding("a", "wrong", "", required=True).fatal
    assert not Finding("a", "wrong", "").fatal
    assert not Finding("a", "ok", "", required=True).fatal
    assert not Finding("a", "absent", "", required=True).fatal


def test_no_findings_are_no_lines() -> None:
    assert table([]) == ""
