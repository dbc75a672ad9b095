"""Cyclic garbage is collected on the window's thread alone.

Python collects on whichever thread happens to allocate. Widgets in a reference cycle would then
die on the model thread, and Qt ends the process (tests/gui/test_garbage.py shows it).
"""

import gc

from PySide6.QtCore import QObject, QTimer

INTERVAL_MS = 1000
FULL_EVERY = 10


class WindowCollector(QObject):
    """Stands in for Python's automatic collection while another thread is running."""

    _settled = False  # of the process, as Python's collector is

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
        if due:
            gc.collect(max(due))

    def settle(self) -> None:
        """Once, when the first work is done: leave what is there now out of later collections.

        It is torch's modules for the most part, and a quarter of a second of looking in vain each
        time. A full collection goes before, so that no garbage is kept.
        """
        if not WindowCollector._settled:
            WindowCollector._settled = True
            gc.collect()
            gc.freeze()
