"""Concept drift: errors of one decision class that have risen, by labels in the order of their predictions. Pure.

ADWIN finds the change, then forgets what was before it: to its window the new errors are soon normal. People are not
served by that, so the mean before the change is kept, and the alarm holds until errors are back below it and the floor.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.monitor.adwin import Adwin
from gateway.monitor.realised import ErrorRun

ADWIN_DELTA: Final = 1e-5
"""Of one check: cuts are looked for at every 32nd error, and the family may be wrong once in five times the knob."""
LEAST_BEFORE: Final = 32
"""Errors that a mean from before a cohort needs; else the cohort's own, up to the change, stands for it."""


class Concept:
    """Errors of one decision class as they mature. Feed it each cohort once.

    Attributes:
        normal: mean of the errors before the change that fires; None = nothing fires.
    """

    def __init__(self) -> None:
        self.normal: float | None = None
        self._adwin = Adwin(ADWIN_DELTA, restart=False)

    def __repr__(self) -> str:
        return f"Concept({self._adwin!r}, normal={self.normal})"

    @property
    def text(self) -> str:
        """Errors before and now; "" = nothing fires."""
        return "" if self.normal is None else f"{self.normal:.2%} -> {self._adwin.mean:.2%}"

    def take(self, run: ErrorRun, floor: float) -> None:
        """Errors of a matured cohort. Args: floor: a rise of at least this matters."""
        before = self._adwin.mean if self._adwin.width >= LEAST_BEFORE else None
        changed = False
        for error in run.stream():
            mean = self._adwin.mean
            changed = self._adwin.update(error) or changed
            if changed and before is None:
                before = mean
        if self.normal is None and changed:
            self.normal = before
        if self.normal is not None and self._adwin.mean - self.normal < floor:
            self.normal = None

    def plain(self) -> dict[str, Any]:
        """All of it in plain values."""
        return self._adwin.plain() | {"normal": self.normal}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Become what `plain` was."""
        self._adwin.restore(plain)
        self.normal = plain.get("normal")
