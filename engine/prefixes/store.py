"""Values kept from one pass to the next, within a budget of bytes."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Entry(Generic[T]):
    value: T
    bytes: int
    worth: float
    round: int


class Store(Generic[T]):
    """What was used in the current round stays; of the rest the oldest goes first.

    A round is one run over a data set. What is used in it never makes room for more of the same:
    a run over more than fits would else drop each value just before it is asked for again.

    Attributes:
        bytes: that are held.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._entries: dict[tuple[Hashable, Hashable], _Entry[T]] = {}
        self._keys: dict[Hashable, set[Hashable]] = {}
        self._round = 0
        self.bytes = 0

    @property
    def budget(self) -> int:
        """The most bytes that are held."""
        return self._budget

    def next_round(self) -> None:
        """Start another round."""
        self._round += 1

    def keys(self, group: Hashable) -> Iterator[Hashable]:
        """Keys of the values of that group."""
        return iter(tuple(self._keys.get(group, ())))

    def get(self, group: Hashable, key: Hashable) -> T | None:
        """The value, which counts as used."""
        entry = self._entries.get((group, key))
        if entry is None:
            return None
        entry.round = self._round
        return entry.value

    def fits(self, size: int) -> bool:
        """Whether there is room for that many bytes more, if need be in the place of older ones."""
        old = sum(one.bytes for one in self._entries.values() if one.round < self._round)
        return self.bytes - old + size <= self._budget

    def put(self, group: Hashable, key: Hashable, value: T, size: int, worth: float) -> None:
        """Keep the value if there is room.

        Args:
            size: in bytes.
            worth: work that it saves; of what is equally old, what saves least for its bytes goes
                first.
        """
        self.drop(group, key)
        if not self.fits(size):
            return
        while self.bytes + size > self._budget:
            self.drop(*min(self._entries, key=self._use))
        self._entries[group, key] = _Entry(value, size, worth, self._round)
        self._keys.setdefault(group, set()).add(key)
        self.bytes += size

    def drop(self, group: Hashable, key: Hashable) -> None:
        """Forget the value."""
        entry = self._entries.pop((group, key), None)
        if entry is not None:
            self.bytes -= entry.bytes
            self._keys[group].discard(key)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._keys.clear()
        self.bytes = 0

    def _use(self, place: tuple[Hashable, Hashable]) -> tuple[int, float]:
        entry = self._entries[place]
        return entry.round, entry.worth / max(entry.bytes, 1)
