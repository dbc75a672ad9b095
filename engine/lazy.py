"""Names resolved when first used: the one place where a module is imported by string."""

from importlib import import_module
from typing import Any


def resolve(name: str) -> Any:
    """Import and return what ``"package.module:attribute"`` names.

    A frozen application cannot see imports by string: the PyInstaller recipe collects every
    module of ``engine`` and ``gui``, so names within those two always resolve.
    """
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
