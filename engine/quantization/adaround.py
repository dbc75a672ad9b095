"""Learning, weight by weight, whether to round up or down.

AdaRound (Nagel et al., 2020): each weight is rounded down and moved up by a rectified sigmoid of
a number that is learned. The numbers make the layer's output on rounded inputs come near the
float model's (asymmetric reconstruction), while a regulariser drives the sigmoids to 0 or 1.
"""

import math

import torch
from torch import Generator, Tensor

from engine.quantization.gptq import by_weight
from engine.quantization.grids import WeightPlan
from engine.quantization.rows import Rows, by_group

STEPS = 1000
_ROWS = 512  # of a step
_RATE = 0.05
_LAMBDA = 10.0  # of the mean regulariser, beside the error over that of the nearest integers
_WARM = 0.2  # share of the steps before the regulariser sets in
_BETAS = (20.0, 2.0)
_LOW, _HIGH = -0.1, 1.1  # of the stretched sigmoid


class AdaRound:
    """The learning of one layer's rounding; the same numbers whenever it is done.

    Args:
        rows: what the layer reads and is to put out.
        seed: of the order in which rows are taken.

    Attributes:
        step: how many of :data:`STEPS` are done.
        loss: mean squared error of the output in the last step, over that of the nearest integers.
    """

    def __init__(self, plan: WeightPlan, rows: Rows, seed: int = 0) -> None:
        self._plan, self._rows = plan, rows
        groups = len(rows.inputs)
        self._scale, self._zero_point = (by_group(one.float(), groups) for one in by_weight(plan))
        scaled = by_group(plan.weight, groups) / self._scale
        self._down = scaled.floor()
        share = (scaled - self._down).clamp(1e-3, 1 - 1e-3)
        self._up = -torch.log((_HIGH - _LOW) / (share - _LOW) - 1)
        self._optimizer = torch.optim.Adam([self._up], lr=_RATE)
        self._generator = Generator().manual_seed(seed)
        nearest = self._values((scaled - self._down).round())
        _, missed = self._missed(nearest, torch.arange(rows.inputs.shape[1]))
        self._unit = max(missed.square().mean().item(), torch.finfo(torch.float32).tiny)
        self.step = 0
        self.loss = 1.0

    @property
    def done(self) -> bool:
        """Whether all steps are behind it."""
        return self.step >= STEPS

    def advance(self) -> None:
        """Take one step of Adam on some of the rows."""
        count = self._rows.inputs.shape[1]
        chosen = torch.randint(count, (min(count, _ROWS),), generator=self._generator)
        sigmoid = torch.sigmoid(self._up)
        stretched = sigmoid * (_HIGH - _LOW) + _LOW
        up = stretched.clamp(0, 1)
        inputs, missed = self._missed(self._values(up), chosen)
        by_value = 2 / (missed.numel() * self._unit) * (missed.mT @ inputs)
        by_up = by_value * self._scale * (self._unclamped(up) == self._integers(up))
        by_up += self._pull(up)
        moves = (stretched > 0) & (stretched < 1)
        self._up.grad = by_up * moves * (_HIGH - _LOW) * sigmoid * (1 - sigmoid)
        self._optimizer.step()
        self.step += 1
        self.loss = missed.square().mean().item() / self._unit

    def integers(self) -> Tensor:
        """As learned so far, of the plan's dtype and the weight's shape."""
        lifted = torch.sigmoid(self._up) * (_HIGH - _LOW) + _LOW
        found = self._integers((lifted >= 0.5).float())
        return found.to(self._plan.form.dtype).reshape(self._plan.weight.shape)

    def _unclamped(self, up: Tensor) -> Tensor:
        return self._down + up + self._zero_point

    def _integers(self, up: Tensor) -> Tensor:
        return self._unclamped(up).clamp(*self._plan.form.range)

    def _values(self, up: Tensor) -> Tensor:
        return (self._integers(up) - self._zero_point) * self._scale

    def _missed(self, values: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """These rows, and by how much they miss their targets."""
        inputs = self._rows.inputs[:, chosen]
        return inputs, inputs @ values.mT - self._rows.targets[:, chosen]

    def _pull(self, up: Tensor) -> Tensor | float:
        """Gradient of the regulariser, the mean over weights of 1 - |2 h - 1| ** beta."""
        done = (self.step / STEPS - _WARM) / (1 - _WARM)
        if done < 0:
            return 0.0
        first, last = _BETAS
        beta = last + (first - last) * 0.5 * (1 + math.cos(math.pi * done))
        side = 2 * up - 1
        return -2 * _LAMBDA / up.numel() * beta * side.sign() * side.abs().pow(beta - 1)
