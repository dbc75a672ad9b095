"""Data sets and metrics of the user's own Python code, after consent."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from engine.child import run_in_child
from engine.datasets.map_style import MapStyle, class_names
from engine.datasets.splits import HELD_BACK, Stored, stratified
from engine.errors import (
    ConsentNeeded,
    DataSetMismatch,
    DataSetNotFound,
    DataSetUnreadable,
    ModelNotFound,
    ModelUnreadable,
    is_out_of_memory,
)
from engine.job import Job
from engine.user_code import FunctionName, allowed_here, load_function, require_allowed

_RETURNS = "Return one data set with len() and [], or a pair of them: training and validation."


def open_factory(text: str, trusted: frozenset[str], job: Job) -> Stored:
    """What a function returns: a map-style data set of (sample, target), or two.

    It is called in a child process first, so that a crash costs nothing.

    Raises:
        ConsentNeeded: its code has not been allowed to run.
        DataSetNotFound: there is no such file, module or function.
        DataSetUnreadable: it raised, or returned something else.
    """
    with _words_of_data():
        require_allowed(text, trusted)
    payload = {"source": text, "trusted": sorted(trusted | allowed_here())}
    run_in_child(f"{__name__}:try_factory", payload, job)
    training, validation = _called(text, trusted)
    name = FunctionName.parse(text).name
    if validation is not None:
        halves = [(MapStyle(one), range(len(one))) for one in (training, validation)]
        said = f"What {text} returns: a training and a validation data set."
        return Stored(name, class_names(validation), halves[0], halves[1], said)
    places = stratified(_labels(training))
    one = MapStyle(training)
    said = f"What {text} returns. {HELD_BACK}"
    return Stored(name, class_names(training), (one, places[0]), (one, places[1]), said)


def _labels(dataset: Any) -> Sequence[int]:
    """Class numbers that the data set tells without being read; one class for all otherwise."""
    labels: Any = getattr(dataset, "targets", None)
    told = isinstance(labels, list) and all(isinstance(label, int) for label in labels)
    return labels if told and len(labels) == len(dataset) else [0] * len(dataset)


def try_factory(payload: dict[str, Any]) -> None:
    """Call ``payload["source"]`` and read one sample; for a process of its own."""
    training, validation = _called(payload["source"], frozenset(payload["trusted"]))
    for one in (training, validation):
        if one is not None:
            try:
                one[0]
            except Exception:  # a broken sample, which whoever evaluates will be told of
                continue


def metric_of(text: str, trusted: frozenset[str]) -> Callable[[], Any]:
    """What makes a fresh metric: a function, or an object with ``update`` and ``compute``.

    A text with parentheses is called to make it; one without is the metric itself.

    Raises:
        ConsentNeeded: its code has not been allowed to run.
        DataSetNotFound: there is no such file, module or function.
    """
    with _words_of_data():
        found = load_function(text, trusted)
    makes = isinstance(found, type) or FunctionName.parse(text).arguments is not None
    return found if makes else lambda: copy.deepcopy(found)


@contextmanager
def _words_of_data() -> Iterator[None]:
    """Turn errors about models into errors about data."""
    try:
        yield
    except ConsentNeeded:
        raise
    except ModelNotFound as error:
        raise DataSetNotFound(str(error), error.remedy) from error
    except ModelUnreadable as error:
        raise DataSetUnreadable(str(error), "Correct the code, or how it is named.") from error


def _called(text: str, trusted: frozenset[str]) -> tuple[Any, Any | None]:
    """The training and the validation data set, or one for both and None."""
    with _words_of_data():
        function = load_function(text, trusted)
    try:
        made = function()
    except (Exception, SystemExit) as error:
        if isinstance(error, Exception) and is_out_of_memory(error):
            raise
        raise DataSetUnreadable(
            f"{text} raised {type(error).__name__}: {error}.", "Correct the function."
        ) from error
    pair = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    for one in pair:
        if one is not None:
            _check_map_style(one, text)
    return pair


def _check_map_style(made: Any, text: str) -> None:
    if not (hasattr(made, "__len__") and hasattr(made, "__getitem__")):
        raise DataSetUnreadable(
            f"{text} returned a {type(made).__name__}, which gives no sample by its number.",
            _RETURNS,
        )
    if not len(made):
        raise DataSetMismatch(f"{text} returned a data set without samples.", _RETURNS)
