"""Other libraries' 8-bit post-training quantization, on the same network and the same samples.

Weights by channel and static activations by tensor in both, by their own defaults.
"""

import contextlib
import copy
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Quantized: TypeAlias = Callable[[Tensor], Tensor]
Peer: TypeAlias = Callable[[nn.Module, Tensor], Quantized]
"""Network in evaluation mode and calibration samples (N, ...) to the quantized network."""

_BATCH = 32


def peers() -> dict[str, Peer]:
    """Those that are installed, by name with their version; the others are named on stderr."""
    found: dict[str, Peer] = {}
    for name, load in (("NNCF", _nncf), ("torchao", _torchao)):
        try:
            version, peer = load()
        except ImportError as error:
            print(f"{name} is left out: {error}.", file=sys.stderr)
        else:
            found[f"{name} {version} int8"] = peer
    return found


def _nncf() -> tuple[str, Peer]:
    # Absent, it sends nothing and writes no client id.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    with _quiet():
        import nncf
        from nncf.torch.quantization import extensions
    nncf.set_log_level(logging.ERROR)
    # NNCF's own fallback, instead of minutes of compiling for the same numbers.
    extensions.QuantizedFunctionsCPU._loaded_namespace = extensions.ReferenceQuantizedFunctions
    return nncf.__version__, _by_nncf


def _by_nncf(model: nn.Module, samples: Tensor) -> Quantized:
    import nncf

    with _quiet():
        quantized: Any = nncf.quantize(
            _Within(copy.deepcopy(model)).eval(),
            nncf.Dataset(list(samples.split(_BATCH))),
            subset_size=len(samples),
        )
    return _evaluated(quantized)


class _Within(nn.Module):
    """NNCF gives the network a child of its own, which a bare ``nn.Sequential`` would run."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.model(x)
        return output


def _torchao() -> tuple[str, Peer]:
    import torchao

    return torchao.__version__, _by_torchao


def _by_torchao(model: nn.Module, samples: Tensor) -> Quantized:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    # Its quantizer for x86 refuses networks with residual additions ("more than one output node").
    from torchao.testing.pt2e import _xnnpack_quantizer as xnnpack

    free = ({0: torch.export.Dim.AUTO},)
    with _quiet(), torch.no_grad():
        program = torch.export.export(
            copy.deepcopy(model).eval(), (samples[:2],), dynamic_shapes=free
        )
        quantizer = xnnpack.XNNPACKQuantizer()
        quantizer.set_global(xnnpack.get_symmetric_quantization_config(is_per_channel=True))
        prepared = prepare_pt2e(program.module(), quantizer)
        for part in samples.split(_BATCH):
            prepared(part)
        return _evaluated(convert_pt2e(prepared))


def _evaluated(model: Any) -> Quantized:
    """The model as a function, without gradients and passing warnings."""

    def run(x: Tensor) -> Tensor:
        with _quiet(), torch.no_grad():
            output: Tensor = model(x)
        return output

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings, no bars, and none of the minutes that NNCF takes for ``torch.compile``."""
    nowhere = contextlib.redirect_stdout(io.StringIO())
    with warnings.catch_warnings(), nowhere, torch.compiler.set_stance("force_eager"):
        warnings.simplefilter("ignore")
        yield
