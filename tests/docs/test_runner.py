"""The runner of pages itself: what it takes for a command, and what it does not let pass."""

from __future__ import annotations

import pytest

from docs.tools.blocks import Kind, read_blocks
from tests.docs.steps import Step, missing, read_steps, unhurried

PAGE = """\
# A page

<!-- given: touch words -->
<!-- file: policy.toml -->

    [keys]
    ci = "ci.pub"

Then:

    $ hyperbuild boot nginx \\
    >     -p 8080:80 &
    application started after … ms (…)
    $ hyperbuild exec -it web sh
    # exit
    $ hyperbuild logs -f web
    it works
    ^C
    $ hyperbuild boot nope
    Error: it does not exist, and this is
      what to do

1. In a list:

   ```bash
   hyperbuild images   # the list
   # nothing

   hyperbuild export nginx \\
       -o file.tar
   ```

<!-- not run: needs another machine -->

```console
$ hyperbuild doctor
```

```text
hyperbuild boot IMAGE [CMD]...
```

```{toctree}
tutorial
```
"""


def test_a_page_is_read_as_its_reader_does() -> None:
    policy, session, script, exempt, usage = read_blocks(PAGE)
    assert (policy.kind, policy.file, policy.given) == (Kind.TOML, "policy.toml", "touch words")
    assert (session.kind, script.kind, usage.kind) == (Kind.SESSION, Kind.SCRIPT, Kind.TEXT)
    assert (exempt.reason, session.reason) == ("needs another machine", "")
    boot, shell, logs, refused = read_steps(session)
    assert boot.command == "hyperbuild boot nginx \\\n    -p 8080:80 &"
    assert boot.is_in_background
    assert boot.shown == ("application started after … ms (…)",)
    assert (shell.typed, shell.is_in_background) == (("exit",), False)
    assert (logs.shown, logs.is_interrupted) == (("it works",), True)
    assert refused.is_to_fail
    assert refused.shown == ("Error: it does not exist, and this is\n  what to do",)
    commands = [step.command for step in read_steps(script)]
    assert commands == [
        "hyperbuild images   # the list",
        "hyperbuild export nginx \\\n    -o file.tar",
    ]


def test_a_block_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        list(read_blocks("```nonsense\nx\n```\n"))


@pytest.mark.parametrize(
    ("shown", "output"),
    [
        (("12.3 MiB sent", "sha256:4fa975f8…"), "1 MiB sent\nsha256:00aa11bb22cc\n"),
        (("ok  store  ~/.local/share",), "ok\tstore    /home/me/.local/share\n"),
        (("a  b",), "a\nb\n"),
        (("Up 2 seconds",), "Up 1 second\n"),
        (("Error: a, and", "…"), "first\nError: a, and\n"),
        (("…", "last"), "first\nlast\n"),
    ],
)
def test_what_differs_by_machine_and_time_is_the_same(shown: tuple[str, ...], output: str) -> None:
    assert missing(shown, output) == ""


@pytest.mark.parametrize(
    ("shown", "output", "line"),
    [
        (("held",), "it held\n", "held"),
        (("two", "one"), "one\ntwo\n", "one"),
        (("linux/amd64",), "linux/arm64\n", "linux/amd64"),
        (("6 MiB sent",), "no MiB sent\n", "6 MiB sent"),
        (("…", "last"), "first\n", "last"),
    ],
)
def test_what_did_not_come_is_missed(shown: tuple[str, ...], output: str, line: str) -> None:
    assert missing(shown, output) == line


def test_no_wall_time_is_asserted() -> None:
    assert unhurried("boot --budget app_exec=900ms") == "boot --budget app_exec=90000ms"
    assert unhurried("boot --budget insns=13M") == "boot --budget insns=13M"
    assert unhurried('time = { app_exec = "2s" }') == 'time = { app_exec = "200s" }'


def test_a_cat_of_a_file_says_what_is_in_it() -> None:
    assert Step("cat site.toml", 1).writes == "site.toml"
    assert not Step("cat site.toml | wc", 1).writes
