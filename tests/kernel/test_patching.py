"""The patches that are shipped: each has its reason, is used, and fits Debian's source."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hyperbuild.converter.errors import ContentError, UnavailableError
from hyperbuild.converter.progress import QUIET
from hyperbuild.kernel import patching
from hyperbuild.kernel.kconfig import PROFILES, Profile
from hyperbuild.kernel.patching import PATCHES, apply_patches, load_patches
from hyperbuild.kernel.toolchain import Make


@pytest.mark.parametrize("path", sorted(PATCHES.iterdir()), ids=lambda path: path.stem)
def test_a_patch_says_what_it_does_and_a_profile_has_it(path: Path) -> None:
    header = path.read_text().partition("\n--- a/")[0].splitlines()
    assert header[0].endswith(".")
    assert header[1] == ""
    assert any(word in path.read_text() for word in ("Buys", "Costs"))
    assert any(path.stem in profile.patches for profile in PROFILES.values())


def test_all_patches_of_a_profile_fit_together(linux_tree: Path, tmp_path: Path) -> None:
    patches = load_patches(PROFILES["dax"])
    touched = {
        line.removeprefix("+++ b/")
        for patch in patches
        for line in patch.diff.splitlines()
        if line.startswith("+++ b/")
    }
    for name in (*touched, "Makefile"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(linux_tree / name, tmp_path / "tree" / name)
    make = Make(tmp_path / "tree", tmp_path / "log", tmp_path)
    apply_patches(tmp_path / "tree", patches, make, QUIET)
    for name in touched:
        assert (tmp_path / "tree" / name).read_text() != (linux_tree / name).read_text()


def test_a_patch_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patching, "PATCHES", tmp_path)
    profile = Profile("x", "", (), ("odd",))
    with pytest.raises(UnavailableError, match=r"odd\.patch"):
        load_patches(profile)
    (tmp_path / "odd.patch").write_text("Change something.\n")
    with pytest.raises(ContentError, match=r"odd\.patch has no diff"):
        load_patches(profile)
