"""What differs in one layer of a model from the architecture that it is described by.

Strictly read: a value that no layer of ours could have is refused before anything is made of it.
"""

from dataclasses import asdict, field, replace
from math import prod
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from engine.batch_norms import FOLDABLE, is_batch_norm
from engine.edits import Granularity, InputGrid, IntegerBits, RoundedOperator, Scale
from engine.half_layers import HALF, HalfWeights, half_from
from engine.integer_layers import (
    QUANTIZED,
    IntegerWeights,
    WeightFormat,
    integer_range,
    quantized_from,
)
from engine.layers import LayerId
from engine.pruned_layers import (
    Factors,
    Folded,
    Form,
    Removed,
    explicit_attention,
    factors_of,
    form_for,
    heads_of,
    is_explicit,
    reads_projections,
    why_heads_stay,
    why_not_explicit,
    without_heads,
)
from engine.rounded_operators import RoundedOperators, round_operators, why_not_rounded
from engine.sharing import replace_module

_STRUCTURE = (
    "in_channels", "out_channels", "groups", "in_features", "out_features",
    "num_features", "num_parameters", "normalized_shape", "num_channels", "num_groups",
    "embedding_dim",
)  # fmt: skip

_HALF_NAMES: dict[torch.dtype, Literal["float16", "bfloat16"]] = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}
_HALF_TYPES = {name: dtype for dtype, name in _HALF_NAMES.items()}

_MOST_CHANNELS = 2**31 - 1
Shape = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(config=STRICT)
class GridDescription:
    """The grid of an activation, as in :class:`engine.edits.InputGrid`."""

    bits: Literal[8, 16]
    scale: Scale | None
    zero_point: int
    symmetric: bool

    def __post_init__(self) -> None:
        low, high = integer_range(self.bits)
        if not low <= self.zero_point <= high:
            raise ValueError(f"{self.zero_point} is no integer of {self.bits} bits")

    @property
    def grid(self) -> InputGrid:
        """The grid itself."""
        return InputGrid(self.bits, self.scale, self.zero_point, self.symmetric)


@dataclass(config=STRICT)
class IntegersDescription:
    """What integers a layer's weights are; their scales are tensors of the file.

    Attributes:
        bits, symmetric: as in :class:`engine.edits.WeightGrid`.
        granularity: what has a scale of its own.
        group_size: weights of a row in a group; 0 without groups.
        input: None where the input stays in float.
        masked: whether zeros among them are a mask, which training leaves.
    """

    bits: IntegerBits
    symmetric: bool
    granularity: Granularity
    group_size: Annotated[int, Field(ge=0)] = 0
    input: GridDescription | None = None
    masked: bool = False

    def __post_init__(self) -> None:
        if bool(self.group_size) != (self.granularity == "group"):
            raise ValueError("groups have a size, and nothing else has")

    @property
    def format(self) -> WeightFormat:
        """The format of the layer."""
        return WeightFormat(self.bits, self.symmetric, self.group_size)

    def scales(self, weight: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the scales of a weight of that shape."""
        if not self.group_size:
            return {"tensor": (), "channel": weight[:1]}[self.granularity]
        if prod(weight[1:]) % self.group_size:
            raise ValueError(f"rows of {prod(weight[1:])} have no groups of {self.group_size}.")
        return weight[0], prod(weight[1:]) // self.group_size


@dataclass(config=STRICT)
class OperatorDescription:
    """An operator of a layer's own code, as in :class:`engine.edits.RoundedOperator`."""

    name: Literal["add", "matmul"]
    inputs: tuple[GridDescription | None, GridDescription | None]

    @property
    def operator(self) -> RoundedOperator:
        """The operator itself."""
        grids = (None if one is None else one.grid for one in self.inputs)
        return RoundedOperator(self.name, tuple(grids))


@dataclass(config=STRICT)
class LayerDescription:
    """What differs in one layer, once all that is said of the layers above it is done.

    Attributes:
        structure: hyperparameters by torch's names.
        integers: set for layers of integer weights.
        dtype: set for layers in 16-bit floating point.
        bias: whether a layer of integer weights has a bias, or another where it differs.
        folded_into: set for a batch norm that went into another layer.
        heads: how many an attention layer has left.
        explicit: set for attention that calls its projections, with all its heads.
        operators: all that the layer's own code calls, where some of them round.
        rank, full_rank, form: of the two factors that a layer is now; they are described as layers
            of their own.
        removed: set for a residual block that hands its input on.
    """

    structure: dict[str, PositiveInt | Shape] = field(default_factory=dict)
    integers: IntegersDescription | None = None
    dtype: Literal["float16", "bfloat16"] | None = None
    bias: bool | None = None
    folded_into: str | None = None
    heads: PositiveInt | None = None
    explicit: Literal[True] | None = None
    operators: tuple[OperatorDescription, ...] = ()
    rank: Annotated[PositiveInt, Field(le=_MOST_CHANNELS)] | None = None
    full_rank: Annotated[PositiveInt, Field(le=_MOST_CHANNELS)] | None = None
    form: Form | None = None
    removed: Literal[True] | None = None


def difference(module: nn.Module, reference: nn.Module) -> LayerDescription | None:
    """What to say of ``module`` so that ``reference`` can be turned into it; None: nothing."""
    found = _own_difference(module, reference)
    if not isinstance(module, RoundedOperators):
        return found
    operators = tuple(map(_operator_of, module.operators))
    return replace(found or LayerDescription(), operators=operators)


def _own_difference(module: nn.Module, reference: nn.Module) -> LayerDescription | None:
    if isinstance(module, Folded) and not isinstance(reference, Folded):
        return LayerDescription(folded_into=module.into)
    if isinstance(module, Removed) and not isinstance(reference, Removed):
        return LayerDescription(removed=True)
    if isinstance(module, Factors) and not isinstance(reference, Factors):
        return LayerDescription(rank=module.rank, full_rank=module.full_rank, form=module.form)
    if heads_of(module) != heads_of(reference):
        return LayerDescription(heads=heads_of(module))
    if is_explicit(module) and not is_explicit(reference):
        return LayerDescription(explicit=True)
    structure = {
        name: getattr(module, name)
        for name in _STRUCTURE
        if isinstance(getattr(module, name, None), int | tuple)
        and getattr(module, name) != getattr(reference, name, None)
    }
    has_bias = getattr(module, "bias", None) is not None
    if isinstance(module, IntegerWeights):
        return LayerDescription(structure, _integers_of(module), bias=has_bias)
    gained = has_bias and type(reference) in FOLDABLE and reference.bias is None
    dtype = _HALF_NAMES[module.weight.dtype] if isinstance(module, HalfWeights) else None
    if structure or gained or dtype:
        return LayerDescription(structure, dtype=dtype, bias=True if gained else None)
    return None


def _integers_of(module: IntegerWeights) -> IntegersDescription:
    form, grid = module.weight_format, module.input_grid
    granularity: tuple[Granularity, ...] = ("tensor", "channel", "group")
    return IntegersDescription(
        form.bits,
        form.symmetric,
        granularity[module.weight_scale.dim()],
        form.group_size,
        _grid_of(grid),
        module.is_masked,
    )


def _grid_of(grid: InputGrid | None) -> GridDescription | None:
    return None if grid is None else GridDescription(**asdict(grid))


def _operator_of(operator: RoundedOperator) -> OperatorDescription:
    first, second = map(_grid_of, operator.inputs)
    return OperatorDescription(operator.name, (first, second))


def restore(model: nn.Module, layer: LayerId, found: LayerDescription) -> None:
    """Give one layer the described structure, its tensors left empty."""
    _restore(model, layer, found)
    if found.operators:
        module = model.get_submodule(layer)
        if why := why_not_rounded(module):
            raise ValueError(f"{layer or 'the model'} cannot round its operators: it {why}.")
        round_operators(module, tuple(one.operator for one in found.operators))


def _restore(model: nn.Module, layer: LayerId, found: LayerDescription) -> None:
    module: Any = model.get_submodule(layer)
    if _replaced(layer, found):
        replace_module(model, layer, _stand_in(layer, module, found))
        return
    for name, value in found.structure.items():
        if name not in _STRUCTURE or type(getattr(module, name)) is not type(value):
            raise ValueError(f"{layer} has no {name} of that kind.")
        setattr(module, name, value)
    if found.bias and type(module) in FOLDABLE and module.bias is None:
        module.bias = nn.Parameter(module.weight.new_empty(0))
    for name, shape in _shapes(module).items():
        old = getattr(module, name, None)
        if isinstance(old, nn.Parameter):
            setattr(module, name, nn.Parameter(old.new_empty(shape)))
        elif isinstance(old, Tensor):
            setattr(module, name, old.new_empty(shape))
    if found.integers is not None:
        quantized = _quantized(layer, module, found.integers, bool(found.bias))
        replace_module(model, layer, quantized)
    elif found.dtype is not None:
        if type(module) not in HALF:
            raise ValueError(f"{layer} ({type(module).__name__}) cannot be in {found.dtype}.")
        replace_module(model, layer, half_from(module, _HALF_TYPES[found.dtype]))


def _replaced(layer: LayerId, found: LayerDescription) -> bool:
    """Whether something else stands in the layer's place; else the layer itself was changed."""
    factors = found.rank, found.full_rank, found.form
    ways = [
        found.folded_into is not None,
        found.removed is not None,
        found.heads is not None,
        found.explicit is not None,
        factors != (None,) * 3,
    ]
    rounded = found.integers is not None, found.dtype is not None
    changed = bool(found.structure) or found.bias is not None or any(rounded)
    if sum(ways) + changed > 1 or all(rounded) or (ways[-1] and None in factors):
        raise ValueError(f"{layer or 'the model'} is described in two ways, or in half of one.")
    return any(ways)


def _stand_in(layer: LayerId, module: Any, found: LayerDescription) -> nn.Module:
    """What an edit put in the layer's place."""
    if found.folded_into is not None:
        if not is_batch_norm(module):
            raise ValueError(f"{layer or 'the model'} cannot be folded into another layer.")
        return Folded(module, found.folded_into)
    if found.heads is not None:
        return _with_heads(layer, module, found.heads)
    if found.explicit is not None:
        return _explicit(layer, module)
    if found.rank is not None and found.full_rank is not None and found.form is not None:
        return _factorised(layer, module, found.rank, found.full_rank, found.form)
    if not layer:
        raise ValueError("the model as a whole cannot be removed.")
    return Removed(type(module).__name__)


def _with_heads(layer: LayerId, module: nn.Module, heads: int) -> nn.Module:
    before = heads_of(module)
    if before is None or heads >= before or why_heads_stay(module):
        raise ValueError(f"{layer or 'the model'} cannot have {heads} heads.")
    return without_heads(module, range(heads, before))


def _explicit(layer: LayerId, module: nn.Module) -> nn.Module:
    if not layer or not reads_projections(module) or why_not_explicit(module):
        raise ValueError(f"{layer or 'the model'} is no attention that can call its projections.")
    return explicit_attention(module)


def _factorised(
    layer: LayerId, module: nn.Module, rank: int, full_rank: int, form: Form
) -> nn.Module:
    plain = type(module) in QUANTIZED and getattr(module, "groups", 1) == 1
    if not plain or form != form_for(module, form):
        raise ValueError(f"{layer or 'the model'} cannot be two factors, “{form}”.")
    return factors_of(module, rank, form, full_rank)


def _quantized(
    layer: LayerId, module: Any, found: IntegersDescription, has_bias: bool
) -> nn.Module:
    if type(module) not in QUANTIZED:
        raise ValueError(f"{layer} ({type(module).__name__}) cannot hold integer weights.")
    shape = tuple(module.weight.shape)
    scales = found.scales(shape)
    with torch.device("meta"):
        made: Any = quantized_from(
            module,
            torch.empty(shape, dtype=found.format.dtype),
            torch.empty(shape[0]) if has_bias else None,
            torch.empty(scales),
            torch.empty(scales, dtype=torch.int64),
            found.format,
            None if found.input is None else found.input.grid,
        )
    made.is_masked = found.masked
    return made  # type: ignore[no-any-return]


def _shapes(module: Any) -> dict[str, tuple[int, ...]]:
    """Shapes that the module's tensors must have by its hyperparameters."""
    if isinstance(module, nn.modules.conv._ConvNd):
        sides = (module.out_channels, module.in_channels // module.groups)
        if module.transposed:
            sides = (module.in_channels, module.out_channels // module.groups)
        return {"weight": (*sides, *module.kernel_size), "bias": (module.out_channels,)}
    if isinstance(module, nn.Linear):
        return {
            "weight": (module.out_features, module.in_features),
            "bias": (module.out_features,),
        }
    if isinstance(module, nn.Embedding):
        return {"weight": (module.num_embeddings, module.embedding_dim)}
    normalized = getattr(module, "normalized_shape", None)
    if isinstance(normalized, tuple):
        return dict.fromkeys(("weight", "bias"), normalized)
    count = next(
        (
            getattr(module, name)
            for name in ("num_features", "num_parameters", "num_channels")
            if hasattr(module, name)
        ),
        None,
    )
    if count is None:
        return {}
    return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (count,))
