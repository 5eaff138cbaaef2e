"""What further byte heads cost the model and its training: the first half of chapter 23.

    python nbs/experiments/head_costs.py cost --data DIR     # several ways to train them, side by side
    python nbs/experiments/head_costs.py cost --seed 1 --ways one trunk chained chained32 --corpora stories
    python nbs/experiments/head_costs.py equal               # each way for the same time; --seed 1 for another seed
    python nbs/experiments/head_costs.py seconds             # what they cost in time
    python nbs/experiments/head_costs.py bases               # which sides of the embedding and heads SOAP should turn

Results are lines of results/writing.jsonl. What is done is skipped.
"""
import math
import statistics
import time

import torch
from common import LENGTH, ROWS, average_weights, config, new_stories, parse, parser, source, stamp, text, train_step
from writing import N, starts

from pico.batches import batch
from pico.evaluate import bits_per_byte
from pico.generate import generate
from pico.heads import ByteHeads, head_weights, linear_loss
from pico.model import Pico
from pico.soap import SOAP
from pico.train import TrainConfig, backward, make_optimizer, lr_factor

STEPS, EACH, RATE, WARMUP = 300, 50, 8e-3, 40

# --- ways to train heads

class Heads(ByteHeads):
    "Linear heads whose further slices are trained in another way."
    def __init__(self, old, detach=False, weights=None):
        super().__init__(old.weight.shape[1], old.N, old.every)
        self.detach, self.set, self.active = detach, weights, True

    def loss(self, h, y, chunk=512, counts=None):
        share = (head_weights(self.N) if self.set is None else torch.tensor(self.set)) / counts
        first, one = linear_loss(h, self.weight[:256], self.bias[:256], y[...,:1], share[:1], chunk)
        one = one.sum((0,1)) / counts[:1]
        if not self.active: return first, torch.cat([one, one.new_zeros(self.N-1)])
        more, rest = linear_loss(h.detach() if self.detach else h, self.weight[256:], self.bias[256:], y[...,1:],
                                 share[1:], chunk)
        return first + more, torch.cat([one, rest.sum((0,1)) / counts[1:]])

def linear(**changes): return dict(next_tokens=N) | changes

def chained(every, heads=N): return dict(next_tokens=heads, heads='chained', heads_every=every)

WAYS = { # name: (changes to the configuration, changes to the heads)
    'one':       (linear(next_tokens=1), None),
    'trunk':     (linear(), None),                                   # the original's way
    'late':      (linear(), dict(weights=[1.] + [.3]*(N-1))),        # through the trunk, in the last quarter only
    'detached':  (linear(), dict(detach=True)),
    'sparse':    (linear(heads_every=8), None),                      # through the trunk, at every 8th byte
    'chained':   (chained(8), None),
    'chained16': (chained(16), None),
    'chained32': (chained(32), None),
    'trunk, 4':  (linear(next_tokens=4), None),                      # the first `nano`
    'chained16, 4': (chained(16, 4), None),
    'chained32, 4': (chained(32, 4), None),
}
COSTS = 'one', 'trunk', 'late', 'detached', 'sparse', 'chained', 'chained32'

class Learner:
    "A model, a running average of its weights, an optimizer, and what is noted about them."
    def __init__(self, shape, heads, seed, optimizer='adamw'):
        torch.manual_seed(seed)
        self.model, self.average = Pico(shape), Pico(shape)
        for m in (self.model, self.average):
            if heads: m.unembedding = Heads(m.unembedding, **heads)
        self.model.train()
        self.average.eval()
        self.optimizer = make_optimizer(self.model, TrainConfig(learning_rate=RATE, optimizer=optimizer))
        self.took, self.stepped, self.curve = [], [], []

    def learn(self, x, y, rate):
        "One step, with its processor time."
        step, start = len(self.took), time.thread_time()
        y = y[...,:self.model.config.next_tokens]
        _, seconds = train_step(self.model, self.optimizer, x, y, rate * min(1, (step + 1) / WARMUP))
        self.took.append(time.thread_time() - start)
        self.stepped.append(seconds)
        average_weights(self.average, self.model, step)

    def score(self, held_out, max_bytes=20_000): return bits_per_byte(self.average, held_out, max_bytes=max_bytes).bpb

def bytes_gained(model, held_out, texts=8, length=150):
    "Bytes a pass by temperature, over eight texts."
    gained = {}
    for t in (0, .8):
        gs = generate(model, starts(held_out, texts), length, temperature=t, ignore_end=True, seed=list(range(texts)),
                      speculative=True)
        gained[t] = sum(sum(g.accepted) for g in gs) / sum(len(g.accepted) for g in gs)
    return gained

# --- equal bytes

def cost(a):
    "All ways side by side: the same batches, each step timed in turn, so that whatever disturbs one disturbs all."
    for corpus in a.corpora:
        name = f'cost-{corpus}-{a.seed}'
        if a.results.find(name): continue
        held_out = text(corpus, 'validation', a.data)
        runs = side_by_side(a, corpus, held_out)
        seconds = sum(runs['one'].took)
        ways = {way: dict(curve=r.curve, seconds_per_step=statistics.median(r.took),
                          gained=bytes_gained(r.average, held_out, *a.few),
                          took_ratio=sum(r.took) / seconds) for way, r in runs.items()}
        a.results.add(dict(name=name, corpus=corpus, seed=a.seed, ways=ways, every=a.each, bytes_per_step=ROWS*LENGTH)
                      | stamp(a.command, source(corpus, a.data)))

def side_by_side(a, corpus, held_out):
    "The trained learners of all ways."
    data = text(corpus, 'train', a.data, a.limit)
    runs = {way: Learner(config('nano', **WAYS[way][0]), WAYS[way][1], a.seed) for way in a.ways or COSTS}
    for step in range(a.steps):
        x, y = batch(data, step, ROWS, LENGTH, N, a.seed)
        for way, r in runs.items():
            if way == 'late': r.model.unembedding.active = step >= .75 * a.steps
            r.learn(x, y, RATE)
            if (step + 1) % a.each == 0: r.curve.append(r.score(held_out, a.scored))
        if (step + 1) % a.each == 0:
            print(corpus, a.seed, step + 1, {w: round(r.curve[-1], 3) for w, r in runs.items()}, flush=True)
    return runs

# --- equal time

EQUAL = { # name: (preset, changes, optimizer, learning rate, processor seconds that each way gets, ways)
    'nano': ('nano', {}, 'adamw', RATE, 60, ('one', 'trunk', 'chained', 'chained16', 'chained32')),
    'xs':   ('xs', dict(dim=144), 'adamw', 4e-3, 120, ('one', 'trunk', 'chained16', 'chained32')),
    # as pico-train did it then
    'demo': ('nano', dict(router='space', latent_carry='yes'), 'soap', RATE, 80,
             ('one', 'trunk, 4', 'chained32, 4', 'chained32')),
}
POINTS = 6                       # of each curve

def equal(a):
    "Ways to train heads, each for the same processor time."
    for shape, (preset, changes, optimizer, lr, budget, names) in EQUAL.items():
        name = f'equal-{shape}-{a.seed}'
        if (a.only and shape not in a.only) or a.results.find(name): continue
        data, held_out = text('stories', limit=a.limit), text('stories', 'validation')
        runs = {way: Learner(config(preset, **changes | WAYS[way][0]), WAYS[way][1], a.seed, optimizer)
                for way in names}
        race(runs, data, held_out, a, lr, a.seconds or budget)
        ways = {w: dict(curve=r.curve, gained=bytes_gained(r.average, held_out, *a.few)) for w, r in runs.items()}
        a.results.add(dict(name=name, preset=preset, optimizer=optimizer, seed=a.seed, ways=ways,
                           bytes_per_step=ROWS*LENGTH) | stamp(a.command, source('stories')))

def race(runs, data, held_out, a, rate, budget):
    "The one that has had least time takes the next step, so that whatever disturbs one disturbs all."
    racing = dict(runs)
    while racing:
        way, r = min(racing.items(), key=lambda v: sum(v[1].took))
        r.learn(*batch(data, len(r.took), ROWS, LENGTH, N, a.seed), rate)
        if sum(r.took) >= (len(r.curve) + 1) * budget / a.points:
            r.curve.append(dict(seconds=sum(r.took), steps=len(r.took), bpb=r.score(held_out, a.scored)))
            print(a.seed, way, r.curve[-1], flush=True)
            if len(r.curve) == a.points: del racing[way]

# --- seconds

def seconds(a):
    "Time of a training step with eight heads against one with one head, taking turns."
    ways = {'one': linear(next_tokens=1), 'linear': linear()}
    ways |= {f'chained {e}': chained(e) for e in ((32,) if a.smoke else (1, 8, 16, 32))}
    out = {}
    for preset, changes in (('nano', {}), ('xs', dict(dim=144)))[:1 if a.smoke else 2]:
        for optimizer, steps in (('adamw', 12), ('soap', 21)):
            took = step_seconds({w: config(preset, **changes | c) for w, c in ways.items()}, optimizer,
                                2 if a.smoke else steps, a.limit)
            # with SOAP the mean, since every tenth step is dearer
            soap, whole = optimizer == 'soap', {w: sum(t) / sum(took['one']) for w, t in took.items()}
            middle = statistics.mean if soap else statistics.median
            ratio = whole if soap else {w: statistics.median(p/q for p, q in zip(t, took['one'], strict=True))
                                        for w, t in took.items()}
            out[preset + ' soap' if soap else preset] = {w: dict(seconds=middle(t), ratio=ratio[w])
                                                         for w, t in took.items()}
            print(preset, optimizer, {w: round(v, 2) for w, v in whole.items()}, flush=True)
    a.results.add(dict(name='seconds', presets=out, bytes_per_step=ROWS*LENGTH) | stamp(a.command, source('stories')))

def step_seconds(shapes, optimizer, steps, limit):
    "Processor seconds of each step but the first."
    models = {w: Pico(shape).train() for w, shape in shapes.items()}
    optimizers = {w: make_optimizer(m, TrainConfig(optimizer=optimizer)) for w, m in models.items()}
    took, data = {w: [] for w in models}, text('stories', limit=limit)
    for step in range(steps):
        x, y = batch(data, step, ROWS, LENGTH, N, 0)
        for w, m in models.items():
            start = time.thread_time()
            backward(m, [(x, y[...,:m.config.next_tokens])])
            optimizers[w].step()
            optimizers[w].zero_grad()
            if step: took[w].append(time.thread_time() - start)
    return took

# --- bases

BASES = 'both sides', 'not the bytes', 'the state'

def bases(a):
    "Which sides of the embedding and the heads should SOAP turn? Scored on the stories of `cost` and `equal`."
    steps = a.steps if a.smoke else 500
    data, held_out = text('stories', limit=a.limit), new_stories(2 if a.smoke else 120, seed=1)
    shape, out = config('nano', router='space', latent_carry='yes', **WAYS['chained32'][0]), {way: [] for way in BASES}
    for seed in (0,) if a.smoke else (0, 1):
        runs = {way: Learner(shape, None, seed, 'soap') for way in BASES}
        # what turns the state alone is what `make_optimizer` makes
        for way in BASES[:2]: runs[way].optimizer = turning(runs[way].model, way)
        for step in range(steps):
            x, y = batch(data, step, ROWS, LENGTH, N, seed)
            # `learn` warms up by itself
            for r in runs.values(): r.learn(x, y, RATE * lr_factor(step, step/steps, 0, 'wsd'))
        for way, r in runs.items():
            out[way].append(dict(seed=seed, heads=head_losses(r.model.eval(), held_out, a.batches),
                                 seconds=sum(r.took), optimizer=sum(r.stepped)))
            print(seed, way, out[way][-1], flush=True)
    a.results.add(dict(name='bases', ways=out, steps=steps, bytes_per_step=ROWS*LENGTH)
                  | stamp(a.command, source('stories', held_out='seed 1')))

def turning(model, way):
    "SOAP that turns both sides of every matrix, or all but the side of the bytes."
    heads, tables = model.unembedding, set()
    if way == 'not the bytes': tables = {model.embedding.weight, heads.weight, heads.seen.weight, heads.guess.weight}
    matrices = [p for p in model.parameters() if p.dim() >= 2 and p not in tables]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [dict(params=matrices, weight_decay=.1), dict(params=vectors, weight_decay=0.)]
    rest = [p for p in model.parameters() if p in tables]
    if rest: groups.append(dict(params=rest, weight_decay=.1, rows=False))
    return SOAP(groups, lr=RATE)

def head_losses(model, held_out, batches):
    "Bits of every head, asked at every byte."
    model.unembedding.every = 1
    with torch.inference_mode():
        found = [model.loss(*batch(held_out, k, ROWS, LENGTH, N, 7)).per_head for k in range(batches)]
    return (sum(found) / batches / math.log(2)).tolist()

# --- the command

STAGES = dict(cost=cost, equal=equal, seconds=seconds, bases=bases)

def few_steps(a):
    "What --smoke changes."
    a.steps, a.each, a.points, a.scored, a.batches = 2, 2, 2, 500, 1
    a.limit, a.few, a.seconds = 50_000, (2, 20), .1
    a.corpora, a.ways, a.only = ['stories'], a.ways or ['one', 'late', 'chained'], a.only or ['nano']

def main(args=None):
    p = parser(__doc__)
    p.add_argument('stage', choices=STAGES)
    p.add_argument('--data', help='folder that holds the corpora')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--only', nargs='*', choices=EQUAL, help='only these shapes of `equal`')
    p.add_argument('--ways', nargs='*', choices=WAYS, help='only these ways of `cost`')
    p.add_argument('--corpora', nargs='*', choices=['stories', 'english', 'russian', 'python'],
                   default=['stories', 'python'])
    a = parse(p, __file__, args, 'writing')
    a.steps, a.each, a.points, a.scored, a.batches = STEPS, EACH, POINTS, 20_000, 12
    a.limit, a.few, a.seconds = None, (), None
    if a.smoke: few_steps(a)
    if a.stage == 'cost' and not a.data and a.corpora != ['stories']: p.error('cost needs --data DIR')
    STAGES[a.stage](a)

if __name__ == '__main__': main()
