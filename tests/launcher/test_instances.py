"""VMs on disk: names, IDs, and states that are made true by whoever looks at them next."""

from __future__ import annotations

import fcntl
import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from hyperbuild.converter.errors import InputError, NotFoundError
from hyperbuild.launcher.instances import (
    CREATED,
    EXITED,
    RUNNING,
    Asked,
    Instances,
    State,
    boot_id,
    new_id,
    timestamp,
    write_state,
)


def asked(name: str = "", **changes: object) -> Asked:
    made = Asked(
        id=new_id(), name=name, image="image", command=("true",), created=timestamp(),
        boot_id=boot_id(), auto_remove=False, restart="no", log_size=1 << 20, interactive=False,
        tty=False, ports=(), bundle={}, options={},
    )  # fmt: skip
    return made.replace(**changes)


def try_name(root: Path) -> bool:
    try:
        Instances(root).create(asked("wanted"))
    except InputError:
        return False
    return True


def test_of_many_that_want_a_name_one_gets_it(tmp_path: Path) -> None:
    # Those that were made are dead by the time that others look, unless they hold their locks.
    _, lock = Instances(tmp_path).create(asked("other"))
    with ProcessPoolExecutor(8) as pool:
        got = list(pool.map(try_name, [tmp_path] * 40))
    assert sum(got) == 1
    os.close(lock)


def test_a_vm_is_found_by_its_name_or_the_beginning_of_its_id(tmp_path: Path) -> None:
    all_ = Instances(tmp_path / "deep" / "down")
    assert all_.all() == []
    first, lock = all_.create(asked("first", id="ab" + new_id()[2:]))
    second, other = all_.create(asked("abba", id="abc" + new_id()[3:]))
    assert all_.find("first") == first
    assert all_.find("abba") == second
    assert all_.find(first.asked.id) == first
    assert all_.find(second.asked.id[:20]) == second
    with pytest.raises(InputError, match="several VMs' IDs: "):
        all_.find("ab")
    with pytest.raises(NotFoundError, match="no VM is called 'nope'"):
        all_.find("nope")
    with pytest.raises(NotFoundError):
        all_.find(first.asked.id[:6], least=12)
    with pytest.raises(InputError, match="the name first is taken"):
        all_.create(asked("first"))
    assert not all_.remove(first)
    for fd in (lock, other):
        os.close(fd)
    assert first.directory.stat().st_mode & 0o777 == 0o700
    assert all_.root.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in first.directory.iterdir()} == {0o600}


@pytest.mark.parametrize("name", ["a", "-a", "a b", "a/b", "ä1", "x" * 129, "a\n", "../x"])
def test_a_name_that_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="is not one"):
        Instances(tmp_path).create(asked(name))


def test_names_are_made_for_those_without(tmp_path: Path) -> None:
    made = [Instances(tmp_path).create(asked()) for _ in range(30)]
    assert len({one.asked.name for one, _ in made}) == 30
    for _, lock in made:
        os.close(lock)


@pytest.mark.parametrize(
    ("state", "changes", "reason"),
    [
        (State(RUNNING), {}, "its supervisor was killed, and the VM with it"),
        (State(RUNNING), {"boot_id": "another"}, "the host went down while it ran"),
        (State("restarting", exit_status=1), {}, "its supervisor was killed"),
    ],
)
def test_a_vm_without_its_supervisor_has_ended(
    tmp_path: Path, state: State, changes: dict[str, str], reason: str
) -> None:
    one, lock = Instances(tmp_path).create(asked("it", **changes))
    write_state(one.directory, state)
    (one.directory / "socket").touch()
    assert Instances(tmp_path).find("it").state.status == state.status
    os.close(lock)
    found = Instances(tmp_path).find("it").state
    assert (found.status, found.exit_status) == (EXITED, 137)
    assert found.reason.startswith(reason)
    assert found.finished
    assert not (one.directory / "socket").exists()
    assert Instances(tmp_path).remove(one)
    assert Instances(tmp_path).all() == []


@pytest.mark.parametrize(
    ("state", "changes"),
    [
        (State(CREATED), {}),
        (State(RUNNING), {"auto_remove": True}),
        (State(EXITED, 0), {"auto_remove": True}),
    ],
)
def test_what_nobody_was_told_of_or_wants_is_removed(
    tmp_path: Path, state: State, changes: dict[str, bool]
) -> None:
    one, lock = Instances(tmp_path).create(asked("it", **changes))
    write_state(one.directory, state)
    (one.directory / "log.3").touch()
    assert Instances(tmp_path).all()
    os.close(lock)
    assert Instances(tmp_path).all() == []
    assert not one.directory.exists()


def test_half_a_vm_is_swept(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "lock").touch()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "vm.json").write_text("{")
    assert Instances(tmp_path).all() == []
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_state_that_a_crash_cut_short_is_that_of_a_vm_that_ended(tmp_path: Path) -> None:
    one, lock = Instances(tmp_path).create(asked("it"))
    (one.directory / "state.json").write_text("")
    os.close(lock)
    assert Instances(tmp_path).find("it").state.status == EXITED
    assert json.loads((one.directory / "state.json").read_text())["exit_status"] == 137


def test_two_who_look_at_once_do_not_take_each_other_for_a_supervisor(tmp_path: Path) -> None:
    one, lock = Instances(tmp_path).create(asked("it"))
    write_state(one.directory, State(RUNNING))
    os.close(lock)
    with (one.directory / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert Instances(tmp_path).find("it").state.status == EXITED


def test_times_are_those_of_rfc_3339() -> None:
    assert timestamp(0) == "1970-01-01T00:00:00.000000Z"
    assert timestamp(1_250_000_999) == "1970-01-01T00:00:01.250000Z"
