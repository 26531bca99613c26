"""Asking before much is spent: what a run may take without a question, and what its user allows."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from sweeps.plan import Plan
from trainer.declaration import ConfigError

FREE_HOURS, FREE_UNKNOWN = 1.0, 50
"""Device-hours, and trials whose time is not known, that nobody is asked about."""


ALLOW = "--yes, or --max-hours H, --max-trials N (of make: YES=1, MAX_HOURS=H, MAX_TRIALS=N)"


@dataclass(frozen=True, slots=True)
class Budget:
    """``--yes``, ``--max-hours`` (device-hours) and ``--max-trials``. A limit takes the place of the question."""

    yes: bool = False
    max_hours: float | None = None
    max_trials: int | None = None

    def approve(self, plan: Plan) -> bool:
        """Whether to train what ``plan`` has left; asks where it is much and nothing was said.

        Raises ConfigError, one line, beyond a limit, and for what needs a question where nobody can answer it.
        """
        self._refuse_excess(plan)
        reasons = [] if self.yes else self._reasons(plan)
        if not reasons:
            return True
        much = f"{plan.study.name}: {' and '.join(reasons)}"
        if not sys.stdin.isatty():
            raise ConfigError(f"{much}: to train it all the same, {ALLOW}")
        print(f"{plan.study.name}: {plan.counts()}\nTime: {plan.time()}; {plan.hours()}\nDisk: {plan.disk()}")
        return _says_yes(f"That is {' and '.join(reasons)}. Train? [y/N] ")

    def _refuse_excess(self, plan: Plan) -> None:
        if self.max_trials is not None and len(plan.estimates) > self.max_trials:
            raise ConfigError(f"--max-trials {self.max_trials}: {plan.study.name} has {len(plan.estimates)} to train")
        if self.max_hours is not None and plan.unknown:
            raise ConfigError(
                f"--max-hours {self.max_hours:g}: the time of {plan.unknown} trials of {plan.study.name} is not known"
                " before one of their kind is finished: train one first (--seeds 1 and --only; of make:"
                " SEEDS=1, ONLY=...), or limit --max-trials (MAX_TRIALS)"
            )
        if self.max_hours is not None and plan.device_hours > self.max_hours:
            raise ConfigError(
                f"--max-hours {self.max_hours:g}: {plan.study.name} needs {plan.hours()} ({plan.basis()})"
            )

    def _reasons(self, plan: Plan) -> list[str]:
        reasons = []
        if self.max_hours is None and plan.device_hours > FREE_HOURS:
            reasons.append(f"{plan.hours()}, more than {FREE_HOURS:g}")
        if self.max_trials is None and plan.unknown > FREE_UNKNOWN:
            reasons.append(f"{plan.unknown} trials whose time is not known, more than {FREE_UNKNOWN}")
        if plan.needed_bytes > plan.free_bytes:
            reasons.append("more disk than is free")
        return reasons


def _says_yes(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False
