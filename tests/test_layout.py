"""The layout of the code: imports run down only, no circles, short signatures, and tests that stand on their own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from helpers.paths import ROOT

# From the top to the bottom. A module imports from lower floors only; packages of one floor do not know each other.
FLOORS = (
    ("cli", "demo"),
    ("workflows", "publish"),
    ("plots",),
    ("training",),
    ("rsa",),
    ("attribution",),
    ("heads",),
    ("backbones", "data", "metrics"),
    ("images",),
    ("io",),
    ("errors", "lazy", "progress", "torch_state", "version"),
)
FLOOR = {package: number for number, floor in enumerate(FLOORS) for package in floor}
ENTRY = {"ais", "ais.__main__"}  # they name what is offered, and stand above all floors
MOST_PARAMETERS = 7
CALLED_BY_USERS = {
    "ais/attribution/explain.py explain"
}  # its keywords are the user's interface, as options are


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """All imports between the modules, those inside functions too; not those for type checkers alone."""
    return grimp.build_graph("ais", exclude_type_checking_imports=True, cache_dir=None)


def package_of(module: str) -> str:
    return module.split(".")[1]


def arrows(graph: grimp.ImportGraph) -> Iterator[tuple[str, str]]:
    for importer in sorted(graph.modules - ENTRY):
        for imported in sorted(graph.find_modules_directly_imported_by(importer) - ENTRY):
            yield importer, imported


def test_every_package_has_a_floor(graph: grimp.ImportGraph) -> None:
    assert {package_of(module) for module in graph.modules - ENTRY} == FLOOR.keys()


def test_imports_run_down_only(graph: grimp.ImportGraph) -> None:
    wrong = [
        f"{importer} imports {imported}"
        for importer, imported in arrows(graph)
        if package_of(importer) != package_of(imported)
        and FLOOR[package_of(imported)] <= FLOOR[package_of(importer)]
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_below_imports_the_entry(graph: grimp.ImportGraph) -> None:
    """`import ais` loads what is asked for; a module of ours names where a thing is."""
    below = (
        graph.modules
        - ENTRY
        - {module for module in graph.modules if module.startswith(("ais.cli", "ais.demo"))}
    )
    assert not [module for module in below if "ais" in graph.find_modules_directly_imported_by(module)]


def test_there_is_no_circle(graph: grimp.ImportGraph) -> None:
    circles = set()
    for importer, imported in arrows(graph):
        back = graph.find_shortest_chain(imported, importer)
        if back:
            circles.add(" -> ".join(sorted(set(back))))
    assert not circles, "\n".join(sorted(circles))


def functions(folder: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for file in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{file.relative_to(ROOT)} {node.name}", node


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = function.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Of the command line: its parameters are the options that people type."""
    return any(re.search(r"\.command\(", ast.unparse(decorator)) for decorator in function.decorator_list)


@pytest.mark.parametrize("folder", ["ais", "benchmarks"])
def test_no_function_takes_more_than_seven_parameters(folder: str) -> None:
    long = [
        f"{where}: {parameters(function)}"
        for where, function in functions(folder)
        if parameters(function) > MOST_PARAMETERS
        and not is_command(function)
        and where not in CALLED_BY_USERS
    ]
    assert not long, "\n".join(long)


def imported_names(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_no_test_module_imports_from_another() -> None:
    tests = ROOT / "tests"
    modules = {file.stem for file in tests.rglob("test_*.py")} | {"conftest"}
    for file in tests.rglob("*.py"):
        used = {part for name in imported_names(file) for part in name.split(".")}
        assert not used & modules, f"{file.relative_to(ROOT)} imports from {sorted(used & modules)}"


def test_tests_mirror_the_folders() -> None:
    folders = {
        folder.name
        for folder in (ROOT / "tests").iterdir()
        if folder.is_dir() and folder.name != "__pycache__"
    }
    assert folders - {"helpers"} <= FLOOR.keys()


def test_every_package_is_named_for_the_install() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = set(re.findall(r'"(ais[\w.]*)"', text.split("[tool.setuptools]")[1].split("]")[0]))
    packages = {
        ".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "ais").rglob("__init__.py")
    } | {"ais.model_cards"}
    assert named == packages


def registries() -> list[tuple[str, str]]:
    """Of the README's table: a registry's name, and the file that it says holds it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("| to add | write | enter it in |")[1].split("\n\n")[0]
    rows = [line.split("|") for line in table.splitlines() if line.count("|") == 4 and "`" in line]
    found = []
    for _, _, write, enter, _ in rows:
        place = re.search(r"`([A-Z]+)` in (?:`([\w/.]+)`|the same file)", enter)
        assert place, enter
        found.append((place[1], place[2] or re.findall(r"`([\w/.]+\.py)`", write)[0]))
    return found


@pytest.mark.parametrize(("name", "file"), registries())
def test_the_readme_says_where_each_registry_is(name: str, file: str) -> None:
    module = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    named = [
        node.target.id
        for node in module.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    assert name in named, f"{file} has no {name}"


def test_the_readme_names_every_folder() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## Where things are")[1]
    for folder in (ROOT / "ais").iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            assert f"ais/{folder.name}/" in text
