"""The site: Sphinx's settings. `make docs` builds it into build/docs."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes

_DOCS = Path(__file__).parent
sys.path.insert(0, str(_DOCS.parent))

from docs.tools.blocks import Kind, kind_of  # noqa: E402
from docs.tools.reference import write_reference  # noqa: E402
from hyperbuild.converter.records import Record  # noqa: E402

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "hyperbuild"
author = "the authors of hyperbuild"
release = version = version_of("hyperbuild-vm")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["man", "tools"]
html_theme = "furo"
html_title = f"hyperbuild {release}"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
# They would make one dash of the two that begin an option.
smartquotes = False
html_static_path = ["static"]
html_css_files = ["site.css"]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
highlight_language = "text"
copybutton_prompt_text = r"[$#] "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_use_legacy_class_based = False
python_use_unqualified_type_names = True
add_module_names = False
#: Types of others (there is no network to look them up), and those of ours that are for the house.
_INTERNAL = r"hyperbuild\.(converter\.(files|layer_cache|oci|tree)|launcher\.timeline)\."
nitpick_ignore_regex = [("py:.*", r"(?!hyperbuild\.).*"), ("py:class", f"{_INTERNAL}.*")]

#: A mention of another page in the prose, as one reads it in the repository.
_MENTION = re.compile(r"(?<![\w`/(\[])(\(?)docs/((?:[a-z-]+/)*[a-z-]+\.md)(?![\w`\])])")
_LANGUAGES = {Kind.SESSION: "console", Kind.SCRIPT: "bash", Kind.TOML: "toml"}


def _link_mentions(_: Sphinx, docname: str, source: list[str]) -> None:
    """Make links of `docs/store.md` where it stands in the prose."""
    up = "../" * docname.count("/")
    source[0] = _MENTION.sub(rf"\1[docs/\2]({up}\2)", source[0])


def _name_languages(_: Sphinx, tree: nodes.document) -> None:
    """Say what language a block is in that only indentation makes a block."""
    for block in tree.findall(nodes.literal_block):
        if block.get("language") in (None, "none", "text"):
            block["language"] = _LANGUAGES.get(kind_of("", block.astext()), "text")


def _show_blocks(*args: Any) -> None:
    """Make what is indented in a docstring a block of its own, as one reads it in the source."""
    lines: list[str] = args[-1]
    for at in range(len(lines) - 2, 0, -1):
        above, between, below = lines[at - 1 : at + 2]
        if above[:1].strip() and not between and below[:1] == " " and not above.endswith("::"):
            lines[at:at] = ["", "::"]


def _show_fields(*args: Any) -> tuple[str, str] | None:
    """Give a record's fields as what it is made of: its own ``__init__`` takes anything."""
    kind = args[3]
    if not isinstance(kind, type) or not issubclass(kind, Record):
        return None
    fields = (
        f"{name}: {of}" + (f" = {kind._defaults[name]!r}" if name in kind._defaults else "")
        for name, of in kind.__annotations__.items()
    )
    return f"({', '.join(fields)})", ""


def setup(app: Sphinx) -> None:
    """Make the command line's reference, and mend what only the site needs."""
    write_reference(_DOCS / "reference/cli")
    app.connect("source-read", _link_mentions)
    app.connect("doctree-read", _name_languages)
    app.connect("autodoc-process-docstring", _show_blocks)
    app.connect("autodoc-process-signature", _show_fields)
