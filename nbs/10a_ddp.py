"""Gradients added by hand against DistributedDataParallel (pico.parallel.added): two processes, one thread each, taking turns. Writes results/training/ddp.json.

    python nbs/10a_ddp.py
"""
import json, os, platform, statistics, tempfile, time
from datetime import date
from pathlib import Path
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pico.batches import batch
from pico.sources import load_corpus
from pico.model import Pico, PicoConfig
from pico.parallel import added, all_reduce

def sum_gradients(parameters):
    "Added by hand after the backward pass: one call for each parameter."
    parameters = list(parameters)
    used = all_reduce(torch.tensor([float(p.grad is not None) for p in parameters])).tolist()
    for p, u in zip(parameters, used):
        if u and p.grad is None: p.grad = torch.zeros_like(p)
        if u: all_reduce(p.grad)

# written out here, so that these results keep their meaning whatever the presets of the library become
DESIGN = dict(router='topk', latent_carry='no', heads='linear', heads_every=1)

def config(preset='nano'):
    "The model that is measured: a shape of the library, the design of its first presets."
    return PicoConfig.preset(preset, **DESIGN)

def work(rank, folder, preset, rows, length, turns):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/{preset}', rank=rank, world_size=2)
    torch.manual_seed(0)
    model = Pico(config(preset)).train()
    corpus = load_corpus('stories', limit=900_000)
    # its hooks belong to this copy; the other two measure an equal one
    ddp = added(model, model.loss)
    torch.manual_seed(0)
    plain = Pico(config(preset)).train()
    def step(kind, i):
        x, y = batch(corpus, i, rows, length, model.config.next_tokens, rank=rank, world_size=2)
        counts = all_reduce((y >= 0).sum((0, 1)))
        model.zero_grad()
        plain.zero_grad()
        dist.barrier()
        start = time.perf_counter()
        if kind == 'ddp': ddp(x, y, counts=counts, parts=2).total.backward()
        else:
            plain.loss(x, y, counts=counts, parts=2).total.backward()
            if kind == 'by_hand': sum_gradients(plain.parameters())
        dist.barrier()
        return time.perf_counter() - start
    took = {k: [] for k in ('alone', 'by_hand', 'ddp')}
    for i in range(turns):
        for kind in took: took[kind].append(step(kind, i))
    step('by_hand', 0)
    mine = [p.grad.clone() for p in plain.parameters()]
    step('ddp', 0)
    difference = max((a - p.grad).abs().max().item() for a,p in zip(mine, model.parameters()))
    if rank == 0:
        Path(folder, f'{preset}.json').write_text(json.dumps(dict(preset=preset, rows=rows, length=length, turns=turns,
                                                                  difference=difference)
                                                                  | {k: min(v[2:]) for k,v in took.items()}
                                                                  | {f'{k}_median': statistics.median(v[2:]) for k,
                                                                     v in took.items()}))
    dist.barrier()
    dist.destroy_process_group()

if __name__ == '__main__':
    os.environ['OMP_NUM_THREADS'] = '1'
    found = []
    with tempfile.TemporaryDirectory() as d:
        for preset, rows, length, turns in (('nano', 4, 512, 80), ('10m', 2, 256, 25)):
            mp.spawn(work, (d, preset, rows, length, turns), nprocs=2)
            found.append(json.loads(Path(d, f'{preset}.json').read_text()))
            print(found[-1])
    Path(__file__).parent.joinpath('results/training/ddp.json').write_text(
        json.dumps(dict(command='python nbs/10a_ddp.py', date=str(date.today()), torch=torch.__version__,
                        machine=platform.machine(), processes=2, threads=1, rows=found), indent=1) + '\n')
