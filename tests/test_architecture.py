"""Imports point one way: from what users start down to plain functions."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "resnet_jax"

# Every part may import those above it in this list, and nothing below; `docs/architecture.md` says what each is for.
LAYERS = (
    "printable",
    "errors",
    "lookup",
    "ops",
    "models",
    "run",
    "data",
    "weights",
    "training",
    "config",
    "setup",
    "runner",
    "lab",
    "configs",
    "commands",
    "__init__",
    "__main__",
)
FORBIDDEN = {"ops": ("flax",), "lab": ("absl",)}  # libraries that a part does without


def module_name(file):
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def exists(module):
    path = PACKAGE.joinpath(*module.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def imports(file):
    """The project's modules that a file imports, and the names of other libraries."""
    own, others = set(), set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            others |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "resnet_jax":
            inside = node.module.removeprefix("resnet_jax").lstrip(".")
            names = [f"{inside}.{alias.name}".lstrip(".") for alias in node.names]
            own |= {name if exists(name) else inside for name in names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            others.add(node.module.partition(".")[0])
    return own - {""}, others


FILES = sorted(PACKAGE.rglob("*.py"))
GRAPH = {module_name(file): imports(file)[0] for file in FILES}


def top(module):
    return module.partition(".")[0]


def test_every_part_has_its_layer():
    assert {top(module) for module in GRAPH} == set(LAYERS)


@pytest.mark.parametrize("part", LAYERS)
def test_a_part_imports_only_what_lies_below_it(part):
    allowed = set(LAYERS[: LAYERS.index(part) + 1])
    upward = {(module, used) for module, uses in GRAPH.items() for used in uses if top(module) == part}
    assert {(module, used) for module, used in upward if top(used) not in allowed} == set()


def test_no_modules_import_each_other_in_a_circle():
    seen, path = set(), []

    def visit(module):
        if module in path:
            raise AssertionError(f"a circle: {' -> '.join([*path[path.index(module) :], module])}")
        if module not in seen:
            path.append(module)
            for used in sorted(GRAPH.get(module, ())):
                visit(used)
            path.pop()
            seen.add(module)

    for module in GRAPH:
        visit(module)


def test_nothing_imports_a_config_but_other_configs():
    assert {top(module) for module, uses in GRAPH.items() if "configs" in map(top, uses)} == {"configs"}


@pytest.mark.parametrize("part", FORBIDDEN)
def test_a_part_does_without_some_libraries(part):
    for file in FILES:
        if top(module_name(file)) == part:
            assert not imports(file)[1] & set(FORBIDDEN[part]), file


def test_the_page_counts_the_parts_and_the_arrows_between_them():
    parts = set(LAYERS) - {"configs"}  # which are read by their names, as a user's own
    arrows = {(top(module), top(used)) for module, uses in GRAPH.items() for used in uses if top(module) != top(used)}
    arrows = {arrow for arrow in arrows if "configs" not in arrow}
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    assert f"there are {len(parts)} parts at the top with {len(arrows)} arrows between them" in page
