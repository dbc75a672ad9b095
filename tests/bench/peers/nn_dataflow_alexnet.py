"""nn-dataflow's energy of the Caffe AlexNet on the Eyeriss array of ISCA 2016, as a JSON line.

    python nn_dataflow_alexnet.py LAYERS.csv BATCH

For an environment of its own: nn-dataflow 2.1 with sympy 1.5.1. Each layer is searched for itself,
one group of it, with the options and costs of nn-dataflow's own test of that paper.
"""

import csv
import json
import sys
import time
from pathlib import Path

from nn_dataflow.core import (
    ConvLayer,
    Cost,
    FCLayer,
    InputLayer,
    MapStrategyEyeriss,
    Network,
    NNDataflow,
    NodeRegion,
    Option,
    PhyDim2,
    Resource,
)

WORD = 2  # bytes


def main() -> None:
    """Search all layers and print seconds and energy, in units of one MAC."""
    path, batch = Path(sys.argv[1]), int(sys.argv[2])
    with path.open() as file:
        layers = list(csv.DictReader(line for line in file if not line.startswith("#")))
    started = time.perf_counter()
    energy = sum(layer_energy(layer, batch) for layer in layers)
    print(json.dumps({"seconds": time.perf_counter() - started, "energy": energy}))


def layer_energy(layer: dict[str, str], batch: int) -> float:
    """The least energy of one layer for the whole batch."""
    size = {name: int(value) for name, value in layer.items() if name != "layer"}
    groups = size["groups"]
    channels, filters = size["in_channels"] // groups, size["out_channels"] // groups
    padded = size["in_height"] + 2 * size["padding"]
    side = (padded - size["kernel"]) // size["stride"] + 1
    network = Network(layer["layer"])
    if size["in_height"] == 1:
        network.set_input_layer(InputLayer(channels, 1))
        network.add("it", FCLayer(channels, filters, 1))
    else:
        network.set_input_layer(InputLayer(channels, padded))
        network.add("it", ConvLayer(channels, filters, side, size["kernel"], size["stride"]))
    search = NNDataflow(network, batch, hardware(), costs(), MapStrategyEyeriss)
    schedules, _ = search.schedule_search(Option())
    return float(schedules[0].total_cost) * groups


def hardware() -> Resource:
    """One array of 16 x 16 with 512 B of registers each, and a buffer of 128 kB."""
    memory = NodeRegion(origin=PhyDim2(0, 0), dim=PhyDim2(1, 1), type=NodeRegion.DRAM)
    return Resource(
        proc_region=NodeRegion(origin=PhyDim2(0, 0), dim=PhyDim2(1, 1), type=NodeRegion.PROC),
        dram_region=memory,
        src_data_region=memory,
        dst_data_region=memory,
        dim_array=PhyDim2(16, 16),
        size_gbuf=128 * 1024 // WORD,
        size_regf=512 // WORD,
        array_bus_width=float("inf"),
        dram_bandwidth=float("inf"),
        no_time_mux=False,
    )


def costs() -> Cost:
    """Of DRAM, buffer, array and registers, in units of one MAC."""
    return Cost(mac_op=1, mem_hier=(200, 6, 2, 1), noc_hop=0, idl_unit=0)


if __name__ == "__main__":
    main()
