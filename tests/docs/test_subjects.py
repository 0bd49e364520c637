"""The pages of one subject each: what they have one type works, word for word."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.docs.pages import pages_of_commands

if TYPE_CHECKING:
    from tests.docs.conftest import Follow

pytestmark = pytest.mark.boot


@pytest.mark.parametrize("page", pages_of_commands(are_guides=False))
def test_its_commands_work(page: str, follow: Follow) -> None:
    follow(page)
