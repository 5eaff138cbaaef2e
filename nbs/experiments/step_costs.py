"""Where the time of a training step goes, and how it grows. (Chapter 10d.)

    python nbs/experiments/step_costs.py profile       # shares of the parts of a step, `nano` and the shape of `xs`
    python nbs/experiments/step_costs.py growth        # with context, width, depth, capacity and batch
    python nbs/experiments/step_costs.py memory        # the most that `10m` needs, also while a checkpoint is written
    git worktree add /tmp/before COMMIT; PYTHONPATH=/tmp/before python nbs/experiments/step_costs.py profile --before

The profiler numbers every operation, and its backward operation has the same number; so the time of both is given to
the part of the model that the forward one stood in. `--before` does the same with an older package, to compare: then
`nano` has the shape that it had. It is the processor time of one thread. Memory is the highest resident memory of a
process that does nothing else.
"""
import multiprocessing
import resource
import statistics
import time
from collections import Counter

import torch
from common import LEARNED, NANO, SHAPES, config, parse, parser, source, stamp, text, train_step
from torch.profiler import ProfilerActivity, profile, record_function

from pico.batches import batch
from pico.checkpoint import copied
from pico.model import Pico
from pico.train import TrainConfig, make_optimizer

DESIGNS = {'nano': (SHAPES['nano'] | LEARNED | dict(heads_every=32), 4, 512),      # as it was
           'xs': (SHAPES['xs'] | LEARNED | dict(dim=144, heads_every=16), 8, 1024)}
NOW = {'nano now': (NANO, 4, 512)}
PRODUCTS = {f'aten::{name}' for name in ('mm', 'bmm', 'addmm', 'baddbmm_', 'mv', 'addmv')}

# --- where it goes

def within(name, f):
    "A function that says its name to the profiler."
    def inside(*args, **kw):
        with record_function(f'part {name}'): return f(*args, **kw)
    return inside

def labelled(model):
    "Have every part of a model say its name. What stands in a part of its own does not count in the one around it."
    for where, stack in (('full-byte', model.fb_in), ('latent', model.latent), ('full-byte', model.fb_out)):
        for block in stack.blocks:
            block.att.forward = within(f'{where} attention', block.att.forward)
            block.glu.forward = within(f'{where} gated network', block.glu.forward)
            block.forward = within('norms and sums', block.forward)
    model.latent.forward = within('routing, packing, carrying', model.latent.forward)
    model.unembedding.loss = within('byte heads and loss', model.unembedding.loss)
    return model

def part_of(event):
    "The innermost part around an operation of the forward pass; None outside."
    while event is not None:
        if event.name.startswith('part '): return event.name[5:]
        event = event.cpu_parent

def outermost(event):
    while event.cpu_parent is not None: event = event.cpu_parent
    return event

def shares(events):
    "part -> share of all time; and the share of matrix products."
    own = [e for e in events if not e.is_async]
    forward = {}
    for e in own:
        if e.sequence_nr >= 0 and part_of(e): forward.setdefault(e.sequence_nr, part_of(e))
    spent, products = Counter(), 0.
    for e in own:
        top, seconds = outermost(e), e.self_cpu_time_total
        if top.name.startswith('Optimizer.step'): part = 'optimizer'
        elif 'evaluate_function' in top.name: part = forward.get(top.sequence_nr, 'the rest')
        else: part = part_of(e) or 'the rest'
        spent[part] += seconds
        if e.name in PRODUCTS: products += seconds
    whole = sum(spent.values())
    return {part: s / whole for part, s in spent.most_common()}, products / whole

def step(model, optimizer, corpus, i, rows, length):
    train_step(model, optimizer, *batch(corpus, i, rows, length, model.config.next_tokens), lr=1e-3)

def ready(shape, corpus):
    torch.manual_seed(0)
    model = Pico(config('xs', **shape)).train()
    model.latent.router.begin(corpus)
    return model, make_optimizer(model, TrainConfig(optimizer='soap'))

def profiled(shape, rows, length, corpus, n=20):
    "Milliseconds of a step as it is, and how a profiled one divides."
    model, optimizer = ready(shape, corpus)
    took = []
    for i in range(n):
        start = time.thread_time()
        step(model, optimizer, corpus, i, rows, length)
        took.append(time.thread_time() - start)
    labelled(model)
    with profile(activities=[ProfilerActivity.CPU]) as p:
        for i in range(n, 2*n): step(model, optimizer, corpus, i, rows, length)
    parts, products = shares(p.events())
    return dict(rows=rows, length=length, ms=1e3 * statistics.median(took[n//4:]), parts=parts, products=products)

# --- how it grows

GROWTH = { # what: (a change of the design of `nano`, rows and length) for each value
    'context': {n: ({}, 8192 // n, n) for n in (128, 512, 2048, 8192)},
    'width': {d: (dict(dim=d), 4, 512) for d in (48, 96, 192, 384)},
    'latent blocks': {n: (dict(latent_num_blocks=n), 4, 512) for n in (0, 2, 6, 12)},
    'capacity': {c: (dict(router='topk', latent_capacity_factor=c, latent_num_blocks=12), 4, 512)
                 for c in (1/16, 1/4, 1/2, 1)},
    'rows': {n: ({}, n, 512) for n in (1, 2, 4, 16)},
}

def grown(what, corpus, n=12):
    "Microseconds a byte of whole steps, medians, by the value of what grows."
    found = {}
    for value, (change, rows, length) in GROWTH[what].items():
        model, optimizer = ready(NANO | change, corpus)
        took = []
        for i in range(n):
            start = time.thread_time()
            step(model, optimizer, corpus, i, rows, length)
            took.append(time.thread_time() - start)
        found[str(value)] = 1e6 * statistics.median(took[n//4:]) / (rows * length)
    return found

# --- what it holds

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024     # MiB on Linux

def held(name, rows, length, steps, out):
    "MiB at most: before the model is made, in some steps, and while a copy waits to be written beside another one."
    torch.set_num_threads(1)
    corpus, found = text('stories', limit=900_000), dict(before=peak())
    shape = SHAPES[name] | LEARNED | dict(positions='relative', heads_every=16)
    model, optimizer = ready(shape, corpus)
    for i in range(steps): step(model, optimizer, corpus, i, rows, length)
    found['steps'] = peak()
    copy = copied((model.state_dict(), optimizer.state_dict()))
    step(model, optimizer, corpus, steps, rows, length)
    found['save'] = peak()
    out.put(dict(found, parameters=model.num_parameters(), copied=bool(copy), rows=rows, length=length))

def memory(name, rows, length, steps):
    "`held` in a process of its own."
    start = multiprocessing.get_context('spawn')
    out = start.Queue()
    process = start.Process(target=held, args=(name, rows, length, steps, out))
    process.start()
    found = out.get()
    process.join()
    return found

def main(args=None):
    p = parser(__doc__)
    p.add_argument('what', choices=['profile', 'growth', 'memory'])
    p.add_argument('--before', action='store_true', help='note it as that of an older package')
    a = parse(p, __file__, args, results='train_costs')
    name, corpus = a.what + '-before' * a.before, text('stories', limit=900_000)
    if a.results.find(name): return
    n = 1 if a.smoke else 20
    if a.what == 'profile':
        found = {k: profiled(shape, *((2, 64) if a.smoke else size), corpus, n)
                 for k, (shape, *size) in (DESIGNS if a.before else DESIGNS | NOW).items()}
    elif a.what == 'memory': found = memory(*(('nano', 2, 64, 1) if a.smoke else ('10m', 8, 1024, 3)))
    else: found = {what: grown(what, corpus, 1 if a.smoke else 12) for what in GROWTH}
    a.results.add(dict(name=name, found=found) | stamp(a.command, source('stories')))
    print(name, found)

if __name__ == '__main__': main()
