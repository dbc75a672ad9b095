"""What the user asks for, beside edits: what to open, which data, how to run. Plain data, no torch.

Each has a text form where one is typed or kept: an input such as ``1x3x224x224`` or
``1x128:int64<30522``.
"""

import re
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

_SPEC = re.compile(r"(?P<shape>\d+([x×,]\d+)*)?(:(?P<dtype>\w+))?(<(?P<high>\d+))?(?P<list>\[\])?")

DTYPES = (
    "float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool",
)  # fmt: skip
"""Types an input can have."""

MOST_ELEMENTS = 1 << 28
"""Elements that one sample input may have."""


@dataclass(frozen=True)
class InputSpec:
    """One input of a model.

    Attributes:
        shape: batch first.
        dtype: torch's name of it.
        high: integers are drawn from 0 up to below this (a vocabulary's size).
        listed: given as a list of single samples without the batch axis, as detection models
            take their images.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    high: int = 2
    listed: bool = False

    def __str__(self) -> str:
        """The text that :meth:`parse` reads."""
        dtype = "" if self.dtype == "float32" else f":{self.dtype}"
        high = "" if self.high == 2 else f"<{self.high}"
        return "x".join(map(str, self.shape)) + dtype + high + ("[]" if self.listed else "")

    @classmethod
    def parse(cls, text: str) -> "InputSpec":
        """Read ``1x3x224x224``, ``1x128:int64<30522`` or, for a list of images, ``1x3x480x640[]``.

        Raises:
            ValueError: it is none of these; the message says why.
        """
        found = _SPEC.fullmatch(text.replace(" ", ""))
        if found is None:
            raise ValueError(f"“{text}” is no input; write 1x3x224x224 or 1x128:int64<30522")
        shape = tuple(int(side) for side in re.split("[x×,]", found["shape"] or "") if side)
        dtype = found["dtype"] or "float32"
        if dtype not in DTYPES:
            raise ValueError(f"there is no type “{dtype}”; choose one of {', '.join(DTYPES)}")
        if 0 in shape:
            raise ValueError(f"“{text}” has a side of length zero")
        if prod(shape) > MOST_ELEMENTS:
            raise ValueError(f"“{text}” is too large for a sample input")
        high = max(1, int(found["high"] or 2))
        return cls(shape, dtype, high, bool(found["list"]))


@dataclass(frozen=True)
class OpenRequest:
    """What to open, and what its file does not say.

    Attributes:
        source: ``demo``, a catalogue name (``resnet50``, ``torchvision:resnet50@IMAGENET1K_V2``
            with published weights, ``timm:…``), a path, or a Python factory with its arguments
            (``package.module:function``, ``file.py:function(depth=18)``).
        inputs: the sample inputs, where the source does not say or the user wants others.
        architecture: what tensors without a structure belong to: a catalogue name or a factory.
        trusted: digests that :class:`engine.errors.ConsentNeeded` named: the user allows what
            they stand for to run.
        download: whether weights that are not on this machine may be fetched.
    """

    source: str
    inputs: tuple[InputSpec, ...] = ()
    architecture: str = ""
    trusted: frozenset[str] = frozenset()
    download: bool = False


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a sample; applied in the order of the fields.

    Attributes:
        colour: pictures are turned into this many channels first.
        resize: the shorter side is brought to one number, or height and width to two.
        crop: height and width that are cut from the middle.
        interpolation: of resizing.
        mean, std: of each channel, for values in 0 to 1; empty: no normalisation.
    """

    colour: Literal["RGB", "grey"] = "RGB"
    resize: tuple[int, ...] = ()
    crop: tuple[int, ...] = ()
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __str__(self) -> str:
        """The text that :meth:`parse` reads."""
        sides = [("resize", self.resize), ("crop", self.crop)]
        said = [f"colour={self.colour}"]
        said += [f"{name}={'x'.join(map(str, found))}" for name, found in sides if found]
        if self.resize:
            said.append(f"interpolation={self.interpolation}")
        numbers = [("mean", self.mean), ("std", self.std)]
        said += [f"{name}={','.join(map(str, found))}" for name, found in numbers if found]
        return ",".join(said)

    @classmethod
    def parse(cls, text: str) -> "Preprocessing":
        """Read ``resize=256,crop=224,mean=0.485,0.456,0.406,std=0.229,0.224,0.225``.

        Also ``colour=grey``, ``interpolation=bicubic``, and two sides as ``resize=256x320``.

        Raises:
            ValueError: it is none of these; the message says why.
        """
        fields: dict[str, list[str]] = {}
        key = ""
        for part in text.replace(" ", "").split(","):
            name, sign, value = part.rpartition("=")
            key = name if sign else key
            if key not in cls.__dataclass_fields__ or (sign and key in fields):
                raise ValueError(f"“{part}” is no step; write resize=256,crop=224,mean=0.5,std=0.5")
            fields.setdefault(key, []).append(value)
        return cls(**{key: _read_step(key, values) for key, values in fields.items()})


_CHOICES = {"colour": ("RGB", "grey"), "interpolation": ("nearest", "bilinear", "bicubic")}


def _read_step(key: str, values: list[str]) -> Any:
    """The value of one field of :class:`Preprocessing`."""
    if key in _CHOICES:
        if values[0] not in _CHOICES[key] or len(values) > 1:
            raise ValueError(f"{key} is one of {', '.join(_CHOICES[key])}, not {','.join(values)}")
        return values[0]
    if key in ("mean", "std"):
        return tuple(float(one) for one in values)
    return tuple(int(side) for one in values for side in re.split("[x×]", one))


METRIC_NAMES = ("top-1", "top-5", "mean IoU")
"""Metrics that need no code of the user's."""


@dataclass(frozen=True)
class DataRequest:
    """Which data calibrates and reports.

    Attributes:
        source: ``digits``, a folder of pictures, ``torchvision:CIFAR10:ROOT``, a file of tensors
            (``.npz``, ``.safetensors``), or a factory as in :class:`OpenRequest`.
        preprocessing: None: as the model's weights were evaluated, or fitted to its input.
        metric: one of :data:`METRIC_NAMES`, a factory of one, or "" for the task's usual one.
        broken: what a sample that cannot be read does.
        most: validation samples to use, 0 for all.
        trusted: as in :class:`OpenRequest`.
    """

    source: str
    preprocessing: Preprocessing | None = None
    metric: str = ""
    broken: Literal["skip", "stop"] = "stop"
    most: int = 0
    trusted: frozenset[str] = frozenset()


@dataclass(frozen=True)
class RunSettings:
    """How a model is run while it is measured.

    Attributes:
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        threads: of the processor's operators; 0 as torch has it.
        batch: samples at once; 0 as the sample input has it.
        dtype: ``float32``, ``bfloat16`` or ``float16`` of weights and inputs; "" as they are.
        channels_last: memory order of images.
        autocast: let torch choose the lower precision operator by operator (to ``bfloat16`` on a
            processor, ``float16`` elsewhere).
        backward: run the gradient's pass as well.
    """

    device: str = "cpu"
    threads: int = 0
    batch: int = 0
    dtype: str = ""
    channels_last: bool = False
    autocast: bool = False
    backward: bool = False


@dataclass(frozen=True)
class Candidate:
    """An architecture that tensors may belong to.

    Attributes:
        source: what :attr:`OpenRequest.architecture` takes.
        matching, total: tensors whose name and shape agree, of those that the architecture has.
        differing: some of the tensors that do not agree, in words.
        note: such as ``10 classes instead of 1,000``.
    """

    source: str
    matching: int
    total: int
    differing: tuple[str, ...] = field(default=())
    note: str = ""

    @property
    def fits(self) -> bool:
        """Whether the tensors can be opened as this."""
        return self.matching == self.total
