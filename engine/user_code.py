"""Functions of the user's own Python code, named by text and loaded only after consent.

A text is ``package.module:function`` or ``path/file.py:function``, either with keyword arguments
that are literals: ``nets.py:build(depth=18, groups=(1, 2))``.
"""

import ast
import hashlib
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial, reduce
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from engine.errors import ConsentNeeded, ModelNotFound, ModelUnreadable

_TEXT = re.compile(
    r"(?P<where>.+):(?P<name>[^\W\d]\w*(\.[^\W\d]\w*)*)(?P<arguments>\(.*\))?", re.DOTALL
)
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_MOST_BYTES = 16 << 20  # of a source file; none that anybody wrote is as long


@dataclass(frozen=True)
class FunctionName:
    """What a text names.

    Attributes:
        where: dotted name of a module, or path of a ``.py`` file.
        name: of the function in it; dots lead into classes.
        arguments: by keyword; None when the text has no parentheses.
    """

    where: str
    name: str
    arguments: Mapping[str, Any] | None = None

    @property
    def is_file(self) -> bool:
        """Whether ``where`` is a path."""
        return self.where.endswith(".py")

    @classmethod
    def parse(cls, text: str) -> "FunctionName":
        """Read a text; nothing is imported.

        Raises:
            ValueError: it names no function; the message says why.
        """
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"“{text}” is no function; write package.module:function")
        named = cls(found["where"], found["name"], _arguments(found["arguments"]))
        if not named.is_file and not _MODULE.fullmatch(named.where):
            raise ValueError(f"“{named.where}” is neither a module nor a .py file")
        return named


def names_function(text: str) -> bool:
    """Whether the text has the form of a function's name, there or not."""
    try:
        FunctionName.parse(text)
    except ValueError:
        return False
    return True


_allowed_here: set[str] = set()


def allowed_here() -> frozenset[str]:
    """Digests of the code that the user has allowed since this process began.

    What was allowed once may be loaded again, as describing and exporting a model needs.
    """
    return frozenset(_allowed_here)


def allow_here(digests: Iterable[str]) -> None:
    """Let code of these digests run from now on: the user allowed it, here or in the process that
    started this one.
    """
    _allowed_here.update(digests)


def require_allowed(text: str, trusted: frozenset[str]) -> None:
    """Go on only if the code that the text names may run; nothing of it has run.

    Raises:
        ConsentNeeded, ModelNotFound, ModelUnreadable: see :func:`load_function`.
    """
    _allowed(_parsed(text), trusted)


def require_call_allowed(text: str, trusted: frozenset[str]) -> None:
    """Go on only if this very call may be made, whose text a file holds; nothing of it has run.

    Code that the user allowed for one purpose must not serve a file for another: which of its
    functions is called, and with what, was chosen by whoever wrote the file.

    Raises:
        ConsentNeeded, ModelNotFound, ModelUnreadable: see :func:`load_function`.
    """
    named = _parsed(text)
    content = _content(named)
    digest = _digest_of_call(text, content)
    if digest not in trusted and digest not in _allowed_here:
        raise ConsentNeeded(
            f"The file names Python code that opening it would call: {text}.",
            details={
                "digest": digest,
                "what": named.where,
                "runs": [text],
            },
        )
    _allowed_here.update({digest, hashlib.sha256(content).hexdigest()})


def _digest_of_call(text: str, content: bytes) -> str:
    return hashlib.sha256(content + b"\0" + text.encode(errors="surrogatepass")).hexdigest()


def load_function(text: str, trusted: frozenset[str]) -> Callable[..., Any]:
    """The function that the text names, its arguments bound.

    Args:
        trusted: digests of code that the user allows to run. A file's is of its content; of an
            installed module's, the content of its own file.

    Raises:
        ConsentNeeded: the code has not been allowed yet; nothing of it has run.
        ModelNotFound: there is no such file, module or function.
        ModelUnreadable: the text is malformed, or the code raised.
    """
    named = _parsed(text)
    content, digest = _allowed(named, trusted)
    _allowed_here.add(_digest_of_call(text, content))  # what it makes may be written to a file
    function = _attribute(_loaded(named, content, digest), named)
    return function if named.arguments is None else partial(function, **named.arguments)


def _parsed(text: str) -> FunctionName:
    try:
        return FunctionName.parse(text)
    except ValueError as error:
        raise ModelUnreadable(f"{error}.", "Write package.module:function(key=value).") from error


def _allowed(named: FunctionName, trusted: frozenset[str]) -> tuple[bytes, str]:
    """The code's content and digest, if it may run; that is remembered."""
    content = _content(named)
    digest = hashlib.sha256(content).hexdigest()
    if digest not in trusted and digest not in _allowed_here:
        raise ConsentNeeded(
            f"Opening {named.where} runs the Python code in it.",
            details={
                "digest": digest,
                "what": named.where,
                "runs": [f"{named.where}:{named.name}"],
            },
        )
    _allowed_here.add(digest)
    return content, digest


def _arguments(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        call = ast.parse(f"f{text}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not isinstance(call.func, ast.Name):
            raise ValueError("only keyword arguments are understood")
        found = [(one.arg, ast.literal_eval(one.value)) for one in call.keywords]
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"the arguments {text[:80]} are no literals: {error}") from error
    if any(key is None for key, _ in found):
        raise ValueError(f"the arguments {text[:80]} must be written out")
    return {key: value for key, value in found if key is not None}


def _content(named: FunctionName) -> bytes:
    path = Path(named.where) if named.is_file else _module_file(named.where)
    try:
        if not path.is_file():
            kind = "is not a regular file" if path.exists() else "does not exist"
            raise ModelNotFound(f"The Python file {path} {kind}.", "Check its path.")
        if path.stat().st_size > _MOST_BYTES:
            raise ModelUnreadable(f"{path.name} is too long for a Python source file.")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelUnreadable(f"The Python file {path} cannot be read: {reason}.") from error


def _module_file(name: str) -> Path:
    """Where a module lies, found without importing it or the packages around it."""
    where = None
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        # What is no package holds no module, though the path may hold one of that name.
        inside = depth == 1 or where is not None
        spec = PathFinder.find_spec(".".join(parts[:depth]), where) if inside else None
        if spec is None:
            raise ModelNotFound(
                f"There is no Python module “{'.'.join(parts[:depth])}”.",
                "Install the package that it belongs to, or give the path of a .py file.",
            )
        where = spec.submodule_search_locations
    if not spec or not spec.has_location or spec.origin is None:
        raise ModelNotFound(f"The Python module “{name}” has no file.", "Name a module in it.")
    return Path(spec.origin)


def _loaded(named: FunctionName, content: bytes, digest: str) -> ModuleType:
    try:
        if not named.is_file:
            return import_module(named.where)
        name = f"secateur_user_{digest[:16]}"
        # Once: classes that were made twice are not the same class.
        return sys.modules.get(name) or _run(Path(named.where), content, name)
    except (Exception, SystemExit) as error:
        raise ModelUnreadable(
            f"{named.where} raised while it was loaded: {raised(error, named.where)}.",
            "Correct the file, or install what it imports.",
        ) from error


def raised(error: BaseException, path: str = "") -> str:
    """What the user's code raised, in one line, and where in the file if it was there."""
    said = str(error).strip().splitlines()
    text = type(error).__name__ + (f": {said[0]}" if said else "")
    path = str(Path(path))
    lines = [
        one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == path
    ]
    if isinstance(error, SyntaxError) and error.filename == path:
        text, lines = f"SyntaxError: {error.msg}", [error.lineno]
    return f"{text} (line {lines[-1]})" if lines else text.removesuffix(".")


def _run(path: Path, content: bytes, name: str) -> ModuleType:
    """Run a file's content, the very bytes that were allowed, as a module of that name."""
    module = ModuleType(name)
    module.__file__ = str(path)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses and pickle look there
    # What lies beside a script can be imported by it, as when Python runs it.
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise
    finally:
        with suppress(ValueError):  # the code may have taken it out
            sys.path.remove(folder)
    return module


def _attribute(module: ModuleType, named: FunctionName) -> Callable[..., Any]:
    try:
        found = reduce(getattr, named.name.split("."), module)
    except AttributeError:
        there = [name for name, one in vars(module).items() if _is_made_in(one, module)]
        has = f"It has {', '.join(sorted(there)[:10])}." if there else "It has no functions."
        raise ModelNotFound(
            f"{named.where} has no “{named.name}”.", f"Check the name of the function. {has}"
        ) from None
    if not callable(found):
        raise ModelUnreadable(f"{named.where}:{named.name} is no function.")
    return found


def _is_made_in(one: Any, module: ModuleType) -> bool:
    return callable(one) and getattr(one, "__module__", None) == module.__name__
