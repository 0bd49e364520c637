"""What a bundle says of how to boot it: read back as written, and nothing else."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from hyperbuild.converter.errors import ContentError
from hyperbuild.launcher.bundle import Bundle
from hyperbuild.launcher.defaults import BootDefaults
from hyperbuild.launcher.expectations import Contract
from tests.launcher.support import make_files

DEFAULTS = BootDefaults(
    {"memory": "64M", "cpus": 1, "env": ["A=b"], "require-dax": True, "network": "none"},
    Contract(http=("/",), exit=None, timeout=5.5),
    ("app_exec=1s",),
)
BUNDLE = make_files().bundle.replace(boot=DEFAULTS)
DOCUMENT: dict[str, Any] = json.loads(BUNDLE.to_json())


def test_a_bundle_with_defaults_is_read_back_as_written() -> None:
    assert Bundle.from_json(BUNDLE.to_json(), "x") == BUNDLE
    bare = BUNDLE.replace(boot=DEFAULTS.replace(smoke=None))
    assert Bundle.from_json(bare.to_json(), "x") == bare


def test_a_bundle_without_them_says_nothing_of_them() -> None:
    assert "boot" not in json.loads(BUNDLE.replace(boot=None).to_json())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((), 3),
        (("version",), 2),
        (("version",), None),
        (("more",), 1),
        (("budgets",), "app_exec=1s"),
        (("budgets",), [1]),
        (("options",), []),
        (("options", "memory"), 64),
        (("options", "cpus"), True),
        (("options", "env"), {"A": "b"}),
        (("options", "env"), ["A=b", "HOME"]),
        (("options", "publish"), ["80:80"]),
        (("options", "network"), "tap"),
        (("options", "rootfs"), "nfs"),
        (("options", "privileged"), True),
        (("options", "volume"), ["/:/host"]),
        (("options", "tmpfs"), "/run"),
        (("options", "read-only"), "yes"),
        (("options", "add-host"), [1]),
        (("options", "user"), 0),
        (("smoke",), []),
        (("smoke", "port"), ["80"]),
        (("smoke", "https"), []),
    ],
)
def test_what_no_bundle_says(path: tuple[str, ...], value: object) -> None:
    document = copy.deepcopy(DOCUMENT)
    place, key = document, "boot"
    for name in path:
        place, key = place[key], name
    place[key] = value
    with pytest.raises(ContentError, match=r"bundle\.json: boot"):
        Bundle.from_json(json.dumps(document).encode(), "bundle.json")
