"""Gradients added by hand against DistributedDataParallel (`pico.parallel.added`), for chapter 10a.

    python nbs/experiments/ddp.py      # two processes, one thread each, taking turns; a few minutes
"""
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from common import Results, config, parse, parser, stamp, text

from pico.batches import batch
from pico.model import Pico
from pico.parallel import added, all_reduce

WAYS = 'alone', 'by_hand', 'ddp'
CASES = dict(nano=(4, 512, 80), **{'10m': (2, 256, 25)})         # preset: rows, bytes in a row, turns

def sum_gradients(parameters):
    "Added by hand after the backward pass: one call for each parameter."
    parameters = list(parameters)
    used = all_reduce(torch.tensor([float(p.grad is not None) for p in parameters])).tolist()
    for p, u in zip(parameters, used, strict=True):
        if u and p.grad is None: p.grad = torch.zeros_like(p)
        if u: all_reduce(p.grad)

class Race:
    "The same model twice: one whose hooks add gradients, and one whose gradients stay alone or are added by hand."
    def __init__(self, preset, rows, length, rank):
        self.shape, self.rank, self.corpus = (rows, length), rank, text('stories', limit=900_000)
        self.hooked, self.plain = model(preset), model(preset)
        self.ddp = added(self.hooked, self.hooked.loss)

    def step(self, kind, i):
        "Seconds of one step, between two barriers."
        x, y = batch(self.corpus, i, *self.shape, self.plain.config.next_tokens, rank=self.rank, world_size=2)
        counts = all_reduce((y >= 0).sum((0, 1)))
        for m in (self.hooked, self.plain): m.zero_grad()
        dist.barrier()
        start = time.perf_counter()
        loss = self.ddp if kind == 'ddp' else self.plain.loss
        loss(x, y, counts=counts, parts=2).total.backward()
        if kind == 'by_hand': sum_gradients(self.plain.parameters())
        dist.barrier()
        return time.perf_counter() - start

    def difference(self):
        "The largest between a gradient added by hand and the same one added by hooks."
        self.step('by_hand', 0)
        mine = [p.grad.clone() for p in self.plain.parameters()]
        self.step('ddp', 0)
        return max((a - p.grad).abs().max().item() for a, p in zip(mine, self.hooked.parameters(), strict=True))

def model(preset):
    torch.manual_seed(0)
    return Pico(config(preset)).train()

def work(rank, folder, preset, rows, length, turns):
    "What each of the two processes does; the first writes what was found into the folder."
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/{preset}', rank=rank, world_size=2)
    race, took = Race(preset, rows, length, rank), {k: [] for k in WAYS}
    for i in range(turns):
        for kind in WAYS: took[kind].append(race.step(kind, i))
    found = dict(name=preset, preset=preset, rows=rows, length=length, turns=turns, difference=race.difference())
    found |= {k: min(v[2:]) for k, v in took.items()}
    found |= {f'{k}_median': statistics.median(v[2:]) for k, v in took.items()}
    if rank == 0: Results(Path(folder)/'found.jsonl').add(found)
    dist.barrier()
    dist.destroy_process_group()

def main(args=None):
    a = parse(parser(__doc__), __file__, args)
    if a.results.find('ddp'): return
    os.environ['OMP_NUM_THREADS'] = '1'
    with tempfile.TemporaryDirectory() as d:
        for preset, case in (dict(nano=(2, 32, 3)) if a.smoke else CASES).items():
            mp.spawn(work, (d, preset, *case), nprocs=2)
        found = {r.pop('name'): r for r in Results(Path(d)/'found.jsonl').rows()}
    rows = [found[preset] for preset in CASES if preset in found]
    for r in rows: print(r)
    a.results.add(dict(name='ddp') | stamp(a.command) | dict(processes=2, rows=rows))

if __name__ == '__main__': main()
