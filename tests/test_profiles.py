"""Each kernel profile, booted: what hyperstart counts on, and what the largest adds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hyperbuild.kernel.kconfig import PROFILES, dropped, load_profile, parse_config
from tests.support.images import image

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.conftest import KernelOf, RunCli

pytestmark = pytest.mark.boot

#: Stops a process by its cgroup, waits until it stands, and lets it go on.
FREEZE = """
set -e
mkdir -p /tmp/groups
mount -t cgroup2 none /tmp/groups
mkdir /tmp/groups/app
cd /tmp/groups/app
sleep 1000 &
echo $! > cgroup.procs
for wish in 1 0; do
    echo $wish > cgroup.freeze
    until grep -q "frozen $wish" cgroup.events; do sleep 0.01; done
    echo "frozen $wish"
done
kill $!
"""

#: What the largest profile shows of itself: its configuration, then what its parts put into /proc.
LOOK = """
set -e
mkdir -p /tmp
zcat /proc/config.gz > /tmp/config
wc -l < /tmp/config
cat /tmp/config
mkdir -p /tmp/groups
mount -t cgroup2 none /tmp/groups
cat /tmp/groups/cgroup.controllers
cut -f2 /proc/filesystems | tr '\\n' ' '
echo
test -e /proc/net/if_inet6
test -e /proc/net/ip_tables_names
unshare -U true
"""


def run_script(
    run_cli: RunCli, cache: Path, profile: str, script: str
) -> subprocess.CompletedProcess[str]:
    source = f"oci:{image('busybox', cache)}"
    words = ("boot", "--timeout", "120", "--profile", profile, source, "sh", "-c", script)
    return run_cli(*words)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_cgroup_is_frozen_and_thawed(
    profile: str, kernel_of: KernelOf, run_cli: RunCli, test_cache: Path
) -> None:
    kernel_of(profile)
    done = run_script(run_cli, test_cache, profile, FREEZE)
    assert (done.returncode, done.stdout) == (0, "frozen 1\nfrozen 0\n"), done.stderr


def test_full_boots_with_all_that_it_promises(
    kernel_of: KernelOf, run_cli: RunCli, test_cache: Path
) -> None:
    kernel_of("full")
    done = run_script(run_cli, test_cache, "full", LOOK)
    assert done.returncode == 0, done.stderr
    count, *lines = done.stdout.splitlines()
    config, (controllers, filesystems) = lines[: int(count)], lines[int(count) :]
    assert dropped(load_profile("full"), parse_config("\n".join(config))) == []
    wanted = {"cpuset", "cpu", "io", "memory", "hugetlb", "pids"}
    assert wanted <= set(controllers.split())
    mounted = {"erofs", "ext4", "xfs", "btrfs", "vfat", "exfat", "iso9660", "squashfs", "overlay"}
    mounted |= {"fuse", "virtiofs", "9p", "nfs4", "tmpfs", "hugetlbfs", "bpf"}
    assert mounted <= set(filesystems.split())
