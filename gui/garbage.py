"""Cyclic garbage is collected on the window's thread alone.

Python collects on whichever thread happens to allocate. Widgets in a reference cycle would then
die on the model thread, and Qt ends the process (tests/gui/test_garbage.py shows it).
"""

import gc
import time

from PySide6.QtCore import QObject, QTimer

INTERVAL_MS = 1000
FULL_EVERY = 10
SLOW_SECONDS = 0.05


class WindowCollector(QObject):
    """Stands in for Python's automatic collection while another thread is running."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._was_enabled = False
        self._timer = QTimer(self, interval=INTERVAL_MS)
        self._timer.timeout.connect(self.collect)

    def start(self) -> None:
        """Take over from Python."""
        if not self._timer.isActive():
            self._was_enabled = gc.isenabled()
            gc.disable()
            self._timer.start()

    def stop(self) -> None:
        """Hand back to Python."""
        if self._timer.isActive():
            self._timer.stop()
            if self._was_enabled:
                gc.enable()

    def collect(self) -> None:
        """Collect the oldest generation that is due, by Python's own thresholds."""
        # A threshold of 0 leaves a generation out, which newer Pythons do with the last one.
        due = [
            generation
            for generation, (count, threshold) in enumerate(
                zip(gc.get_count(), gc.get_threshold(), strict=True)
            )
            if count > (threshold or FULL_EVERY)
        ]
        if not due:
            return
        started = time.perf_counter()
        gc.collect(max(due))
        if time.perf_counter() - started > SLOW_SECONDS:
            # What survived is torch's own modules: never looked at again, or the window stutters.
            gc.freeze()
