"""What the user prefers, kept from one start to the next in an INI file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar, cast, get_args

from PySide6.QtCore import QByteArray, QObject, QSettings, Signal

from engine import DATAFLOWS, GROUPINGS, Dataflow, Grouping
from gui.models.energy_unit import UNIT_NAMES, UnitName

ThemeMode: TypeAlias = Literal["light", "dark", "system"]

RECENT_LIMIT: Final = 8

T = TypeVar("T", bound=str)


class Settings(QObject):
    """Typed preferences; each is written as soon as it is set.

    Args:
        path: the INI file; None for the user's own.
    """

    changed = Signal()

    def __init__(self, path: Path | None = None, parent: QObject | None = None) -> None:
        super().__init__(parent)
        if path is not None:
            self._store = QSettings(str(path), QSettings.Format.IniFormat)
        else:
            self._store = QSettings(
                QSettings.Format.IniFormat, QSettings.Scope.UserScope, "Secateur", "Secateur"
            )

    @property
    def theme_mode(self) -> ThemeMode:
        """Which theme the user wants; follows the system until they say so."""
        mode = self._store.value("theme", "system")
        return cast(ThemeMode, mode) if mode in get_args(ThemeMode) else "system"

    @theme_mode.setter
    def theme_mode(self, mode: ThemeMode) -> None:
        self._set("theme", mode)

    @property
    def measure_after_edit(self) -> bool:
        """Whether accuracy and latency are taken again after each edit."""
        return bool(self._store.value("measure_after_edit", True, type=bool))

    @measure_after_edit.setter
    def measure_after_edit(self, on: bool) -> None:
        self._set("measure_after_edit", on)

    @property
    def hardware(self) -> str:
        """Id of the description that energy is modelled on; "" for the default."""
        return str(self._store.value("hardware", ""))

    @hardware.setter
    def hardware(self, id_: str) -> None:
        self._set("hardware", id_)

    @property
    def dataflow(self) -> Dataflow:
        """How layers are laid on the hardware."""
        return self._one_of("dataflow", DATAFLOWS)

    @dataflow.setter
    def dataflow(self, dataflow: Dataflow) -> None:
        self._set("dataflow", dataflow)

    @property
    def grouping(self) -> Grouping:
        """What the parts of an energy are added up by."""
        return self._one_of("energy_grouping", tuple(GROUPINGS))

    @grouping.setter
    def grouping(self, grouping: Grouping) -> None:
        self._set("energy_grouping", grouping)

    @property
    def energy_unit(self) -> UnitName:
        """What energy is shown in."""
        return self._one_of("energy_unit", UNIT_NAMES)

    @energy_unit.setter
    def energy_unit(self, name: UnitName) -> None:
        self._set("energy_unit", name)

    @property
    def grid(self) -> str:
        """Name of the grid that CO₂ is counted by; "" while none was chosen."""
        return str(self._store.value("grid", ""))

    @grid.setter
    def grid(self, name: str) -> None:
        self._set("grid", name)

    @property
    def recent(self) -> tuple[str, ...]:
        """Models that were opened, the last one first: paths and names."""
        # QSettings gives back a list of one as a plain string, and an empty one as None.
        value = self._store.value("recent", [])
        if isinstance(value, str):
            return (value,)
        return tuple(str(source) for source in value) if isinstance(value, list) else ()

    def add_recent(self, source: str) -> None:
        """Put ``source`` on top of the recent models."""
        others = [one for one in self.recent if one != source]
        self._set("recent", [source, *others][:RECENT_LIMIT])

    def clear_recent(self) -> None:
        """Forget which models were opened."""
        self._set("recent", [])

    @property
    def geometry(self) -> QByteArray:
        """Where the window was; empty before the first time."""
        return self._bytes("geometry")

    @property
    def layout(self) -> QByteArray:
        """How the panels were arranged; empty before the first time."""
        return self._bytes("layout")

    def save_window(self, geometry: QByteArray, layout: QByteArray) -> None:
        """Keep where the window is and, unless empty, how its panels are arranged."""
        self._store.setValue("geometry", geometry)
        if not layout.isEmpty():
            self._store.setValue("layout", layout)

    def _one_of(self, key: str, choices: Sequence[T]) -> T:
        """The kept choice; the first one where there is none, or nonsense."""
        value = self._store.value(key, choices[0])
        return next((one for one in choices if one == value), choices[0])

    def _bytes(self, key: str) -> QByteArray:
        value = self._store.value(key)
        return value if isinstance(value, QByteArray) else QByteArray()

    def _set(self, key: str, value: object) -> None:
        self._store.setValue(key, value)
        self.changed.emit()
