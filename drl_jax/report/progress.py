"""The line that says how far a training run is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """Measures the speed since the last line, and the time left at the mean speed since `start`.

    Args:
      num_steps: the last step.
      batch_size: examples per step.
    """

    def __init__(self, num_steps: int, batch_size: int):
        self._num_steps, self._batch_size = num_steps, batch_size
        self.start(0)

    def start(self, step: int) -> None:
        """Starts the clock. Call it after the first step, whose compilation would change the mean."""
        self._first = self._last = step
        self._start = self._then = time.monotonic()
        self._paused = 0.0

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Stops the clock inside this context."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - began

    def speed(self, step: int) -> tuple[float, float]:
        """Returns (steps per second since the last call, seconds left)."""
        now = time.monotonic() - self._paused
        steps_per_second = (step - self._last) / max(now - self._then, 1e-9)
        mean = (step - self._first) / max(now - self._start, 1e-9)
        self._last, self._then = step, now
        return steps_per_second, (self._num_steps - step) / max(mean, 1e-9)

    def line(self, step: int, loss: float, steps_per_second: float, left: float) -> str:
        """Makes the line; `left` is in seconds."""
        minutes, seconds = divmod(round(left), 60)
        hours, minutes = divmod(minutes, 60)
        clock = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
        return (
            f"step {step}/{self._num_steps}  loss {loss:.4g}  {steps_per_second:.3g} steps/s  "
            f"{steps_per_second * self._batch_size:.3g} examples/s  {clock} left"
        )
