"""ONNX Runtime beside the simulation: equal predictions, and how much of it runs in integers.

    python tests/bench/onnx_agreement.py [--samples N] [--only NETWORK]

Networks are those of tests/engine/recognizing.py, quantized as a whole to 8 bits.
"""

import argparse
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from figures import Figure  # noqa: E402

from engine.export.onnx_counts import in_words  # noqa: E402
from tests.engine.onnx_agreement import NETWORKS, agreement  # noqa: E402

ALLOWED = 0.5
"""Percent of samples whose prediction differs."""


def main() -> int:
    """Compare all, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--only", choices=NETWORKS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in NETWORKS if options.only is None else (options.only,):
        found = agreement(name, options.samples)
        print(
            f"{name:16} same class {found.same:.2%} (noise alone {found.unrest:.2%}, "
            f"int8 beside float {found.rounding:.2%}), error {found.error:.2%}, "
            f"{found.classes} classes, {found.bytes:,} bytes. "
            f"{in_words((found.convolutions, found.products))}",
            flush=True,
        )
    return 0


def figures(reduced: bool) -> Iterator[Figure]:
    """Percent of predictions that differ."""
    for name in list(NETWORKS)[:1] if reduced else NETWORKS:
        found = agreement(name, 100 if reduced else 1000)
        runs = f"{found.convolutions.integer} of {found.convolutions.total} convolutions, "
        runs += f"{found.products.integer} of {found.products.total} matrix products in integers"
        title = f"{name}: percent of predictions unlike ONNX Runtime's"
        yield Figure(title, 100 * (1 - found.same), ALLOWED, note=runs)


if __name__ == "__main__":
    sys.exit(main())
