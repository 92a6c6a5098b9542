"""Pages that are made and not written: the reference of every ``__all__``, and the results."""

from __future__ import annotations

import ast
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

from modereg.lazy import declared

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
PACKAGES = ("modereg", "modereg_integrations")


def write(folder: Path) -> None:
    """Write all generated pages anew."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "reference").mkdir(parents=True)
    for name, text in reference_pages().items():
        (folder / "reference" / f"{name}.rst").write_text(text)
    shutil.copytree(RESULTS, folder / "results", ignore=shutil.ignore_patterns("*.json", "*.log"))
    for path in (folder / "results").glob("*.md"):
        text = path.read_text()
        path.write_text(
            text if re.search("^# ", text, re.MULTILINE) else f"# {path.stem}\n\n{text}"
        )


def link(app: object, docname: str, source: list[str]) -> None:
    """Turn links out of docs, which are right on a code host, into ones within the site.

    Tables of benchmarks/results are copied to the site, and the README's place is the first page.
    """
    up = "../" * docname.count("/")
    text = re.sub(r"\]\((?:\.\./)+benchmarks/results/", f"]({up}_generated/results/", source[0])
    source[0] = re.sub(r"\]\((?:\.\./)+README\.md\)", f"]({up}index.md)", text)


def candidates(objects: dict, written: str, package: str) -> set[str]:
    """Return the documented objects that a name may mean that sphinx has not found.

    Args:
        objects: of sphinx's Python domain.
        written: a name without its module, or with one that its package hides.
        package: where it is written; of several objects, the one of the same package is meant.
    """
    for name in (written, written.rpartition(".")[2]):
        found = {path for path in objects if path.endswith(f".{name}")}
        found = {path for path in found if not objects[path].aliased} or found
        found = {path for path in found if objects[path].objtype != "data"} or found
        near = {path for path in found if path.startswith(f"{package}.")}
        if found:
            return near if len(found) > 1 else found
    return set()


class Module:
    """The public names of a module, and what its file defines; it is read and not imported.

    Attributes:
        names: its ``__all__``, or what its stub imports from elsewhere.
        kinds: autodoc's directive of what is defined here, by name.
        sources: the module that a name is imported from.
    """

    def __init__(self, path: Path, package: str) -> None:
        stub = path.with_suffix(".pyi")
        homes = declared(stub) if stub.exists() else {}
        self.names: list[str] = sorted(name for name, home in homes.items() if home != package)
        self.kinds: dict[str, str] = {}
        tree = ast.parse(path.read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        self.sources = {part.name: node.module or "" for node in imports for part in node.names}
        self.sources |= homes
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                self.kinds[node.name] = "autoclass"
            elif isinstance(node, ast.FunctionDef):
                self.kinds[node.name] = "autofunction"
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                self._assigned(node)

    def _assigned(self, node: ast.Assign | ast.AnnAssign) -> None:
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if ast.unparse(target) == "__all__":
            self.names = list(ast.literal_eval(node.value))
        names = [part.id for part in ast.walk(target) if isinstance(part, ast.Name)]
        self.kinds |= dict.fromkeys(names, "autodata")


def modules() -> dict[str, Module]:
    """Return every module by its name; packages come before what is in them."""
    found = {}
    for package in PACKAGES:
        folder = Path(find_spec(package).submodule_search_locations[0])
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = Module(path, name)
    return dict(sorted(found.items()))


def reference_pages() -> dict[str, str]:
    """Return the text of each page of the reference by its name: one a package or single module."""
    found = modules()
    units: dict[str, dict[str, Module]] = {}
    for name, module in found.items():
        unit = ".".join(name.split(".")[:2])
        if "._" not in unit:
            units.setdefault(unit, {})[name] = module
    root = _root(found, units.pop("modereg")["modereg"].names)
    return {"modereg": root} | {unit: _page(unit, members) for unit, members in units.items()}


def _home(members: dict[str, Module], path: str, name: str) -> str:
    """Return the module that defines a name which another one exports."""
    while name not in members[path].kinds:
        path = members[path].sources[name]
    return path


def _page(unit: str, members: dict[str, Module]) -> str:
    """Document each name once: a package's where the package is, constants where they are set."""
    seen: set[tuple[str, str]] = set()
    parts = []
    for path, module in members.items():
        if "._" in path:
            continue
        parts += [_title(path, "=" if path == unit else "-"), _described(path)]
        for name in module.names:
            home = _home(members, path, name)
            kind = members[home].kinds[name]
            if path == home if kind == "autodata" else (home, name) not in seen:
                parts.append(f".. {kind}:: {path}.{name}\n")
            seen.add((home, name))
    return "\n".join(parts)


def _root(found: dict[str, Module], names: list[str]) -> str:
    """Return the page of ``modereg`` itself, whose names live in its submodules."""
    parts = [_title("modereg", "="), _described("modereg")]
    for name in names:
        home = next(path for path in found if path != "modereg" and name in found[path].names)
        parts.append(f".. py:data:: {name}\n\n   Is :py:obj:`{home}.{name}`.\n")
    return "\n".join(parts)


def _title(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n"


def _described(module: str) -> str:
    return f".. automodule:: {module}\n   :no-members:\n"
