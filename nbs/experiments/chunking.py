"""Dynamic chunking of H-Net (Hwang et al. 2025, arXiv 2507.07955, sec. 2.2), for the designs of chapter 21a.

A byte begins a chunk where the state has turned away from that of the byte before. The first byte of a chunk goes
through the latent blocks, and what they change is handed to all bytes of its chunk: smoothed over chunks where the
router was not sure, and with the router's confidence as a straight-through factor, so that gradients reach the score.
It has no cache. The paper trains with budgets a thousand times those of this project.
"""
import torch
import torch.nn.functional as F
from torch import nn

from pico.block import Stack
from pico.depth import MixtureOfDepths, pack
from pico.router import Route, Router, router

@router('chunk')
class ChunkRouter(Router):
    "Probability of a border: half of one minus the cosine between this byte's query and the last byte's key."
    def __init__(self, dim, capacity):
        super().__init__(dim, capacity)
        self.query, self.key = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        for part in (self.query, self.key): nn.init.eye_(part.weight)

    def forward(self, x, values, before, position, train=False):
        last = F.pad(x, (0, 0, 1, 0))[:,:-1]                      # the state of the byte before
        border = (1 - F.cosine_similarity(self.query(x), self.key(last), dim=-1)) / 2
        border = torch.where(position == 0, 1., border)           # a text begins with a border
        return Route(border > .5, border, border)

    def auxiliary(self, route):
        "The ratio loss, smallest where the wanted fraction begins a chunk; 0.03 of it counts, as in the paper."
        wanted, taken, meant = self.capacity, route.chosen.float().mean(), route.weight.mean()
        return .3 * (taken * meant / wanted + (1 - taken) * (1 - meant) / (1 - wanted))

class Dechunking(MixtureOfDepths):
    "The changes of chunks, smoothed and handed to all of their bytes."
    def forward(self, x, values, cache=None, lengths=None, train=False, documents=None):
        route = self.choose(x, values, cache, lengths, train)
        packed, positions, counts = pack(x, route.chosen)
        change = Stack.forward(self, packed) - packed             # (B, C, D)
        sure = route.weight.gather(1, positions)[...,None]        # (B, C, 1)
        smooth, kept = [], torch.zeros_like(change[:,0])
        for c in range(change.shape[1]):
            kept = sure[:,c] * change[:,c] + (1 - sure[:,c]) * kept
            smooth.append(kept)
        chunk = (route.chosen.cumsum(1) - 1)[...,None].expand_as(x)             # (B, T, D): which one a byte is of
        handed = torch.stack(smooth, 1).gather(1, chunk)
        confidence = torch.where(route.chosen, route.weight, 1 - route.weight)
        factor = 1 + confidence - confidence.detach()             # 1, with a gradient
        return x + factor[...,None] * handed, route

if __name__ == '__main__': print(__doc__)                       # designs.py runs it
