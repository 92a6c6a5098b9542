"""The documentation site: sphinx, furo and MyST on these pages; ``make docs`` builds it offline.

What ``generate.py`` makes first goes to docs/_generated: the reference, a page a package, of every
public name, and the tables of benchmarks/results that pages link to.
"""

from __future__ import annotations

import sys
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import GoogleDocstring

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

import generate  # noqa: E402

project = "modereg"
author = "the modereg authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "images", "**/.pytest_cache"]

html_theme = "furo"
html_title = "modereg"
html_copy_source = False
html_show_copyright = False

myst_heading_anchors = 3
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_use_rtype = False

# Types of other libraries, private ones and aliases of types are named in signatures and have no
# page here: the build is offline.
LIBRARIES = (
    "abc|argparse|collections|diffusers|gymnasium|hypothesis|inspect|mani_skill|matplotlib|mujoco"
    "|numpy|np|os|pathlib|sapien|st|tensordict|time|torch|torchrl|transformers|types|typing"
)
TYPES = (
    r"Axes|EnvBase|Figure|Figures|NestedKey|Path|TensorDict|TensorDictBase|Tensor|TransformedEnv"
    r"|FeatureKind|LogitKind|Positional|Shape|(dict|tuple)\[(int|str)"
)
nitpick_ignore_regex = [
    ("py:.*", rf"({LIBRARIES})\..*"),
    ("py:.*", TYPES),
    ("py:.*", r"modereg.*\._.*"),
    ("py:.*", r".*\.(DenoiserClass|Kind|Module|Result)"),
    ("py:class", "Point|UseAppendAction"),
    ("py:meth", r"bound|close|loss|set_seed"),  # inherited, and documented where they come from
]

# A property's "A: b" is a sentence here, where napoleon would take A for its type.
GoogleDocstring._parse_attribute_docstring = GoogleDocstring._consume_to_end


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """Resolve a name that is written without its module, or with one that its package hides."""
    python = env.get_domain("py")
    written = node["reftarget"].removesuffix("()")
    package = ".".join((node.get("py:module") or "").split(".")[:2])
    found = generate.candidates(python.objects, written, package)
    if node["refdomain"] != "py" or len(found) != 1:
        return None
    target = node.copy()
    target["reftarget"], target["refspecific"] = found.pop(), False
    where = node["refdoc"], app.builder, "obj", target["reftarget"]
    return python.resolve_xref(env, *where, target, content)


def setup(app: Sphinx) -> None:
    """Generate pages before sphinx looks for them, and lead links out of docs to them."""
    generate.write(DOCS / "_generated")
    app.connect("source-read", generate.link)
    app.connect("missing-reference", resolve)
