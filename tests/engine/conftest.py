"""What the engine's tests share: one thread, the demo opened afresh, sessions over toy models."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from engine.job import Job
from engine.requests import InputSpec
from engine.session import ModelSession, open_model
from engine.sources.opening import OpenedModel
from engine.state import ModelInfo
from engine.tracing import sample_inputs


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums in one order, and no fight over processors with whatever else runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def job() -> Job:
    """A job that nobody cancels."""
    return Job()


@pytest.fixture
def demo(job: Job) -> ModelSession:
    """The demo model, opened for this test alone."""
    return open_model("demo", job)


@pytest.fixture(scope="session")  # it holds no state, and Hypothesis wants it so
def session_of() -> Callable[..., ModelSession]:
    """A session over a module, with a sample input of that shape and of the module's own type."""

    def make(model: nn.Module, *shape: int, **settings: int) -> ModelSession:
        dtype = next((one.dtype for one in model.parameters()), torch.float32)
        inputs = tuple(one.to(dtype) for one in sample_inputs([InputSpec(shape)]))
        info = ModelInfo("toy", "toy", (InputSpec(shape),), trained=False)
        return ModelSession(OpenedModel(info, model.eval(), inputs, "toy", ""), **settings)

    return make


class StopAt(Job):
    """A job that the user cancels just before its n-th check."""

    def __init__(self, checks: int) -> None:
        super().__init__()
        self.left = checks

    def check(self) -> None:
        self.left -= 1
        if self.left <= 0:
            self.cancel()
        super().check()


@pytest.fixture(scope="session")
def stop_at() -> type[StopAt]:
    """Makes jobs that are cancelled at a given check."""
    return StopAt
