"""What recipes may say, what is refused where, and the schema that says the same."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.converter.errors import HyperbuildError, InputError, NotFoundError
from hyperbuild.recipes.fields import TABLES, json_schema
from hyperbuild.recipes.recipe import (
    SHIPPED,
    find_recipe,
    parse_recipe,
    read_recipe,
    shipped_recipes,
)
from tests.conftest import RunCli

SCHEMA = json_schema()
FULL = """
image = "nginx:latest"
platform = "linux/amd64"
[rootfs]
format = "ext4"
align = true
[kernel]
profile = "micro"
fragments = ["more.config"]
[boot]
cpus = 2
env = { A = "b" }
cmd = ["nginx"]
[smoke]
port = [80]
timeout = 1.5
[budget]
time = { app_exec = "400ms" }
insns = { init = "18.5M" }
[output]
store = false
"""


def accepts(document: object) -> bool:
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(document)


def parse(text: str, *changes: str) -> None:
    parse_recipe(text.encode(), "r.toml", Path("/recipes"), changes)


def test_a_recipe_that_says_much() -> None:
    recipe = parse_recipe(FULL.encode(), "r.toml", Path("/recipes"))
    assert recipe.image == "nginx:latest"
    assert recipe.get("smoke", "timeout") == 1.5
    assert recipe.get("boot", "memory", "256M") == "256M"
    assert recipe.path("more.config") == Path("/recipes/more.config")
    assert accepts(tomllib.loads(FULL))


REFUSED = {
    "image = 'x'\n[boot]\nmemroy = '64M'": "[boot] memroy is not known; did you mean memory?",
    "image = 'x'\n[smokes]\nport = [80]": "smokes is not known; did you mean [smoke]?",
    "image = 'x'\nmemory = '64M'": "memory is not known; memory belongs into [boot]",
    "image = 'x'\n[boot]\nimage = 'y'": "[boot] image is not known; image belongs before all",
    "image = 'x'\n[output]\nzzz = 1": "[output] zzz is not known; there are: directory, store",
    "imgae = 'x'": "imgae is not known; did you mean image?",
    "": "image is missing; a recipe needs it, or layers or packages in [source]",
    "[source.config]\nuser = 'x'": "image is missing; a recipe needs it, or layers or packages",
    "image = 'x'\n[source]\npackages = ['a']\nsuite = 's'": "image and [source] packages exclude",
    "[source]\npackages = ['a']": "[source] packages needs suite, which is missing; it is for: The",
    "image = 'x'\n[source]\nmirror = 'http://x'": "[source] mirror needs packages, which is",
    "[source]\npackages = ['a', '-o x']\nsuite = 's'": "packages has an item that does not look",
    "[source]\npackages = []\nsuite = 's'": "[source] packages is empty",
    "[source]\nlayers = []": "[source] layers is empty",
    "[source]\nlayers = 'a.tar'": "[source] layers is not an array",
    "[source]\nlayers = [1]": "[source] layers has an item that is not a string",
    "[source]\nlayers = [{dir = 'a'}]": "[source] layers has an item that does not say to",
    "[source]\nlayers = [{dri = 'a', to = '/'}]": "has a key dri that is not known (there is dir)",
    "[source]\nlayers = [{dir = 'a', to = 'x'}]": "that says to, which does not look like /.*",
    "[source]\nlayers = [{dir = 'a', to = '/', owner = 'me'}]": "says owner, which does not look",
    "[source]\nlayer = ['a']": "[source] layer is not known; did you mean layers?",
    "image = 'x'\n[source]\nconfig = 3": "source.config is a table; write [source.config]",
    "image = 'x'\nsource = 3": "source is a table; write [source]",
    "image = 'x'\n'source.config' = {user = 'x'}": "source.config is not known; did you mean",
    "image = 'x'\n[source.config]\nworkdir = '/'": "[source.config] workdir is not known; did you",
    "image = 'x'\n[source.config]\nexposed-ports = ['x']": "exposed-ports has an item that does",
    "image = 'x'\n[source.config]\nhealthcheck = {}": "healthcheck does not say test",
    "image = 'x'\n[source.config.healthcheck]\ntest = ['x']\nretries = 0": "which is less than 1",
    "image = 'x'\n[source.config.healthcheck]\ntest = ['x']\nretrys = 1": "(there is retries)",
    "image = ''": "image is empty",
    "image = 7": "image is not a string",
    "image = 'x'\nboot = 3": "boot is a table; write [boot]",
    "image = 'x'\n[boot]\ncpus = 0": "[boot] cpus is less than 1",
    "image = 'x'\n[boot]\ncpus = 65": "[boot] cpus is more than 64",
    "image = 'x'\n[boot]\ncpus = true": "[boot] cpus is not a whole number",
    "image = 'x'\n[boot]\ncmd = 'ls'": "[boot] cmd is not an array",
    "image = 'x'\n[boot]\ncmd = ['ls', 1]": "[boot] cmd has an item that is not a string",
    "image = 'x'\n[boot]\nenv = {A = 1}": "[boot] env has a value of A that is not a string",
    "image = 'x'\n[smoke]\nport = [80, 65536]": "has an item that is more than 65535",
    "image = 'x'\n[smoke]\nport = ['80']": "has an item that is not a whole number",
    "image = 'x'\n[kernel]\nprofile = 'tiny'": "profile is not one of micro, dax, full, disk",
    "image = 'x'\n[budget.time]\napp_exec = 'fast'": "has a value of app_exec that does not look",
    "image = 'x'\n[rootfs]\nalign = 'yes'": "[rootfs] align is not true or false",
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused_and_where(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert str(caught.value).startswith("r.toml: ")
    assert REFUSED[text] in str(caught.value)
    assert not accepts(tomllib.loads(text))


@pytest.mark.parametrize("text", ["image = ", "= 3", "image = 'x'\nimage = 'y'", "\0", "a = " * 99])
def test_what_is_not_toml(text: str) -> None:
    with pytest.raises(InputError, match=r"^r\.toml is not TOML: .*; correct it there"):
        parse(text)


def test_a_whole_number_has_no_point() -> None:
    # Which JSON schema does not tell apart.
    with pytest.raises(InputError, match="cpus is not a whole number"):
        parse("image = 'x'\n[boot]\ncpus = 1.0")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(b"image = '\xff'")
    with pytest.raises(InputError, match="is not TOML"):
        read_recipe(path)
    path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(InputError, match="larger than 1 MiB"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("change", "table", "key", "value"),
    [
        ("image=oci:/a/b:latest", "", "image", "oci:/a/b:latest"),
        ("image=12", "", "image", "12"),
        ("boot.memory=64M", "boot", "memory", "64M"),
        ("boot.cpus=2", "boot", "cpus", 2),
        ("smoke.port=[80, 81]", "smoke", "port", [80, 81]),
        ('boot.env={A="b=c"}', "boot", "env", {"A": "b=c"}),
        ('source.layers=["a.tar"]', "source", "layers", ["a.tar"]),
        ("source.config.user=redis", "source.config", "user", "redis"),
        ("rootfs.align=true", "rootfs", "align", True),
    ],
)
def test_changes(change: str, table: str, key: str, value: object) -> None:
    recipe = parse_recipe(b"image = 'x'", "r.toml", Path(), [change])
    assert recipe.get(table, key) == value


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("image", "is not [TABLE.]KEY=VALUE"),
        ("=x", "is not [TABLE.]KEY=VALUE"),
        ("boot.memroy=1", "[boot] memroy is not known; did you mean memory?"),
        ("boat.memory=1", "[boat] memory is not known; tables are source, source.config, rootfs"),
        ("boot.cpus=two", "--set boot.cpus=two: [boot] cpus is not a whole number"),
        ("source.suite=sid", "r.toml --set source.suite=sid: [source] suite needs packages"),
        ("smoke.port=80", "[smoke] port is not an array"),
    ],
)
def test_changes_that_are_none(change: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse("image = 'x'", change)
    assert said in str(caught.value)


def test_the_shipped_recipes_are_sound() -> None:
    assert shipped_recipes() == ["busybox", "nginx", "nodejs", "postgresql", "python", "redis"]
    for name in shipped_recipes():
        recipe = read_recipe(find_recipe(name))
        assert recipe.has("smoke")
        assert accepts(tomllib.loads((SHIPPED / f"{name}.toml").read_text()))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ngnix", "no recipe ngnix; did you mean nginx? give a file NAME.toml, or one of busybox"),
        ("zzz", "no recipe zzz; give a file"),
        ("/no/such.toml", "no recipe /no/such.toml"),
    ],
)
def test_recipes_that_are_not_there(name: str, said: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        find_recipe(name)
    assert said in str(caught.value)


VALUES = st.recursive(
    st.sampled_from(["x", "", "64M", "erofs", "1s", "18M", 0, 1, 80, 70000, 1.5, True]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("a"), inner, max_size=1),
    max_leaves=4,
)
KEYS = sorted({key for keys in TABLES.values() for key in keys})
TABLE = st.dictionaries(st.sampled_from([*KEYS, "config"]), VALUES, max_size=2)


@given(
    st.dictionaries(st.sampled_from(["image", "platform", "port"]), VALUES, max_size=2),
    st.dictionaries(
        st.sampled_from([name for name in TABLES if name and "." not in name]), TABLE, max_size=3
    ),
    st.booleans(),
)
def test_the_schema_and_the_parser_agree(
    top: dict[str, object], tables: dict[str, object], has_image: bool
) -> None:
    document: dict[str, object] = ({"image": "x"} if has_image else {}) | top | tables
    try:
        parse(as_toml(document))
    except HyperbuildError:
        assert not accepts(document)
    else:
        assert accepts(document)


def as_toml(document: dict[str, object]) -> str:
    return "".join(f"{key} = {inline(value)}\n" for key, value in document.items())


def inline(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value)


def test_the_schema_is_published(run_cli: RunCli) -> None:
    done = run_cli("build", "--schema")
    assert done.returncode == 0
    assert json.loads(done.stdout) == SCHEMA
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image = 'x'\n[boot]\nmemory = 'lots'", "r.toml: memory 'lots' is not a size"),
        ("image = 'x'\n[boot]\npublish = ['80:80']", "r.toml: [boot] publish is not known"),
        ("image = 'x'\n[smoke]\nlog = ['(']", "r.toml: regular expression '(' is none"),
        ("image = 'x'\n[smoke]\nexit = 0\nport = [1]", "r.toml: an application that ends (exit)"),
        ("image = 'x'\n[budget.time]\nlunch = '1s'", "r.toml: budget 'lunch=1s' names no phase"),
        ("image = 'x'\n[kernel]\nfile = 'v'\nprofile = 'dax'", "[kernel] file stands alone"),
        ("image = 'x'\n[kernel]\nfile = 'no'", "[kernel] file: no is no file"),
        ("image = 'x'\n[kernel]\nfragments = ['no.config']", "cannot read the kernel fragment"),
        ("image = 'x'\n[kernel]\nfragments = ['r.config']", "has no reason; put a comment above"),
        ("image = 'oci:/no/such'", "/no/such"),
        ("image = 'x'\n[boot]\ncups = 1", "r.toml: [boot] cups is not known; did you mean cpus?"),
        (
            "image = 'x'\n[output]\ndirectory = '.'",
            "[output] directory: the output directory . hol",
        ),
        ("image = 'x'\n[output]\ndirectory = 'r.toml'", "directory: cannot write into r.toml; cho"),
        ("image = 'x'\n[output]\ndirectory = 'r.toml/x'", "r.toml is no directory that can be wri"),
        (
            "[source]\nlayers = ['no.tar']",
            "r.toml: [source] layers: no.tar is no file; name another",
        ),
        ("[source]\nlayers = ['.']", "r.toml: [source] layers: . is no file; name another"),
        ("[source]\nlayers = ['r.toml']", "r.toml: [source] layers: r.toml ends inside an entry"),
        ("[source]\nlayers = [{dir = 'no', to = '/'}]", "r.toml: [source] layers: no is no folder"),
        ("[source]\nlayers = [{dir = 'odd', to = '/'}]", "odd/pipe is no file, directory or symb"),
        (
            "[source]\nlayers = [{dir = 'gone', to = '/'}]",
            "gone/.wh.x has a name that takes",
        ),
        (
            "[source]\nlayers = ['r.config']\nname = 'No!'",
            "r.toml: [source] name: image 'No!' is not",
        ),
        ("[source]\nlayers = ['r.config']\nname = 'oci:x'", "name: oci:x is no name to give; say"),
        (
            "image = 'x'\n[source.config]\nstop-signal = 'X'",
            "[source.config] stop-signal: localhost",
        ),
        (
            "image = 'x'\n[source.config.healthcheck]\ntest = ['x']",
            "[source.config] healthcheck: the",
        ),
        (
            "[source]\npackages = ['a']\nsuite = 'no-such'",
            "[source] packages: apt has no source of no",
        ),
        (
            "platform = 'linux/s390x'\n[source]\npackages = ['a']\nsuite = 's'",
            "[source] packages: they are installed for this CPU; drop platform",
        ),
    ],
)
def test_what_cannot_be_built_is_one_line(
    text: str, said: str, run_cli: RunCli, tmp_path: Path
) -> None:
    (tmp_path / "r.toml").write_text(text.replace("'x'", "'oci:/no/such'") + "\n")
    (tmp_path / "r.config").write_text("# Why.\n\nCONFIG_X=y\n")
    (tmp_path / "odd").mkdir()
    os.mkfifo(tmp_path / "odd/pipe")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone/.wh.x").touch()
    done = run_cli("-q", "build", "r.toml", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert done.stdout == ""


def test_usage(run_cli: RunCli, tmp_path: Path) -> None:
    assert run_cli("build").returncode == 2
    report = run_cli("build", "nginx", "redis", "--report", tmp_path / "x.xml")
    assert report.returncode == 1
    assert "--report is for one recipe at a time" in report.stderr
