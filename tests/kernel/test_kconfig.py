from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.converter.errors import ContentError, NotFoundError, UnavailableError
from hyperbuild.kernel.kconfig import (
    FRAGMENTS,
    PROFILES,
    Fragment,
    Option,
    configure,
    dropped,
    load_profile,
    parse_config,
    parse_fragment,
    read_fragment,
    render,
    requests,
)
from hyperbuild.kernel.toolchain import Make

if TYPE_CHECKING:
    from pathlib import Path

#: What hyperstart and the launcher count on, whatever the profile.
EVERYWHERE = ("CGROUPS", "MEMCG", "VIRTIO_BALLOON", "PAGE_REPORTING")
#: What `full` is for, each by the option without which it is not there.
ODD_WORKLOADS = (
    *("EXT4_FS", "XFS_FS", "BTRFS_FS", "VFAT_FS", "EXFAT_FS", "SQUASHFS", "ISO9660_FS", "NFS_FS"),
    *("OVERLAY_FS", "FUSE_FS", "IPV6", "NETFILTER", "NF_TABLES", "IP_NF_IPTABLES", "IP6_NF_NAT"),
    *("IO_URING", "BPF_SYSCALL", "CGROUP_BPF", "USER_NS", "PID_NS", "NET_NS"),
    *("BLK_CGROUP", "CFS_BANDWIDTH", "CPUSETS", "CGROUP_PIDS", "CGROUP_DEVICE", "CGROUP_FREEZER"),
    *("CGROUP_CPUACCT", "CGROUP_HUGETLB", "CGROUP_PERF"),
)

OPTIONS = st.builds(
    Option,
    st.from_regex(r"CONFIG_[A-Z0-9_]{1,12}", fullmatch=True),
    st.one_of(st.sampled_from(["y", "n", '""', '"a b"', "0x10"]), st.integers(-9, 99999).map(str)),
    st.from_regex(r"[A-Z][a-z ,']{0,30}[a-z]\.", fullmatch=True),
)


def spell(fragment: Fragment) -> str:
    blocks = [f"# {option.reason}\n{option.name}={option.value}\n" for option in fragment.options]
    return f"# {fragment.purpose}\n\n" + "\n".join(blocks)


@given(st.lists(OPTIONS, unique_by=lambda option: option.name))
def test_a_fragment_reads_back_as_it_was_spelled(options: list[Option]) -> None:
    fragment = Fragment("theme", "What it is for.", tuple(options))
    assert parse_fragment("theme", spell(fragment)) == fragment


@given(st.text())
def test_any_text_is_a_fragment_or_refused_with_its_line(text: str) -> None:
    try:
        parse_fragment("theme", text)
    except ContentError as error:
        assert re.match(r"theme\.config line \d+: ", str(error))


def test_a_comment_is_the_reason_of_the_options_right_below_it() -> None:
    text = (
        "# Theme,\n# two lines.\n\n# Why a\n# and b.\nCONFIG_A=y\nCONFIG_B=n\n# Why c.\nCONFIG_C=1"
    )
    fragment = parse_fragment("theme", text)
    assert fragment.purpose == "Theme, two lines."
    assert [(option.name, option.reason) for option in fragment.options] == [
        ("CONFIG_A", "Why a and b."),
        ("CONFIG_B", "Why a and b."),
        ("CONFIG_C", "Why c."),
    ]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("CONFIG_A=y", "line 3: CONFIG_A has no reason"),
        ("# Why.\n\nCONFIG_A=y", "line 5: CONFIG_A has no reason"),
        ("# Why.\nCONFIG_A=maybe", "line 4: 'CONFIG_A=maybe' is no CONFIG_NAME=value"),
        ("# Why.\nCONFIG_A", "line 4"),
        ("# Why.\nCONFIG_A=m", "line 4"),
        ("# Why.\nCONFIG_A=y\nCONFIG_A=n", "line 5: CONFIG_A is given twice"),
    ],
)
def test_a_bad_line_is_refused_by_its_number(body: str, told: str) -> None:
    with pytest.raises(ContentError, match=re.escape(told)):
        parse_fragment("theme", f"# Theme.\n\n{body}\n")


def test_a_fragment_without_purpose_is_refused() -> None:
    with pytest.raises(ContentError, match="no purpose at the top"):
        parse_fragment("theme", "# Why.\nCONFIG_A=y\n")


def test_an_unreadable_fragment_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"gone\.config"):
        read_fragment(tmp_path / "gone.config")
    (tmp_path / "binary.config").write_bytes(b"\xff\xfe")
    with pytest.raises(ContentError, match=r"binary\.config is not UTF-8"):
        read_fragment(tmp_path / "binary.config")


def test_fragments_that_contradict_each_other_are_refused() -> None:
    one = parse_fragment("one", "# One.\n\n# Why.\nCONFIG_A=y\n")
    two = parse_fragment("two", "# Two.\n\n# Why.\nCONFIG_A=n\n")
    with pytest.raises(ContentError, match=r"CONFIG_A is y in one\.config but n in two\.config"):
        render([one, two])


def test_rendering_depends_on_requests_alone() -> None:
    one = parse_fragment("one", "# One.\n\n# Why.\nCONFIG_B=y\nCONFIG_A=n\n")
    other = parse_fragment("x", "# X.\n\n# Another reason.\nCONFIG_A=n\n\n# Why.\nCONFIG_B=y\n")
    assert render([one]) == render([other]) == "CONFIG_A=n\nCONFIG_B=y\n"


def test_what_a_config_lacks_is_listed_with_its_fragment() -> None:
    text = '# Theme.\n\n# Why.\nCONFIG_Y=y\nCONFIG_N=n\nCONFIG_S="a"\nCONFIG_I=4\nCONFIG_H=0x10\n'
    theme = parse_fragment("theme", text)
    good = parse_config(
        'CONFIG_Y=y\n# CONFIG_N is not set\nCONFIG_S="a"\nCONFIG_I=4\nCONFIG_H=0x010'
    )
    assert dropped([theme], good) == []
    bad = parse_config('CONFIG_N=m\nCONFIG_S="b"\nCONFIG_I=40\n')
    lost = ["CONFIG_Y=y", "CONFIG_N=n", 'CONFIG_S="a"', "CONFIG_I=4", "CONFIG_H=0x10"]
    assert dropped([theme], bad) == [(option, "theme") for option in lost]


def test_every_fragment_belongs_to_a_profile() -> None:
    used = {name for profile in PROFILES.values() for name in profile.fragments}
    assert used == {path.stem for path in FRAGMENTS.glob("*.config")}


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_asks_for_each_option_once(name: str) -> None:
    options = [option.name for fragment in load_profile(name) for option in fragment.options]
    assert sorted(options) == sorted(set(options))
    render(load_profile(name))


def test_an_unknown_profile_is_answered_with_those_that_exist() -> None:
    with pytest.raises(
        NotFoundError, match=r"no kernel profile 'huge'; there are: micro, dax, full, disk"
    ):
        load_profile("huge")


@pytest.mark.parametrize("name", PROFILES)
def test_linux_takes_every_request_and_knows_every_option(
    linux_tree: Path, tmp_path: Path, name: str
) -> None:
    make = Make(linux_tree, tmp_path / "log", tmp_path)
    configured = configure(linux_tree, load_profile(name), make)
    assert configured.unknown == ()
    config = parse_config(configured.text)
    assert (config.get("CONFIG_FS_DAX") == "y") == (name != "micro")
    assert (config.get("CONFIG_NF_TABLES") == "y") == (name == "full")
    wanted = EVERYWHERE + (ODD_WORKLOADS if name == "full" else ())
    assert [option for option in wanted if config.get(f"CONFIG_{option}") != "y"] == []


def test_full_has_whatever_the_others_turn_on() -> None:
    full = requests(load_profile("full"))
    for name in ("dax", "micro"):
        asked = requests(load_profile(name)).values()
        missing = [
            option.name for option, _ in asked if option.value != "n" and option.name not in full
        ]
        assert missing == []


def test_options_that_linux_drops_silently_are_reported(linux_tree: Path, tmp_path: Path) -> None:
    planted = parse_fragment(
        "planted",
        "# Impossible.\n\n# BPF_JIT needs MODULES; the other is misspelled.\n"
        "CONFIG_BPF_JIT=y\nCONFIG_EROFS_FZ=y\nCONFIG_NO_SUCH_THING=n\n",
    )
    make = Make(linux_tree, tmp_path / "log", tmp_path)
    told = r"dropped CONFIG_BPF_JIT=y \(planted.config\), CONFIG_EROFS_FZ=y \(planted.config\);"
    with pytest.raises(ContentError, match=told):
        configure(linux_tree, [*load_profile("dax"), planted], make)


def test_an_option_to_turn_off_that_linux_never_had_is_told(
    linux_tree: Path, tmp_path: Path
) -> None:
    planted = parse_fragment("planted", "# Odd.\n\n# Misspelled.\nCONFIG_NO_SUCH_THING=n\n")
    make = Make(linux_tree, tmp_path / "log", tmp_path)
    assert configure(linux_tree, [planted], make).unknown == ("CONFIG_NO_SUCH_THING",)
