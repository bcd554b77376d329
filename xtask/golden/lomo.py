"""Goldens of update rules: crates/vlm-fullft/tests/golden/lomo.

Needs torch 2.9, transformers 4.57.6 and lomo-optim 0.1.1. Run: python xtask/golden/lomo.py OUT_DIR
expected.safetensors holds the start of two linear maps with a tanh between them (weights [out, in]), what goes
in, and for each case the weights after five steps on half the mean square of what comes out (CASE.NAME), as the
official package makes them.
"""

import pathlib
import sys

import torch
from lomo_optim import AdaLomo, Lomo
from safetensors.torch import save_file

OUT = pathlib.Path(sys.argv[1]).resolve()
OUT.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)
# The package puts its state on a GPU.
torch.Tensor.cuda = lambda self, *_: self

STEPS = 5


def wave(shape, rate, height):
    count = torch.Size(shape).numel()
    return (height * torch.sin(rate * torch.arange(count, dtype=torch.float64))).float().reshape(shape)


class Net(torch.nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.first = torch.nn.Linear(48, 64, bias=bias)
        self.second = torch.nn.Linear(64, 20, bias=bias)
        with torch.no_grad():
            for rate, (_, value) in zip((0.7, 1.3, 0.9, 2.1), self.named_parameters()):
                value.copy_(wave(value.shape, rate, 0.4))

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


x = wave((12, 48), 0.37, 1.5)
tensors = {"x": x}
tensors |= {f"start.{name}": value.detach().clone() for name, value in Net(True).named_parameters()}
tensors |= {f"bare.{name}": value.detach().clone() for name, value in Net(False).named_parameters()}

CASES = {
    "lomo": (Lomo, True, dict(lr=0.05)),
    "lomo-value": (Lomo, True, dict(lr=0.05, clip_grad_value=0.01)),
    "lomo-norm": (Lomo, True, dict(lr=0.05, clip_grad_norm=0.3)),
    "lomo-decay": (Lomo, False, dict(lr=0.05, weight_decay=0.5)),
    "adalomo": (AdaLomo, True, dict(lr=0.02)),
    "adalomo-decay": (AdaLomo, False, dict(lr=0.02, weight_decay=0.5)),
    "adalomo-threshold": (AdaLomo, True, dict(lr=0.02, clip_threshold=0.4)),
}
for case, (rule, bias, settings) in CASES.items():
    net = Net(bias)
    optimizer = rule(net, **settings)
    loss = lambda: 0.5 * net(x).square().mean()
    for _ in range(STEPS):
        if settings.get("clip_grad_norm"):
            optimizer.grad_norm(loss())
        optimizer.fused_backward(loss(), settings["lr"])
    tensors |= {f"{case}.{name}": value.detach().clone() for name, value in net.named_parameters()}

save_file({name: value.contiguous() for name, value in tensors.items()}, OUT / "expected.safetensors")
