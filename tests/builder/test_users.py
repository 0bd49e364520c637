"""USER resolved as docker does, by the image's own databases."""

from __future__ import annotations

import pytest

from hyperbuild.builder.users import resolve_user
from hyperbuild.converter.errors import NotFoundError
from hyperbuild.launcher.bundle import User

PASSWD = b"""root:x:0:0:root:/root:/bin/bash
# a comment
nginx:x:101:102:nginx:/var/cache/nginx:/sbin/nologin

short:x:500
7up:x:77:78::/home/7up:
twin:x:101:103::/home/twin:
8:x:88:88::/home/eight:
"""
GROUP = b"""root:x:0:
nginx:x:102:
adm:x:4:root,nginx
www:x:33:nginx
9:x:99:
"""


@pytest.mark.parametrize(
    ("spec", "user", "home"),
    [
        ("", User(0, 0, (4,)), "/root"),
        ("root", User(0, 0, (4,)), "/root"),
        ("nginx", User(101, 102, (4, 33)), "/var/cache/nginx"),
        ("101", User(101, 102, (4, 33)), "/var/cache/nginx"),
        ("nginx:adm", User(101, 4), "/var/cache/nginx"),
        ("nginx:12345", User(101, 12345), "/var/cache/nginx"),
        ("12345", User(12345, 0), "/"),
        ("12345:nginx", User(12345, 102), "/"),
        (":www", User(0, 33), "/root"),
        ("short", User(500, 0), "/"),
        ("7up", User(77, 78), "/home/7up"),
        # By the time HOME is set a runtime knows the number alone.
        ("twin", User(101, 103), "/var/cache/nginx"),
        # Digits are a number, also where somebody has them as a name.
        ("8", User(8, 0), "/"),
        ("088", User(88, 88), "/home/eight"),
        ("nginx:9", User(101, 9), "/var/cache/nginx"),
    ],
)
def test_every_form_of_user(spec: str, user: User, home: str) -> None:
    account = resolve_user(spec, PASSWD, GROUP)
    assert (account.user, account.home) == (user, home)


def test_an_image_without_databases() -> None:
    assert resolve_user("", b"", b"").user == User(0, 0)
    assert resolve_user("1000:1000", b"", b"").user == User(1000, 1000)


@pytest.mark.parametrize("spec", ["nobody", "nginx:nogroup", "-1", "4294967296", "٣"])
def test_names_that_are_not_there(spec: str) -> None:
    with pytest.raises(NotFoundError, match="not in the image"):
        resolve_user(spec, PASSWD, GROUP)
