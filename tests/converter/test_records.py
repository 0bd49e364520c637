"""Records are what frozen dataclasses are, to those who make and compare them."""

import copy

import pytest

from hyperbuild.converter.records import Record


class Point(Record):
    """A field without default, and one with."""

    x: int
    y: int = 0

    @property
    def sum(self) -> int:
        return self.x + self.y


class Other(Record):
    x: int
    y: int = 0


def test_fields_come_by_place_and_by_name_and_by_default():
    assert Point(1, 2) == Point(1, y=2) == Point(y=2, x=1)
    assert Point(1) == Point(1, 0)
    assert Point(1, 2).sum == 3


@pytest.mark.parametrize(
    ("values", "named"),
    [((), {}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((1,), {"z": 1}), ((), {"y": 1})],
)
def test_every_field_is_given_once(values, named):
    with pytest.raises(TypeError, match="Point takes"):
        Point(*values, **named)


def test_a_record_cannot_be_changed():
    point = Point(1)
    with pytest.raises(AttributeError, match="x can't be changed"):
        point.x = 2
    with pytest.raises(AttributeError):
        point.z = 2
    with pytest.raises(AttributeError):
        del point.x
    assert point.replace(y=5) == Point(1, 5)
    assert point == Point(1)


def test_equal_records_are_one_in_a_set_and_other_classes_are_others():
    assert len({Point(1), Point(1), Point(2)}) == 2
    assert Point(1) != Other(1)
    assert Point(1) != (1, 0)


def test_it_shows_itself_as_it_was_written():
    assert repr(Point(1)) == "Point(x=1, y=0)"
    assert Point(1).as_dict() == {"x": 1, "y": 0}
    match Point(3, 4):
        case Point(x, y):
            assert (x, y) == (3, 4)


def test_copies_are_equal():
    point = Point(3, 4)
    assert copy.deepcopy(point) == copy.copy(point) == point
