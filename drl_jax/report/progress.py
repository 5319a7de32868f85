"""The line that tells how far a run is."""

import time


class Progress:
    """Speed since the last line, and the time left at the mean speed since the start."""

    def __init__(self, num_steps: int, batch_size: int):
        self._num_steps, self._batch_size = num_steps, batch_size
        self.start(0)

    def start(self, step: int) -> None:
        """From here on time counts: after the first step, whose compilation would spoil the mean."""
        self._first = self._last = step
        self._start = self._then = time.monotonic()
        self._paused = 0.0

    def pause(self) -> "_Pause":
        """A context whose time (evaluation, compilation of it) does not count as training."""
        return _Pause(self)

    def speed(self, step: int) -> tuple[float, float]:
        """(steps/s, seconds left); starts the next interval."""
        now = time.monotonic() - self._paused
        steps_per_second = (step - self._last) / max(now - self._then, 1e-9)
        mean = (step - self._first) / max(now - self._start, 1e-9)
        self._last, self._then = step, now
        return steps_per_second, (self._num_steps - step) / max(mean, 1e-9)

    def line(self, step: int, loss: float, steps_per_second: float, left: float) -> str:
        minutes, seconds = divmod(round(left), 60)
        hours, minutes = divmod(minutes, 60)
        clock = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
        return (
            f"step {step}/{self._num_steps}  loss {loss:.4g}  {steps_per_second:.3g} steps/s  "
            f"{steps_per_second * self._batch_size:.3g} images/s  {clock} left"
        )


class _Pause:
    def __init__(self, progress: Progress):
        self._progress = progress

    def __enter__(self):
        self._start = time.monotonic()

    def __exit__(self, *exception):
        self._progress._paused += time.monotonic() - self._start
