"""What the machinery of a run costs: `pico.train.train` against five bare lines, in one process, taking turns. Writes results/training/cost.json.

    python nbs/11_cost.py
    python nbs/11_cost.py speed        # a step in bfloat16 and one compiled, against plain float32; writes results/training/speed.json

Steps alternate: a step of the real loop (metrics, clipping, checks, schedule, progress, agreement, a checkpoint now and then), a step of a bare loop (batch, loss, backward,
optimizer) on an equal model. Time is the processor time of the main thread, so other programs on the machine hardly count; the middle one of all steps is compared.
For the save, the whole checkpoint of the `10m` preset is taken in training, and what it adds to the thread's time is compared with a step.
"""
import dataclasses, json, os, platform, statistics, sys, tempfile, time
from datetime import date
from pathlib import Path
import torch
import pico.train
from pico.batches import batch
from pico.sources import load_corpus
from pico.model import Pico, PicoConfig
from pico.train import Run, TrainConfig, backward, compile_model, make_optimizer, pick_autocast, train

# written out here, so that these results keep their meaning whatever the presets of the library become
DESIGN = dict(router='topk', latent_carry='no', heads='linear', heads_every=1)

def config(preset='nano'):
    "The model that is measured: a shape of the library, the design of its first presets."
    return PicoConfig.preset(preset, **DESIGN)

class Enough(Exception): pass

def turns(preset, rows, length, steps):
    "Alternate real and bare steps; returns the median thread time of each."
    shape, corpus = config(preset), load_corpus('stories', limit=900_000)
    s = TrainConfig(context_len=length, batch_size=rows, max_steps=10**6, checkpoint_interval=10**6, warmup_steps=50,
                    optimizer='adamw')
    torch.manual_seed(0)
    model = Pico(shape).train()
    optimizer = make_optimizer(model, s)
    def bare(step):
        start = time.thread_time()
        loss = model.loss(*batch(corpus, step, rows, length, shape.next_tokens))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        return time.thread_time() - start
    real, plain, agree = [], [], pico.train.agree
    # the loop calls it once at the beginning of every step
    def between(numbers):
        now = time.thread_time()
        if between.last is not None:
            real.append(now - between.last)
            plain.append(bare(len(real)))
        if len(real) == steps: raise Enough
        between.last = time.thread_time()
        return agree(numbers)
    between.last, pico.train.agree = None, between
    try:
        with tempfile.TemporaryDirectory() as d: train(Path(d)/'run', corpus, shape, s, None)
    except Enough: pass
    finally: pico.train.agree = agree
    middle = lambda v: statistics.median(v[3:])
    return dict(preset=preset, rows=rows, length=length, steps=steps, bare_ms=1000*middle(plain),
                real_ms=1000*middle(real), overhead=statistics.median(r/p for r,p in zip(real[3:], plain[3:])) - 1)

def stall(rows, length):
    "A step of `10m`, and what a save takes from the training thread."
    shape, corpus = config('10m'), load_corpus('stories', limit=900_000)
    s = TrainConfig(context_len=length, batch_size=rows, optimizer='adamw')
    torch.manual_seed(0)
    model = Pico(shape).train()
    optimizer = make_optimizer(model, s)
    def step(i):
        start, wall = time.thread_time(), time.perf_counter()
        model.loss(*batch(corpus, i, rows, length, shape.next_tokens)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.thread_time() - start, time.perf_counter() - wall
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        (d/'metrics.jsonl').touch()
        run = Run(d, model, optimizer, s, corpus)
        quiet = [step(i) for i in range(4)]
        saves, during = [], []
        for n in range(3):
            run.step = n + 1
            start, wall = time.thread_time(), time.perf_counter()
            run.save(0.)
            saves.append((time.thread_time() - start, time.perf_counter() - wall))
            during.append(step(4 + n))
            run.background.wait()
    m = lambda v, k: statistics.median(x[k] for x in v)
    return dict(rows=rows, length=length, step_s=m(quiet[1:], 0), step_wall_s=m(quiet[1:], 1), save_s=m(saves, 0),
                save_wall_s=m(saves, 1), step_beside_a_save_s=m(during, 0), step_beside_a_save_wall_s=m(during, 1))

def speed(preset, rows, length, steps):
    "Plain float32, bfloat16 autocast and torch.compile take turns on equal models; how many times as long as plain, the middle of all steps."
    shape, corpus = config(preset), load_corpus('stories', limit=900_000)
    models, casts, took, first = {}, {}, {}, {}
    for way in ('float32', 'bfloat16', 'compiled'):
        torch.manual_seed(0)
        models[way] = m = Pico(shape).train()
        casts[way], took[way] = pick_autocast('bfloat16' if way == 'bfloat16' else 'float32', torch.device('cpu')), []
        start = time.perf_counter()
        if way == 'compiled': compile_model(m, 'yes', torch.arange(rows*length).view(rows, length) % 256)
        first[way] = time.perf_counter() - start
    for i in range(steps):
        x, y = batch(corpus, i, rows, length, shape.next_tokens)
        for way, m in models.items():
            start = time.thread_time()
            backward(m, [(x, y)], autocast=casts[way])
            took[way].append(time.thread_time() - start)
            m.zero_grad()
    return dict(preset=preset, rows=rows, length=length, steps=steps, compilation_s=first['compiled'],
                ratio={w: statistics.median(a/b for a,b in zip(t[3:], took['float32'][3:])) for w,t in took.items()},
                float32_ms=1000*statistics.median(took['float32'][3:]))

if __name__ == '__main__':
    torch.set_num_threads(1)
    if sys.argv[1:] == ['speed']:
        found = dict(command='python nbs/11_cost.py speed', date=str(date.today()), torch=torch.__version__,
                     machine=platform.machine(), threads=1, rows=[speed('nano', 4, 512, 30), speed('xs', 1, 1024, 15)])
        print(json.dumps(found, indent=1))
        Path(__file__).parent.joinpath('results/training/speed.json').write_text(json.dumps(found, indent=1) + '\n')
        sys.exit()
    found = dict(command='python nbs/11_cost.py', date=str(date.today()), torch=torch.__version__,
                 machine=platform.machine(), threads=1,
                 loop=[turns('nano', 4, 512, 40), turns('xs', 1, 1024, 10)], save=stall(2, 1024))
    print(json.dumps(found, indent=1))
    Path(__file__).parent.joinpath('results/training/cost.json').write_text(json.dumps(found, indent=1) + '\n')
