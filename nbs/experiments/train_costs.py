"""What the machinery of a run costs, and what faster arithmetic saves. (Chapters 10d, 11.)

    python nbs/experiments/train_costs.py              # `pico.train.train` against five bare lines; some minutes
    python nbs/experiments/train_costs.py speed        # a step in bfloat16 and one compiled, against plain float32

Steps alternate in one process: a step of the real loop (metrics, clipping, checks, schedule, progress, agreement, a
checkpoint now and then), a step of a bare loop (batch, loss, backward, optimizer) on an equal model. Time is the
processor time of the main thread, so other programs on the machine hardly count. The middle one of all steps is
compared. For the save, the whole checkpoint of the `10m` preset is taken in training, and what it adds to the thread's
time is compared with a step.
"""
import statistics
import tempfile
import time
from pathlib import Path

import torch
from common import config, parse, parser, stamp, text

import pico.train
from pico.batches import batch
from pico.model import Pico
from pico.run import Run, Saver, TrainConfig
from pico.costs import compile_model, pick_autocast
from pico.train import backward, make_optimizer, train

def stories(): return text('stories', limit=900_000)

def middle(v): return statistics.median(v[3:])

# --- the loop

class Enough(Exception):
    "Ends the real loop from inside."

def bare_step(model, optimizer, corpus, rows, length, step):
    "Seconds of what a training step is at least."
    start = time.thread_time()
    loss = model.loss(*batch(corpus, step, rows, length, model.config.next_tokens))
    optimizer.zero_grad()
    loss.total.backward()
    optimizer.step()
    return time.thread_time() - start

class Between:
    "Takes the place of `all_reduce_max`, which the loop calls before every step, and runs a bare step there."
    def __init__(self, bare, steps):
        self.bare, self.steps, self.decide, self.last = bare, steps, pico.train.all_reduce_max, None
        self.real, self.plain = [], []

    def __call__(self, numbers):
        now = time.thread_time()
        if self.last is not None:
            self.real.append(now - self.last)
            self.plain.append(self.bare(len(self.real)))
        if len(self.real) == self.steps: raise Enough
        self.last = time.thread_time()
        return self.decide(numbers)

def turns(preset, rows, length, steps):
    "Alternate real and bare steps; returns the median thread time of each."
    shape, corpus = config(preset), stories()
    s = TrainConfig(context_len=length, batch_size=rows, max_steps=10**6, checkpoint_interval=10**6, warmup_steps=50,
                    optimizer='adamw')
    torch.manual_seed(0)
    model = Pico(shape).train()
    optimizer = make_optimizer(model, s)
    between = Between(lambda step: bare_step(model, optimizer, corpus, rows, length, step), steps)
    pico.train.all_reduce_max = between
    try:
        with tempfile.TemporaryDirectory() as d: train(Path(d)/'run', corpus, shape, s, None)
    except Enough: pass
    finally: pico.train.all_reduce_max = between.decide
    overhead = statistics.median(r/p for r, p in zip(between.real[3:], between.plain[3:], strict=True)) - 1
    return dict(preset=preset, rows=rows, length=length, steps=steps, bare_ms=1000*middle(between.plain),
                real_ms=1000*middle(between.real), overhead=overhead)

# --- a save

def stall(rows, length, preset='10m'):
    "A step, and what a save takes from the training thread."
    corpus = stories()
    s = TrainConfig(context_len=length, batch_size=rows, optimizer='adamw')
    torch.manual_seed(0)
    model = Pico(config(preset)).train()
    optimizer = make_optimizer(model, s)
    def step(i):
        start, wall = time.thread_time(), time.perf_counter()
        model.loss(*batch(corpus, i, rows, length, model.config.next_tokens)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.thread_time() - start, time.perf_counter() - wall
    saves, during = [], []
    with tempfile.TemporaryDirectory() as d:
        Path(d, 'metrics.jsonl').touch()
        run = Run(Path(d), model, optimizer, s, corpus)
        saver = Saver(run)
        quiet = [step(i) for i in range(4)]
        for n in range(3):
            run.step = n + 1
            start, wall = time.thread_time(), time.perf_counter()
            saver.save()
            saves.append((time.thread_time() - start, time.perf_counter() - wall))
            during.append(step(4 + n))
            saver.background.wait()
    found = medians('step', quiet[1:]) | medians('save', saves) | medians('step_beside_a_save', during)
    return dict(rows=rows, length=length) | found

def medians(name, times):
    "Of thread seconds and wall seconds."
    thread, wall = (statistics.median(v) for v in zip(*times, strict=True))
    return {f'{name}_s': thread, f'{name}_wall_s': wall}

# --- faster arithmetic

WAYS = 'float32', 'bfloat16', 'compiled'

def speed(preset, rows, length, steps):
    "How many times as long as plain float32 the other ways take, on equal models taking turns."
    corpus = stories()
    models, casts, took = {}, {}, {way: [] for way in WAYS}
    for way in WAYS:
        torch.manual_seed(0)
        models[way] = Pico(config(preset)).train()
        casts[way] = pick_autocast('bfloat16' if way == 'bfloat16' else 'float32', torch.device('cpu'))
    start = time.perf_counter()
    compile_model(models['compiled'], 'yes', batch(corpus, 0, rows, length, 1)[0])
    compilation = time.perf_counter() - start
    for i in range(steps):
        x, y = batch(corpus, i, rows, length, models['float32'].config.next_tokens)
        for way, m in models.items():
            start = time.thread_time()
            backward(m, [(x, y)], autocast=casts[way])
            took[way].append(time.thread_time() - start)
            m.zero_grad()
    plain = took['float32'][3:]
    ratio = {w: statistics.median(a/b for a, b in zip(t[3:], plain, strict=True)) for w, t in took.items()}
    return dict(preset=preset, rows=rows, length=length, steps=steps, compilation_s=compilation, ratio=ratio,
                float32_ms=1000*statistics.median(plain))

# --- the experiment

def measure(what, smoke):
    if smoke and what == 'cost': return dict(loop=[turns('nano', 1, 32, 4)], save=stall(1, 32, 'nano'))
    if smoke: return dict(rows=[speed('nano', 1, 32, 4)])
    if what == 'cost': return dict(loop=[turns('nano', 4, 512, 40), turns('xs', 1, 1024, 10)], save=stall(2, 1024))
    return dict(rows=[speed('nano', 4, 512, 30), speed('xs', 1, 1024, 15)])

def main(args=None):
    p = parser(__doc__)
    p.add_argument('what', nargs='?', choices=['cost', 'speed'], default='cost')
    a = parse(p, __file__, args)
    if a.results.find(a.what): return
    found = dict(name=a.what) | measure(a.what, a.smoke) | stamp(a.command)
    print(found)
    a.results.add(found)

if __name__ == '__main__': main()
