"""Secateur's entry point: the window, or a subcommand that does the same work without one."""

from __future__ import annotations

import argparse
import io
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import engine
from engine import (
    DATAFLOWS,
    METRIC_NAMES,
    METRICS,
    ArchitectureNeeded,
    ConsentNeeded,
    DataRequest,
    EnergySettings,
    EngineError,
    InputsNeeded,
    InputSpec,
    Job,
    LayerId,
    Limit,
    OpenRequest,
    Preprocessing,
    PruneChannels,
    Quantize,
    RunSettings,
    Snapshot,
    WeightsMissing,
    run_application,
    run_in_child,
    write_atomically,
)
from engine.child import FLAG, serve
from gui import catalogue_text, energy_text, model_text, profile_text, sensitivity_text, system
from gui import format as text
from gui.models.energy_unit import UNIT_NAMES, EnergyUnit, UnitName
from gui.recovery_options import add_recovery, recovery_of
from gui.sensitivity_options import add_sensitivity, request_of

if TYPE_CHECKING:
    from engine import DescriptionReport, Grid, Grouping, Hardware, ModelSession

R = TypeVar("R", OpenRequest, DataRequest)
T = TypeVar("T")

OK, USAGE, UNMET, FAILED, INTERRUPTED = 0, 2, 3, 4, 130

DEMO_FOLDER = "secateur-demo"
DEMO_LAYER = "stage1.block0.conv2"
DEMO_RATIO = 0.3
PICTURE_SECONDS = 180
MOST_PIXELS = 16_384  # a side
_MOST_RUNS = 8

_EXIT_CODES = """exit codes:
  0  done
  2  the command line is not understood
  3  done, but a limit is not met
  4  the input cannot be used, or the result could not be written; one line says why
  130  interrupted"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    started = time.perf_counter()
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not every terminal's encoding has “≤” and “µ”
            stream.reconfigure(errors="backslashreplace")
    if arguments[:1] == [FLAG]:
        return serve(arguments[1])
    options = _parser().parse_args(arguments)
    options.started = started
    try:
        return int(options.run(options))
    except EngineError as error:
        _complain(f"{error} {error.remedy}")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `… | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:  # a full disk behind `… > file`
        _complain(f"The result could not be written: {error.strerror or error}.")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="secateur",
        description="Cut a neural network down to an energy, latency and memory budget. "
        "Without a command the window opens on the embedded demo.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_window_options(parser)
    parser.set_defaults(run=_window, model=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=summary, description=summary)
        made.set_defaults(run=run)
        return made

    one = command("window", _window, "open the window on a model")
    one.add_argument("model", nargs="?", metavar="MODEL", help=_MODEL)
    # Without defaults of its own: they would undo what stands before the command.
    _add_window_options(one, argparse.SUPPRESS)

    one = command("inspect", _inspect, "show layer by layer what a model costs")
    _add_model(one)
    one.add_argument("--latency", action="store_true", help="measure latency on this machine too")
    _add_hardware(one)
    _add_json(one)

    one = command("apply", _apply, "apply a recipe and export the result")
    _add_model(one)
    one.add_argument("recipe", metavar="RECIPE", type=Path, help="a recipe that Secateur saved")
    one.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="checkpoint (.safetensors), exported program (.pt2) or ONNX file (.onnx) to write",
    )
    _add_json(one)

    one = command("tune", _tune, "win back the accuracy that pruning cost, by training")
    _add_model(one)
    _add_data(one)
    one.add_argument("--recipe", type=Path, metavar="FILE", help="apply this recipe first")
    add_recovery(one)
    one.add_argument("--save-recipe", type=Path, metavar="FILE", help="write all edits here")
    one.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="export to .safetensors, .pt2 or .onnx as “apply” does",
    )
    _add_json(one)

    one = command("sensitivity", _sensitivity, "measure what each layer can bear")
    _add_model(one)
    _add_data(one)
    one.add_argument("--recipe", type=Path, metavar="FILE", help="apply this recipe first")
    add_sensitivity(one)

    one = command("evaluate", _evaluate, "measure accuracy and check limits")
    _add_model(one)
    _add_data(one)
    one.add_argument("--recipe", type=Path, metavar="FILE", help="apply this recipe first")
    one.add_argument("--min-accuracy", metavar="A", help="0 to 1, or a share of base such as 99%%")
    for key in ("energy", "latency", "size"):
        one.add_argument(
            f"--max-{key}",
            metavar="X",
            help=f"such as {_EXAMPLES[key]}, or a share of base such as 50%%",
        )
    _add_hardware(one)
    _add_json(one)

    _add_energy(command("energy", _energy, "model layer by layer the energy of an inference"))

    _add_profile(command("profile", _profile, "measure where time and memory go on this machine"))

    _add_catalogue(
        command("catalogue", _catalogue, "compare the models that can be opened by name")
    )

    one = command("demo", _demo, "do the main job on the embedded model: prune, quantize, export")
    one.add_argument("--out", type=Path, default=Path(DEMO_FOLDER), metavar="DIR")
    _add_json(one)
    return parser


_MODEL = (
    "“demo”, a name that “catalogue” lists such as resnet50 (resnet50@IMAGENET1K_V2 with published "
    "weights), a checkpoint, an exported program, an ONNX file, a network description as the MIT "
    "energy tool takes it, or a Python factory such as package.module:function or "
    "file.py:function(depth=18)"
)
_GROUPINGS: Mapping[str, Grouping] = {"data-type": "data type", "level": "level"}
_EXAMPLES = {"energy": "50uJ", "latency": "2ms", "size": "200kB"}


def _add_model(parser: argparse.ArgumentParser, nargs: Literal["?"] | None = None) -> None:
    parser.add_argument("model", nargs=nargs, metavar="MODEL", help=_MODEL)
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="SPEC",
        help="shape and type of one input, such as 1x3x224x224 or 1x128:int64<30522; once for each",
    )
    parser.add_argument(
        "--architecture",
        default="",
        metavar="NAME",
        help="what a checkpoint's tensors belong to: a catalogue name or a Python factory",
    )
    parser.add_argument(
        "--trust", action="store_true", help="let the code that the file holds or names run"
    )
    parser.add_argument(
        "--download", action="store_true", help="fetch published weights that are not here yet"
    )


def _add_hardware(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hardware",
        metavar="NAME|FILE",
        help="what energy is modelled on: a key that “energy --list-hardware” shows, or a file",
    )


def _add_energy(parser: argparse.ArgumentParser) -> None:
    _add_model(parser, "?")
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="apply this recipe first")
    _add_hardware(parser)
    parser.add_argument(
        "--dataflow", choices=DATAFLOWS, help="how products are laid on the processing elements"
    )
    parser.add_argument("--batch", type=int, default=0, metavar="N", help="samples at once")
    parser.add_argument(
        "--bits", type=int, default=0, metavar="N", help="width of weights and activations alike"
    )
    _add_source(parser, "measure zeros of activations on these: ")
    parser.add_argument(
        "--by", choices=("data-type", "level"), default="data-type", help="what energy is split by"
    )
    parser.add_argument(
        "--unit",
        choices=UNIT_NAMES,
        default="J",
        help="joules, MACs of the hardware, or grams of CO2 per thousand inferences",
    )
    parser.add_argument("--grid", metavar="NAME", help="whose electricity CO2 is counted by")
    parser.add_argument(
        "--sort", choices=energy_text.SORTS, default="order", help="the largest first; or in order"
    )
    parser.add_argument(
        "--mit", type=Path, metavar="FILE", help="write the network in the MIT energy tool's format"
    )
    # What is shown instead of the layers.
    parser.add_argument(
        "--compare", action="store_true", help="one line for each shipped hardware and dataflow"
    )
    parser.add_argument(
        "--list-hardware", action="store_true", help="what there is to model energy on, and leave"
    )
    form = parser.add_mutually_exclusive_group()
    _add_json(form)
    form.add_argument("--csv", action="store_true", help="print comma-separated values")
    parser.set_defaults(misused=parser.error, metric="", most=0)


def _add_profile(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="apply this recipe first")
    for name, summary in (
        ("latency", "of every layer; with --memory what is shown when nothing is named"),
        ("memory", "that activations take at most, while each layer runs"),
        ("energy", "by the energy counters of this machine; takes seconds for each layer"),
        ("operators", "by torch.profiler, with their layers"),
        ("python", "calls, by cProfile"),
        ("roofline", "layers under what this machine reaches at best"),
    ):
        parser.add_argument(f"--{name}", action="store_true", help=summary)
    parser.add_argument("--lines", metavar="LAYER", help="time per line of that layer's forward")
    parser.add_argument(
        "--follow", action="store_true", help="with --lines, of functions it calls as well"
    )
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write a Chrome trace (.json)")
    parser.add_argument("--prof", type=Path, metavar="FILE", help="write Python's profile (.prof)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 or mps")
    parser.add_argument("--threads", type=int, default=0, metavar="N")
    parser.add_argument("--batch", type=int, default=0, metavar="N", help="samples at once")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="")
    for name, summary in (
        ("channels-last", "memory order of images"),
        ("autocast", "let torch choose lower precision operator by operator"),
        ("backward", "run the gradient's pass as well"),
    ):
        parser.add_argument(f"--{name}", action="store_true", help=summary)
    _add_json(parser)


def _add_data(parser: argparse.ArgumentParser) -> None:
    _add_source(parser, last="; the model's own when left out")
    parser.add_argument(
        "--metric",
        default="",
        metavar="NAME",
        help=f"{', '.join(METRIC_NAMES)}, or a Python function of outputs and targets",
    )
    parser.add_argument(
        "--most", type=int, default=0, metavar="N", help="judge by at most N samples"
    )


def _add_source(parser: argparse.ArgumentParser, first: str = "", last: str = "") -> None:
    """Args: ``first`` and ``last`` say what the data are for."""
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help=f"{first}“digits”, a folder of pictures, torchvision:CLASS:FOLDER, a file of tensors "
        f"(.npz, .safetensors), or a Python factory{last}",
    )
    parser.add_argument(
        "--preprocess",
        metavar="STEPS",
        help="such as resize=256,crop=224,mean=0.485,0.456,0.406,std=0.229,0.224,0.225; as the "
        "model's weights were evaluated when left out",
    )
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave out samples that cannot be read"
    )


def _add_catalogue(parser: argparse.ArgumentParser) -> None:
    columns = ", ".join(catalogue_text.COLUMNS)
    parser.add_argument(
        "pattern",
        nargs="*",
        metavar="PATTERN",
        help="words and bounds such as “resnet params<30M”, or a glob such as “vit_*”",
    )
    parser.add_argument("--task", choices=catalogue_text.TASKS, default="")
    parser.add_argument(
        "--sort",
        choices=catalogue_text.COLUMNS,
        default="accuracy",
        metavar="COLUMN",
        help=f"one of {columns}; accuracy when left out",
    )
    parser.add_argument(
        "--pareto",
        metavar="X,Y",
        help="only models that no other beats in both columns, such as macs,accuracy",
    )
    parser.add_argument("--energy", action="store_true", help="model energy per inference too")
    parser.add_argument("--latency", action="store_true", help="measure latency here too")
    parser.add_argument(
        "--all", action="store_true", help="all published weights, not the best of each model alone"
    )
    parser.add_argument("--timm", action="store_true", help="list timm's models too")
    form = parser.add_mutually_exclusive_group()
    _add_json(form)
    form.add_argument("--csv", action="store_true", help="print comma-separated values in SI units")


def _add_json(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="print plain numbers in SI units")


def _add_window_options(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    parser.add_argument("--theme", choices=("light", "dark", "system"), default=default)
    parser.add_argument(
        "--recipe", type=Path, metavar="FILE", default=default, help="apply this recipe"
    )
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="PNG",
        default=default,
        help="draw the window into a file and leave",
    )
    parser.add_argument(
        "--size", default=default or "1280x800", metavar="WxH", help="of the picture"
    )
    parser.add_argument(
        "--view",
        choices=(
            "catalogue",
            "energy",
            "energy-map",
            "recovery",
            "latency",
            "operators",
            "flame",
            "python",
            "lines",
            "roofline",
            "sensitivity",
        ),
        default=default,
        help="to be shown in the picture; those of profiling are measured for it",
    )
    parser.add_argument(
        "--map",
        type=Path,
        metavar="FILE",
        default=default,
        help="a map of sensitivity for the picture of that view, which is scanned otherwise",
    )


# -- commands


def _window(options: argparse.Namespace) -> int:
    size = _size(options.size)
    platform = system.default_platform()
    reason = ""
    if missing := system.missing_libraries(platform):
        reason = system.apt_line(missing)
    elif options.picture is None and not system.has_display():
        reason = "There is no display, so there is no window."
    elif not system.display_answers(platform):
        reason = "The display does not answer, so there is no window."
    if reason:
        if any(one is not None for one in (options.model, options.picture, options.recipe)):
            raise EngineError(reason, "“secateur --help” lists what works without a window.")
        print(f"{reason} Doing the main job on the demo without it.", flush=True)
        options.out, options.json = Path(DEMO_FOLDER), False
        return _demo(options, told=reason)
    from gui.app import run

    return run(
        options.model,
        options.theme,
        None if options.recipe is None else str(options.recipe),
        None if options.picture is None else str(options.picture),
        size,
        options.view or "",
        options.started,
        "" if options.map is None else str(options.map),
    )


def _size(wish: str) -> tuple[int, int]:
    width, _, height = wish.partition("x")
    if not (width.isdecimal() and height.isdecimal()) or not (
        0 < int(width) <= MOST_PIXELS and 0 < int(height) <= MOST_PIXELS
    ):
        raise EngineError(f"“{wish}” is not a size.", "Give one such as 1280x800.")
    return int(width), int(height)


def _inspect(options: argparse.Namespace) -> int:
    hardware = _hardware(options)
    session = _open(options)
    with _progress() as job:
        if hardware is not None:
            session.set_energy(EnergySettings(hardware), job)
        if options.latency:
            session.measure_latency(job)
    snapshot = session.snapshot
    if options.json:
        model_text.print_json(
            model_text.model_facts(snapshot) | {"layers": model_text.layer_facts(snapshot.current)}
        )
    else:
        model_text.print_layers(snapshot)
    return OK


def _apply(options: argparse.Namespace) -> int:
    kind = _export_format(options.out)
    session = _open(options)
    with _progress() as job:
        session.apply_recipe(str(options.recipe), job)
        report = session.export(str(options.out), kind, job)
    snapshot = session.snapshot
    if options.json:
        model_text.print_json(
            model_text.comparison_facts(snapshot)
            | {"files": list(report.files), "largest_error": report.largest_error}
        )
    else:
        model_text.print_comparison(snapshot)
        print(f"Wrote {options.out}, re-opened and compared: {_agreement(report.largest_error)}.")
        if report.note:
            print(report.note)
    return OK


def _tune(options: argparse.Namespace) -> int:
    kind = None if options.out is None else _export_format(options.out)
    session = _open(options)
    files: list[str] = []
    with _progress() as job:
        _load_data(session, options, job)
        if options.recipe is not None:
            session.apply_recipe(str(options.recipe), job)
        wanted = recovery_of(options, session.snapshot.current.tree)
        before = session.evaluate(job).snapshot
        for edit in wanted:
            session.apply(edit, job)
        session.evaluate(job)
        if options.save_recipe is not None:
            files += session.save_recipe(str(options.save_recipe), job)
        if kind is not None:
            files += session.export(str(options.out), kind, job).files
    snapshot = session.snapshot
    if options.json:
        facts = model_text.recovery_facts(before, snapshot) | model_text.data_facts(snapshot)
        model_text.print_json(facts | {"files": files})
    else:
        model_text.print_recovery(before, snapshot)
        model_text.print_data(snapshot)
        if files:
            print(f"Wrote {', '.join(files)}.")
    return OK


def _sensitivity(options: argparse.Namespace) -> int:
    session = _open(options)
    with _progress() as job:
        _load_data(session, options, job)
        if options.recipe is not None:
            session.apply_recipe(str(options.recipe), job)
        request = request_of(options, session.default_scan(), session.snapshot.current.tree)
        scan = session.start_scan(request, job)
        try:
            while scan.step(job):
                pass
        finally:  # interrupted, it goes on from here the next time
            scan.pause()
    files = {form: getattr(options, form) for form in engine.SENSITIVITY_FORMATS}
    wanted = {form: path for form, path in files.items() if path is not None}
    for form, path in wanted.items():
        engine.save_sensitivity(str(path), scan.progress, form)
    sensitivity_text.Printer(_terminal_width()).map(scan.progress)
    if scan.problem:
        print(model_text.one_line(scan.problem))
    if not session.snapshot.model.trained:
        print("The weights are random: the map means nothing.")
    if wanted:
        print(f"Wrote {', '.join(map(str, wanted.values()))}.")
    return OK


def _evaluate(options: argparse.Namespace) -> int:
    limits, hardware = _limits(options), _hardware(options)
    session = _open(options)
    with _progress() as job:
        if hardware is not None:
            session.set_energy(EnergySettings(hardware), job)
        _load_data(session, options, job)
        if options.recipe is not None:
            session.apply_recipe(str(options.recipe), job)
        if not session.snapshot.cursor and any(limit.relative for limit in limits):
            raise EngineError(
                f"{session.snapshot.model.name} is the base itself: nothing of it is a share.",
                "Give --recipe with the model that it was made for, or limits in units.",
            )
        session.evaluate(job)
        if any(limit.metric.key == "latency" for limit in limits):
            session.measure_latency(job)
        session.set_limits(limits, job)
    snapshot = session.snapshot
    unmet = [status.limit for status in snapshot.limits if not status.met]
    if options.json:
        facts = model_text.comparison_facts(snapshot)
        facts["limits"] = [
            {"metric": one.limit.metric.key, "bound": one.limit.bound,
             "relative": one.limit.relative, "met": one.met}
            for one in snapshot.limits
        ]  # fmt: skip
        model_text.print_json(facts | model_text.data_facts(snapshot))
    else:
        model_text.print_comparison(snapshot)
        model_text.print_data(snapshot)
        for status in snapshot.limits:
            met = "met" if status.met else "not met"
            series = snapshot.current.table.get(status.limit.metric.key)
            machine = series.conditions.get("hardware") if series else None
            on = f", on {machine}" if machine else ""  # joules mean nothing without it
            print(model_text.one_line(f"{text.limit_text(status.limit)}: {met}{on}"))
    return UNMET if unmet else OK


def _profile(options: argparse.Namespace) -> int:
    if options.follow and options.lines is None:
        raise EngineError("--follow says how --lines is done.", "Name a layer by --lines.")
    settings = RunSettings(
        options.device, options.threads, options.batch, options.dtype,
        options.channels_last, options.autocast, options.backward,
    )  # fmt: skip
    session = _open(options)
    with _progress() as job:
        if options.recipe is not None:
            session.apply_recipe(str(options.recipe), job)
        profiles = _taken_profiles(session, options, settings, job)
    files = _write_profiles(options, profiles)
    if options.json:
        found = {name: profile_text.facts(profile) for name, profile in profiles.items()}
        model_text.print_json(
            {"model": session.snapshot.model.name, **profile_text.layer_facts(session.snapshot),
             **found, "files": files}
        )  # fmt: skip
        return OK
    _print_profiles(session.snapshot, profiles, options)
    if files:
        print(f"Wrote {', '.join(files)}.")
    return OK


def _taken_profiles(
    session: ModelSession, options: argparse.Namespace, settings: RunSettings, job: Job
) -> dict[str, Any]:
    """What the command line asks for; latency, memory and energy go into the session."""
    found: dict[str, Any] = {}
    if options.operators or options.trace:
        found["operators"] = session.profile_operators(job, settings)
    if options.python or options.prof:
        found["calls"] = session.profile_python(job, settings)
    if options.lines is not None:
        layer = LayerId(options.lines)
        found["lines"] = session.profile_lines(layer, options.follow, job, settings)
    if options.roofline:
        found["roofline"] = session.roofline(job, settings)
    named = options.latency or options.memory or options.energy
    usual = not found and not named
    if options.latency or usual:
        session.measure_latency(job, settings)
    if options.memory or usual:
        session.measure_memory(job, settings)
    if options.energy:
        session.measure_energy(job, settings)
    return found


def _write_profiles(options: argparse.Namespace, profiles: Mapping[str, Any]) -> list[str]:
    wanted: list[tuple[Path, bytes]] = []
    if options.trace is not None:
        wanted.append((options.trace, profiles["operators"].trace.encode()))
    if options.prof is not None:
        wanted.append((options.prof, profiles["calls"].stats))
    for path, content in wanted:
        write_atomically(path, content)
    return [str(path) for path, _ in wanted]


def _print_profiles(
    snapshot: Snapshot, profiles: Mapping[str, Any], options: argparse.Namespace
) -> None:
    printer = profile_text.Printer(_terminal_width())
    if any(key in snapshot.current.table for key in profile_text.MEASURED):
        printer.layers(snapshot)
    shown = {"operators": options.operators, "calls": options.python}
    for name, profile in profiles.items():
        if shown.get(name, True):
            getattr(printer, name)(profile)


def _energy(options: argparse.Namespace) -> int:
    if options.list_hardware:
        return _list_hardware(options)
    if options.model is None:
        options.misused("the following arguments are required: MODEL (or --list-hardware)")
    grid = energy_text.grid_named(options.grid or "") if options.unit == "CO2" else None
    if options.grid is not None and grid is None:
        raise EngineError("--grid says whose electricity CO2 is counted by.", "Add --unit CO2.")
    if options.compare and options.mit is not None:
        raise EngineError("--mit writes one result, --compare has many.", "Give one of the two.")
    wanted = _energy_settings(options)
    session = _open(options)
    with _progress() as job:
        if options.recipe is not None:
            session.apply_recipe(str(options.recipe), job)
        session.set_energy(wanted[0], job)
        _load_data(session, options, job)
        if options.data is not None:
            session.measure_zeros(job)
        if options.compare:
            lines = _compared(session, wanted, options.unit, grid, job)
        report = None if options.mit is None else session.save_description(str(options.mit), job)
    unit = energy_text.unit_of(options.unit, wanted[0].hardware, grid)
    if options.compare:
        _show_comparison(lines, unit, options)
    else:
        _show_energy(session.snapshot, unit, report, options)
    return OK


def _energy_settings(options: argparse.Namespace) -> list[EnergySettings]:
    """What the command line asks for; to compare, every choice that it leaves open."""
    for name, number in (("batch", options.batch), ("width in bits", options.bits)):
        if number < 0:
            raise EngineError(f"A {name} of {number} is impossible.", "Give a number above 0.")
    chosen = _hardware(options)
    machines = [chosen or engine.default_hardware()]
    dataflows = [options.dataflow or DATAFLOWS[0]]
    if options.compare and chosen is None:
        shipped = [one.hardware for one in engine.list_hardware() if not one.own]
        machines = [hardware for hardware in shipped if hardware is not None]
    if options.compare and options.dataflow is None:
        dataflows = list(DATAFLOWS)
    return [
        EnergySettings(hardware, dataflow, options.batch, options.bits)
        for hardware in machines
        for dataflow in dataflows
    ]


def _hardware(options: argparse.Namespace) -> Hardware | None:
    return None if options.hardware is None else engine.find_hardware(options.hardware)


def _compared(
    session: ModelSession,
    wanted: list[EnergySettings],
    unit: UnitName,
    grid: Grid | None,
    job: Job,
) -> list[energy_text.Compared]:
    found = []
    for settings in wanted:
        session.set_energy(settings, job)
        of_this = energy_text.unit_of(unit, settings.hardware, grid)
        found.append(energy_text.compared(session.snapshot.current.energy, of_this))
    return found


def _show_comparison(
    lines: list[energy_text.Compared], unit: EnergyUnit, options: argparse.Namespace
) -> None:
    facts = energy_text.comparison_facts(lines, unit)
    if options.json:
        model_text.print_json(facts)
    elif options.csv:
        print(energy_text.table_csv(facts), end="")
    else:
        energy_text.Printer(_terminal_width()).comparison(lines, unit)


def _show_energy(
    snapshot: Snapshot,
    unit: EnergyUnit,
    report: DescriptionReport | None,
    options: argparse.Namespace,
) -> None:
    rows = energy_text.rows(snapshot, _GROUPINGS[options.by], unit, options.sort)
    if options.json:
        written = {} if report is None else energy_text.description_facts(report)
        model_text.print_json(energy_text.facts(snapshot, rows, unit) | written)
    elif options.csv:
        print(energy_text.as_csv(rows, unit), end="")
    else:
        printer = energy_text.Printer(_terminal_width())
        printer.layers(snapshot, rows, unit)
        if report is not None:
            printer.description(report)


def _list_hardware(options: argparse.Namespace) -> int:
    entries = engine.list_hardware()
    if options.json:
        model_text.print_json(energy_text.hardware_facts(entries))
    elif options.csv:
        print(energy_text.table_csv(energy_text.hardware_facts(entries)), end="")
    else:
        energy_text.Printer(_terminal_width()).hardware(entries)
    return OK


def _catalogue(options: argparse.Namespace) -> int:
    from engine import catalogue_entries, model_costs  # imports torch, as in _open

    sort, axes = catalogue_text.COLUMNS[options.sort], catalogue_text.axes(options.pareto)
    asked = {sort, *axes}
    energy = options.energy or catalogue_text.COLUMNS["energy"] in asked
    latency = options.latency or catalogue_text.COLUMNS["latency"] in asked
    with _progress() as job:
        entries = catalogue_entries(job)
        if not options.timm:
            entries = tuple(one for one in entries if one.origin != "timm")
        pattern = " ".join(options.pattern)
        rows = catalogue_text.wanted_rows(entries, pattern, options.task, options.all)
        if energy or latency:
            rows = catalogue_text.with_costs(
                rows, lambda source: model_costs(source, job, energy=energy, latency=latency)
            )
    if axes:
        rows = catalogue_text.on_front(rows, *axes)
    if options.json:
        model_text.print_json(catalogue_text.facts(rows, sort))
    elif options.csv:
        print(catalogue_text.as_csv(rows, sort), end="")
    else:
        catalogue_text.print_tables(rows, sort, _terminal_width())
    return OK


def _demo(options: argparse.Namespace, told: str = "") -> int:
    """Do the main job on the demo.

    Args:
        told: why there is no window, when that has been said already.
    """
    folder: Path = options.out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(
            f"The folder {folder} cannot be made: {error.strerror}.", "Choose another by --out."
        ) from error
    checkpoint, recipe = folder / "digits_net.safetensors", folder / "recipe.json"
    picture: Path | None = folder / "window.png"
    session = _open_demo()
    with _progress() as job:
        session.evaluate(job)
        tree = session.snapshot.base.tree
        session.apply(PruneChannels(tree.select([DEMO_LAYER]), DEMO_RATIO), job)
        every = session.snapshot.current.tree.select([""], "quantize")
        session.apply(Quantize(every), job)
        session.evaluate(job)
        session.measure_latency(job)
        report = session.export(str(checkpoint), "checkpoint", job)
        files = [*report.files, *session.save_recipe(str(recipe), job)]
        job.begin("Evaluating the exported file in a fresh process")
        payload = {"source": str(checkpoint), "data": "digits"}
        reopened = run_in_child("engine.session:evaluate_source", payload, job)
        assert picture is not None
        complaint = _draw(recipe, picture)
    if complaint:
        picture = None
    else:
        files.append(str(picture))
    facts = model_text.comparison_facts(session.snapshot) | {
        "exported": {
            "file": str(checkpoint),
            "bytes": report.bytes,
            "largest_error": report.largest_error,
            **reopened,
        },
        "files": files,
        "picture": None if picture is None else str(picture),
    }
    if options.json:
        model_text.print_json(facts)
    else:
        model_text.print_comparison(session.snapshot)
        print(
            f"The exported checkpoint, re-opened in a fresh process: "
            f"accuracy {text.percent(reopened['accuracy'])}, {_agreement(report.largest_error)}."
        )
        print("Wrote " + ", ".join(files) + ".")
    if complaint:
        why = "see above." if complaint == told else complaint
        print(f"No picture of the window: {why}", file=sys.stderr)
    return OK


def _draw(recipe: Path, picture: Path) -> str:
    """Draw the window offscreen, in a process of its own; why not, "" when it is there."""
    if missing := system.missing_libraries("offscreen"):
        return system.apt_line(missing)
    arguments = ["window", "demo", "--recipe", str(recipe), "--picture", str(picture)]
    code, said = run_application(
        [*arguments, "--theme", "light"], {"QT_QPA_PLATFORM": "offscreen"}, PICTURE_SECONDS
    )
    if code == OK and picture.is_file():
        return ""
    return f"drawing it ended with code {code}. {said}"


# -- what they share


def _open(options: argparse.Namespace) -> ModelSession:
    """Open what the command line names; with ``--trust`` its code may run."""
    from engine import open_model  # imports torch: seconds that `--help` need not take

    request = OpenRequest(
        options.model,
        inputs=tuple(_input(wish) for wish in options.input),
        architecture=options.architecture,
        download=options.download,
    )
    with _progress() as job:
        try:
            return _trusting(options, request, lambda allowed: open_model(allowed, job))
        except tuple(_ANSWERS) as needed:
            raise _with_answer(needed) from None


def _trusting(options: argparse.Namespace, request: R, ask: Callable[[R], T]) -> T:
    """What is asked for; with ``--trust`` the code that it needs may run."""
    while True:
        try:
            return ask(request)
        except ConsentNeeded as needed:
            digest = needed.details["digest"]
            if not options.trust or digest in request.trusted:
                raise _with_runs(needed) from None
            request = replace(request, trusted=request.trusted | {digest})


_ANSWERS: Mapping[type[EngineError], str] = {
    WeightsMissing: "Add --download to fetch {size}them, or leave their name out.",
    InputsNeeded: "Give --input for each of its inputs, such as {example}.",
    ArchitectureNeeded: "Give --architecture: a name of the catalogue, or a Python factory.",
}
"""What a terminal answers by a flag."""


def _with_answer(needed: EngineError) -> EngineError:
    remedy = next(words for kind, words in _ANSWERS.items() if isinstance(needed, kind))
    size, guesses = needed.details.get("bytes"), needed.details.get("inputs")
    return EngineError(
        str(needed),
        remedy.format(
            size=f"the {text.quantity(size, 'B')} of " if size else "",
            example=(guesses or ["1x3x224x224"])[0],
        ),
    )


def _terminal_width() -> int | None:
    """Columns of the terminal that is written to; None when it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _open_demo() -> ModelSession:
    from engine import open_model

    with _progress() as job:
        return open_model("demo", job)


def _load_data(session: ModelSession, options: argparse.Namespace, job: Job) -> None:
    """Choose the data that the command line names, if any; with ``--trust`` its code may run."""
    settings = {
        "--metric": options.metric,
        "--preprocess": options.preprocess,
        "--skip-broken": options.skip_broken,
        "--most": options.most,
    }
    if options.data is None:
        given = [name for name, value in settings.items() if value]
        if given:
            says = "says" if len(given) == 1 else "say"
            raise EngineError(
                f"{' and '.join(given)} {says} how data are used.", "Name the data by --data."
            )
        return
    request = DataRequest(
        options.data,
        _preprocessing(options.preprocess),
        options.metric,
        "skip" if options.skip_broken else "stop",
        _most(options.most),
    )
    _trusting(options, request, lambda allowed: session.load_data(allowed, job))


def _preprocessing(wish: str | None) -> Preprocessing | None:
    try:
        return None if wish is None else Preprocessing.parse(wish)
    except ValueError as error:
        raise EngineError(
            f"The preprocessing: {error}.", "Give --preprocess such as resize=256,crop=224."
        ) from error


def _most(wish: int) -> int:
    if wish < 0:
        raise EngineError(f"{wish} samples are none.", "Give --most a number above 0.")
    return wish


def _input(wish: str) -> InputSpec:
    try:
        return InputSpec.parse(wish)
    except ValueError as error:
        raise EngineError(f"The input: {error}.", "Give --input once for each input.") from error


def _with_runs(needed: ConsentNeeded) -> EngineError:
    """The question as a terminal puts it: what would run, and the flag that allows it."""
    runs = needed.details["runs"]
    shown = ", ".join(runs[:_MOST_RUNS]) + (", …" if len(runs) > _MOST_RUNS else "")
    names = f" Named are {shown}." if runs else ""
    return EngineError(f"{needed}{names}", "If you trust where it comes from, add --trust.")


def _export_format(path: Path) -> Any:
    formats = {".safetensors": "checkpoint", ".pt2": "program", ".onnx": "onnx"}
    suffix = path.suffix.lower()
    if suffix not in formats:
        raise EngineError(
            f"“{path}” has no suffix that names a format.",
            "End it in .safetensors, .pt2 or .onnx.",
        )
    return formats[suffix]


def _limits(options: argparse.Namespace) -> tuple[Limit, ...]:
    wished = {"accuracy": options.min_accuracy} | {
        key: getattr(options, f"max_{key}") for key in _EXAMPLES
    }
    return tuple(_limit(key, wish) for key, wish in wished.items() if wish is not None)


def _limit(key: str, wish: str) -> Limit:
    metric = METRICS[key]
    relative = wish.endswith("%")
    try:
        bound = text.parse(wish, "1" if relative else metric.unit)
    except ValueError as error:
        raise EngineError(f"The limit of {key}: {error}.", "Give a number in SI units.") from error
    if not (bound >= 0 and math.isfinite(bound)):
        raise EngineError(f"The limit of {key}, {wish}, is out of range.", "Give a finite number.")
    if key == "accuracy" and not relative and bound > 1:
        raise EngineError(f"An accuracy of {wish} is impossible.", "Give a share such as 0.97.")
    return Limit(metric, bound, relative)


def _agreement(error: float) -> str:
    return "outputs bit-equal" if error == 0 else f"outputs differ by at most {error:.2g}"


@contextmanager
def _progress() -> Iterator[Job]:
    """A job whose progress is shown on standard error when that is a terminal."""
    job = Job()
    if not sys.stderr.isatty():
        yield job
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    over = threading.Event()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show() -> None:
            while not over.wait(0.1):
                bar.update(task, description=job.text, completed=job.done, total=job.total or None)

        watcher = threading.Thread(target=show)
        watcher.start()
        try:
            yield job
        finally:
            over.set()
            watcher.join()


def _complain(message: str) -> None:
    print(f"secateur: {model_text.one_line(message)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
