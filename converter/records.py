"""Frozen data for what a boot loads, at the price of a plain class.

``dataclass`` writes five functions for each class and compiles them, which takes 5 M instructions
a class, and the modules it needs for that take 70 M: two thirds of what a boot did before it
started the hypervisor. So the rooms that a boot goes through declare Records; all others declare
frozen dataclasses, which are faster once they are there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, dataclass_transform

if TYPE_CHECKING:
    from typing import Self


class _RecordType(type):
    """Makes a slot of each annotated name, and keeps the values given there as defaults."""

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> _RecordType:
        fields = tuple(namespace.get("__annotations__", ()))
        defaults = {field: namespace.pop(field) for field in fields if field in namespace}
        namespace |= {"__slots__": fields, "__match_args__": fields, "_defaults": defaults}
        return super().__new__(cls, name, bases, namespace)


@dataclass_transform(frozen_default=True)
class Record(metaclass=_RecordType):
    """A base of classes that are what ``dataclass(frozen=True, slots=True)`` makes of theirs.

    Fields are the annotated names of the class itself: records do not extend one another. As
    nothing is copied, a default is a value that can't be changed.
    """

    if TYPE_CHECKING:
        __match_args__: tuple[str, ...]
        _defaults: dict[str, Any]

    def __init__(self, *values: Any, **named: Any) -> None:
        fields = self.__match_args__
        placed = dict(zip(fields, values, strict=False))
        given = {**self._defaults, **placed, **named}
        if len(values) > len(fields) or placed.keys() & named or given.keys() != set(fields):
            wrong = sorted((placed.keys() & named) | (given.keys() ^ set(fields)))
            raise TypeError(f"{type(self).__name__} takes {fields}, each once: not so {wrong}")
        for field, value in given.items():
            object.__setattr__(self, field, value)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and their values."""
        return dict(zip(self.__match_args__, self._all(), strict=True))

    def replace(self, **changes: Any) -> Self:
        """Return a record of the same class, with changes to some of its fields."""
        return type(self)(**{**self.as_dict(), **changes})

    def _all(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field) for field in self.__match_args__)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._all() == self._all()

    def __hash__(self) -> int:
        return hash(self._all())

    def __repr__(self) -> str:
        pairs = (f"{field}={value!r}" for field, value in self.as_dict().items())
        return f"{type(self).__name__}({', '.join(pairs)})"

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        # A pickle would set slots one by one, which is refused.
        return type(self), self._all()

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} can't be changed: it is a record")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} can't be taken out: it is a record")
