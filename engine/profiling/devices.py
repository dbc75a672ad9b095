"""What a model can run on here, and why not on the rest."""

import platform

import torch

from engine.errors import ProfilingFailed
from engine.profiles import Device
from engine.profiling.running import device_named


def devices() -> tuple[Device, ...]:
    """The processor, every CUDA device and MPS; those that this machine lacks with the reason."""
    return (Device("cpu", platform.processor() or platform.machine()), *_cuda(), *_mps())


def _cuda() -> tuple[Device, ...]:
    if reason := _reason_against("cuda"):
        return (Device("cuda", "NVIDIA CUDA", reason),)
    return tuple(
        Device(f"cuda:{at}", torch.cuda.get_device_name(at))
        for at in range(torch.cuda.device_count())
    )


def _mps() -> tuple[Device, ...]:
    return (Device("mps", "Apple GPU", _reason_against("mps")),)


def _reason_against(name: str) -> str:
    try:
        device_named(name)
    except ProfilingFailed as error:
        return f"{error} {error.remedy}"
    return ""
