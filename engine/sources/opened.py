"""What every way of opening a model gives, and the consent that some of them need."""

import hashlib
from dataclasses import dataclass
from typing import Any

from torch import nn

from engine.errors import ConsentNeeded
from engine.requests import OpenRequest
from engine.state import ModelInfo


@dataclass(frozen=True)
class OpenedModel:
    """A model ready for a session.

    Attributes:
        inputs: positional arguments of its forward (tensors, or lists of tensors).
        architecture: the name that builds its unpruned structure again; "" when there is none, as
            for structures that came out of a file.
        data: name of the data set that belongs to it; "" when none is known.
    """

    info: ModelInfo
    model: nn.Module
    inputs: tuple[Any, ...]
    architecture: str = ""
    data: str = ""


def digest_of(content: bytes) -> str:
    """What consent is given to: SHA-256 of the content."""
    return hashlib.sha256(content).hexdigest()


def require_consent(
    request: OpenRequest, digest: str, what: str, runs: tuple[str, ...], reason: str
) -> None:
    """Go on only if the user allowed this very content to run.

    Args:
        digest: of the content that would run.
        what: its name, for the message.
        runs: names of classes and functions that would be called, as far as they can be told.
        reason: why it cannot be opened without, as a sentence.

    Raises:
        ConsentNeeded: not yet.
    """
    if digest not in request.trusted:
        raise ConsentNeeded(
            f"Opening {what} runs code that it names. {reason}",
            details={"digest": digest, "what": what, "runs": list(runs)},
        )
