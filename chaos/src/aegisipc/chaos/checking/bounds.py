"""What a run is allowed: how long after healing, how much memory, how many findings are told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of what still counts as well.

    ``clock_offset_ns`` is the server's time less the time of the evidence, known to ``clock_error_ns``;
    without it nothing of the log is compared with the evidence by time. ``recovery_s`` is how long after
    healing (or after its deadline, if that was later) a call may take to its outcome, and a node until it
    serves. ``slack_s`` is what may pass between a decision and what follows from it: a deadline, a pause, a
    timeout is not held against a process that was that near. ``attempts`` is how often the policies of this
    run let a call begin, if that is known. Memory is judged of processes with ``memory_samples`` samples over
    ``memory_span_s``, without their first ``memory_warm_up`` (a share of the time): it may rise by no more
    than ``memory_slope`` bytes a second, unless all of that is less than ``memory_growth`` bytes.
    ``findings`` are told of each invariant; further ones are counted.
    """

    recovery_s: float = 30.0
    clock_offset_ns: int | None = None
    clock_error_ns: int = 50_000_000
    slack_s: float = 0.5
    attempts: int | None = None
    memory_samples: int = 20
    memory_span_s: float = 20.0
    memory_warm_up: float = 0.25
    memory_slope: float = 256 * 1024
    memory_growth: int = 48 << 20
    findings: int = 50


DEFAULT_BOUNDS = Bounds()
