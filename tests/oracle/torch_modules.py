"""Modules of PyTorch that are instrumented; import it where there is PyTorch."""

import torch


class Gate(torch.nn.Module):
    """Gives two tensors and a number, and has a child whose name is that of the second."""

    def __init__(self):
        super().__init__()
        self.scaling, self.infinite, self.mode = 0.5, float("inf"), "soft"
        self.inside = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(inplace=True))

    def forward(self, x, *more, bias=None, **further):
        y = self.inside(x)
        return None, y * self.scaling + sum(more), 3, further["extra"] + bias


class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Linear(3, 3)  # a name that means something in the family
        self.gate = Gate()

    def forward(self, x):
        x = self.logits(x)
        x = x + self.logits(x)
        return self.gate(x, x, bias=x, extra=torch.ones(3))[1]
