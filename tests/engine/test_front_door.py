"""The public surface: what it lists, where its names come from, and what using it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import engine

ROOT = Path(engine.__file__).resolve().parent.parent
HEAVY = {"torch", "torchvision", "torchao", "torch_pruning", "sklearn", "PySide6", "pyqtgraph"}
NEED_TORCH = {
    "ModelSession",
    "Scan",
    "Rounding",
    "Tuning",
    "catalogue_entries",
    "devices",
    "energy_counters",
    "model_costs",
    "open_model",
}


def declared() -> dict[str, str]:
    """Name -> module, as the TYPE_CHECKING block tells it to type checkers."""
    tree = ast.parse(Path(engine.__file__).read_text(encoding="utf-8"))
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert len(imports) == len(block.body)
    names = [(alias, node.module) for node in imports for alias in node.names]
    # `as` the same name is what makes a type checker take it for exported.
    assert all(alias.asname == alias.name for alias, _ in names)
    return {alias.name: module for alias, module in names}


def loaded_after(code: str) -> set[str]:
    """Packages that a fresh process holds after running ``code``."""
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_names_are_those_that_type_checkers_see() -> None:
    assert declared() == engine._WHERE
    assert engine.__all__ == sorted(declared())
    assert dir(engine) == engine.__all__


@pytest.mark.parametrize("name", engine.__all__)
def test_every_name_is_the_one_its_module_has(name: str) -> None:
    module = __import__(declared()[name], fromlist=[name])
    assert getattr(engine, name) is getattr(module, name)


def test_other_names_are_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        engine.prune  # noqa: B018


def test_importing_the_engine_imports_only_how_to_import() -> None:
    loaded = loaded_after("import engine\nheld = [m for m in sys.modules if 'engine.' in m]\n"
                          "assert held == ['engine.lazy'], held")  # fmt: skip
    assert not loaded & HEAVY


def test_plain_data_comes_without_torch_and_qt() -> None:
    names = sorted(set(engine.__all__) - NEED_TORCH)
    loaded = loaded_after(f"from engine import {', '.join(names)}")
    assert "engine" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("arguments", [["--help"], ["inspect", "--help"], ["nonsense"]])
def test_help_and_usage_errors_need_neither_torch_nor_qt(arguments: list[str]) -> None:
    loaded = loaded_after(
        "import main\n"
        f"try: main.main({arguments})\n"
        "except SystemExit as ended: assert ended.code in (0, 2)\n"
        "else: raise AssertionError"
    )
    assert "main" in loaded
    assert not loaded & HEAVY
