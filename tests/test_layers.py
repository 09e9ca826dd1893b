"""Imports point down only; the layers are those that `chatstream/__init__.py` draws."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "chatstream"
LAYERS = [
    "errors events settings wire validation patterns metrics logs outlet repeats prices",
    "log providers",
    "turns context starting reply deadlines ending admission lag ended_turn versions"
    " subscriber history pulse usage",
    "auth limits services",
    "http websocket socket_protocol http_protocol frames subscription connections cycles heads"
    " flow mailbox overload refusals",
    "app cli server listener descriptors terminal bench importing old_files left_out exporting fsck"
    " damage",
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer.split()}
APART = {("turns", "subscriber"), ("subscriber", "turns"), ("log", "providers")}


def imports(path: Path) -> set[str]:
    """Name the parts of the package that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {n.split(".")[1] for n in names if n.startswith("chatstream.")}
    return found


def test_imports_only_point_down() -> None:
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own in ("__init__", "__main__"):
            continue
        assert own in RANK, f"{own} belongs to no layer: draw it in chatstream/__init__.py"
        for name in imports(path) - {own}:
            assert RANK[name] <= RANK[own], f"{path.name} must not import {name}"
            assert (own, name) not in APART, f"{own} and {name} must not know each other"


def test_the_check_sees_imports() -> None:
    assert "events" in imports(Path(__file__).parent / "test_events.py")
