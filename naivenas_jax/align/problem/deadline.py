"""When the time that a user allows is over."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

#: Seconds that a solver may take where there is no limit.
_UNLIMITED = 1e9


class StoppedError(Exception):
    """The time limit struck. Internal: `solve` turns it into what is known by then.

    Attributes:
      point: what the solver had found, if anything; unchecked, and not to be trusted before it is.
      bound: no cost can be lower than this.
    """

    def __init__(self, point: Float[np.ndarray, " columns"] | None = None, bound: float = -np.inf):
        super().__init__("the time limit struck")
        self.point, self.bound = point, bound


@dataclass(frozen=True)
class Deadline:
    """The moment at which the time of a whole call is over, however many problems it solves.

    Attributes:
      at: a moment of the monotonic clock, in seconds; None: never.

    >>> Deadline().left is None, Deadline.after(0.0).left, Deadline.after(60.0).left > 50
    (True, 0.0, True)
    """

    at: float | None = None

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """The moment so many seconds from now; None: never."""
        if seconds is None:
            return cls()
        import cvxpy  # noqa: F401  imported when first needed; a short limit is not to be spent on that

        return cls(time.monotonic() + seconds)

    @property
    def left(self) -> float | None:
        """The seconds until then, at least 0; None: without limit."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether no time is left."""
        return self.left == 0.0

    def sooner(self, seconds: float) -> Deadline:
        """The moment so many seconds before this one: what comes after it takes so long."""
        return self if self.at is None else Deadline(self.at - seconds)

    def remaining(self) -> float:
        """The seconds until then, for a solver; raises `StoppedError` if none are left."""
        left = self.left
        if left == 0.0:
            raise StoppedError
        return _UNLIMITED if left is None else left


#: Without a limit of time.
NEVER = Deadline()
