"""ZigZag's energy of the Caffe AlexNet on an array of 16 x 16, as a JSON line.

    python zigzag_alexnet.py LAYERS.csv BATCH

For an environment of its own: zigzag-dse. Memories and costs are those of the ISCA 2016 Eyeriss
study; ZigZag has no cost between processing elements, and searches the spatial mapping itself.
"""

import contextlib
import csv
import io
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from zigzag.api import get_hardware_performance_zigzag

WORD = 16  # bits
SIDE = 16
ELEMENTS = SIDE**2
OPERANDS = ("I1", "I2", "O")


def main() -> None:
    """Search all layers and print seconds and energy, in units of one MAC."""
    path, batch = Path(sys.argv[1]), int(sys.argv[2])
    with path.open() as file:
        layers = list(csv.DictReader(line for line in file if not line.startswith("#")))
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        files = {"hardware": hardware(), "mapping": mapping()}
        for name, content in files.items():
            Path(folder, f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            energy, _, _ = get_hardware_performance_zigzag(
                [workload(at, layer, batch) for at, layer in enumerate(layers)],
                f"{folder}/hardware.yaml",
                f"{folder}/mapping.yaml",
                opt="energy",
                dump_folder=f"{folder}/out",
                loma_show_progress_bar=False,
            )
        seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "energy": float(energy)}))


def workload(at: int, layer: dict[str, str], batch: int) -> dict[str, Any]:
    """One layer as ZigZag describes it; no layer feeds another."""
    size = {name: int(value) for name, value in layer.items() if name != "layer"}
    groups, kernel, stride = size["groups"], size["kernel"], size["stride"]
    padding, height = size["padding"], size["in_height"]
    side = (height + 2 * padding - kernel) // stride + 1
    loops = {
        "B": batch, "K": size["out_channels"] // groups, "G": groups, "OX": side, "OY": side,
        "C": size["in_channels"] // groups, "FX": kernel, "FY": kernel,
    }  # fmt: skip
    return {
        "id": at,
        "name": layer["layer"],
        "operator_type": "Conv",
        "equation": "O[b][g][k][oy][ox]+=W[g][k][c][fy][fx]*I[b][g][c][iy][ix]",
        "loop_dims": list(loops),
        "loop_sizes": list(loops.values()),
        "dimension_relations": [f"ix={stride}*ox+1*fx", f"iy={stride}*oy+1*fy"],
        "operand_precision": {"W": WORD, "I": WORD, "O": WORD, "O_final": WORD},
        "operand_source": {"W": at, "I": at},
        "pr_loop_dims": ["IX", "IY"],
        "pr_loop_sizes": [height, height],
        "padding": [[padding, padding], [padding, padding]],
    }


def hardware() -> dict[str, Any]:
    """512 B of registers an element, a buffer of 128 kB, DRAM; costs in units of one MAC."""
    return {
        "name": "eyeriss_isca2016",
        "memories": {
            "registers": memory(512 * 8, 1.0, 1, []),
            "buffer": memory(128 * 1024 * 8, 6.0, ELEMENTS, ["D1", "D2"]),
            "dram": memory(10**10, 200.0, ELEMENTS, ["D1", "D2"]),
        },
        "operational_array": {
            "unit_energy": 1.0,
            "unit_area": 0.0,
            "dimensions": ["D1", "D2"],
            "sizes": [SIDE, SIDE],
        },
    }


def memory(bits: int, cost: float, words: int, serves: list[str]) -> dict[str, Any]:
    """A memory of all operands; ``cost`` is of one word, whichever way it goes.

    Args:
        words: that it can deliver at once. ZigZag leaves elements idle that a memory cannot feed,
            and prices an access of full width.
    """
    ways = [f"{operand}, {way}" for operand in ("I1", "I2") for way in ("fh", "tl")]
    ways += [f"O, {way}" for way in ("fh", "tl", "fl", "th")]
    port = {"name": "rw_port_1", "type": "read_write", "allocation": ways}
    return {
        "size": bits,
        "r_cost": cost * words,
        "w_cost": cost * words,
        "area": 0.0,
        "latency": 1,
        "operands": list(OPERANDS),
        "ports": [{**port, "bandwidth_min": WORD, "bandwidth_max": WORD * words}],
        "served_dimensions": serves,
    }


def mapping() -> list[dict[str, Any]]:
    """Any spatial mapping that ZigZag finds."""
    return [{"name": "default", "memory_operand_links": {"O": "O", "W": "I2", "I": "I1"}}]


if __name__ == "__main__":
    main()
