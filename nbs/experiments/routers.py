"""The grid of chapter 21a: routers compared. One cell of the grid is one model, trained and scored.

    python nbs/experiments/routers.py --stage stories                    # needs nothing
    python nbs/experiments/routers.py --stage text --data DIR            # DIR holds the files of common.CORPORA
    python nbs/experiments/routers.py --stage stories --part 1/2         # every second cell, for two machines or cores
    python nbs/experiments/routers.py --stage text-capacity --data DIR --seeds 1   # other capacities on the corpora

Cells that are done are skipped: stop it when you like, start it again to go on, raise --seeds to extend it. To measure
another router, register it in `pico.router.ROUTERS` and add its name to a stage.
"""
import statistics
import time
from collections import namedtuple

import torch
from common import LENGTH, ROWS, average_weights, config, new_stories, parse, parser, part, source, stamp, text
from common import train_step

from pico.sources import load_corpus
from pico.batches import batch
from pico.evaluate import bits_per_byte, recall, router_report
from pico.model import Pico
from pico.stories import story
from pico.costs import flops_per_byte
from pico.train import TrainConfig, make_optimizer

TEXTS = ['english', 'russian', 'python']
EVERY = ['none', 'all', 'space', 'stride', 'random', 'topk', 'threshold', 'predictor']
STAGES = { # stage: corpora, routers, capacities
    'stories':       (['stories'], EVERY, [.25]),
    'text':          (TEXTS, ['none', 'all', 'space', 'stride', 'topk', 'threshold'], [.25]),
    'more':          (TEXTS, ['random', 'predictor'], [.25]),
    'capacity':      (['stories'], ['topk', 'threshold', 'predictor', 'stride', 'random'], [.125, .5]),
    'text-capacity': (TEXTS, ['topk', 'threshold', 'stride'], [.125, .5]),
    'more-capacity': (TEXTS, ['predictor', 'random'], [.125, .5]),
}
RATE, WARMUP = 8e-3, 40

class Cell(namedtuple('Cell', 'corpus router capacity seed')):
    "One model of the grid."
    @property
    def name(self): return f'{self.corpus}-{self.router}-{self.capacity:g}-{self.seed}'

    @property
    def config(self): return config(router=self.router, latent_capacity_factor=self.capacity)

class Length(namedtuple('Length', 'steps each scored reported stories')):
    "Training steps, of which every so many the model is scored; bytes scored then and at the end; stories asked."

FULL  = Length(800, 100, 20_000, 50_000, 20)
SMOKE = Length(4, 2, 1000, 1000, 2)

def cells(stage, seeds):
    "All cells of a stage, those of one seed before those of the next."
    corpora, routers, capacities = STAGES[stage]
    return [Cell(c, r, k, s) for s in range(seeds) for c in corpora for k in capacities for r in routers]

def texts(corpus, data=None):
    """Training text and held-out text. The stories are those of seed 2, by which nothing had been chosen when this was
    measured: choices.py came later."""
    return text(corpus, 'train', data), (new_stories(120, seed=2) if corpus == 'stories'
                                         else text(corpus, 'validation', data))

def train(cell, corpus, held_out, length):
    """Train at a constant learning rate and score a running average of the weights, so that every point of the curve is
    a finished model. The average, the curve, and the processor seconds of a step."""
    torch.manual_seed(cell.seed)
    model, average = Pico(cell.config).train(), Pico(cell.config).eval()
    model.latent.router.begin(corpus)
    optimizer = make_optimizer(model, TrainConfig(learning_rate=RATE, optimizer='adamw'))
    curve, took, routed, flops = [], [], [], 0.
    for step in range(length.steps):
        start = time.process_time()
        x, y = batch(corpus, step, ROWS, LENGTH, model.config.next_tokens, cell.seed)
        out, _ = train_step(model, optimizer, x, y, RATE * min(1, (step + 1) / WARMUP))
        took.append(time.process_time() - start)
        routed.append(out['routed'])
        flops += ROWS * LENGTH * flops_per_byte(cell.config, out['routed'])
        average_weights(average, model, step)
        if (step + 1) % length.each == 0:
            score = bits_per_byte(average, held_out, max_bytes=length.scored)
            curve.append(dict(step=step + 1, bytes=(step + 1) * ROWS * LENGTH, flops=flops, bpb=score.bpb,
                              routed=score.routed_fraction, trained=statistics.mean(routed[-length.each:])))
    return average, curve, statistics.median(took)

def finished(model, corpus, held_out, length):
    "What is asked of a model at its end."
    r = router_report(model, held_out, max_bytes=length.reported)
    end = dict(bpb=r.bpb, latent_off=r.bpb_off, routed=r.used, leak=r.leak, precision=r.precision, recall=r.recall,
               f1=r.f1, random_f1=r.random_f1, entropy=r.entropy, rates=r.rates)
    def share(name): # of the bytes of another kind of text
        return bits_per_byte(model, load_corpus(name, 'validation'), max_bytes=length.scored // 4).routed_fraction
    end['elsewhere'] = {name: share(name) for name in ('stories', 'python')}
    if corpus == 'stories':
        f = recall(model, [story(i, seed=2) for i in range(length.stories)], far=200)
        end['facts'] = dict(accuracy=f.accuracy, probability=f.probability, rank=f.rank, chance=f.chance, n=f.n)
    return end

def run(cell, data=None, length=FULL):
    "Train and score the model of one cell."
    corpus, held_out = texts(cell.corpus, data)
    model, curve, seconds = train(cell, corpus, held_out, length)
    end = finished(model, cell.corpus, held_out, length) | dict(seconds_per_step=seconds)
    return dict(name=cell.name, **cell._asdict(), curve=curve, end=end)

def options():
    p = parser(__doc__)
    p.add_argument('--stage', choices=STAGES, default='stories')
    p.add_argument('--data', metavar='DIR', help='folder that holds the corpora')
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--part', default='0/1', help='i/n: only every n-th cell, from the i-th')
    return p

def main(args=None):
    p = options()
    a = parse(p, __file__, args)
    asked = part(cells(a.stage, 1 if a.smoke else a.seeds), a.part)
    if not a.data and any(c.corpus != 'stories' for c in asked):
        p.error(f'--stage {a.stage} needs --data DIR, the folder that holds the corpora')
    for cell in asked:
        if a.results.find(cell.name): continue
        result = run(cell, a.data, SMOKE if a.smoke else FULL)
        held_out = 'seed 2' if cell.corpus == 'stories' else 'the last tenth'
        a.results.add(result | stamp(a.command, source(cell.corpus, a.data, held_out)))
        end = result['end']
        print(f"{cell.name}: {end['bpb']:.4f} bits per byte, {end['routed']:.1%} routed", flush=True)

if __name__ == '__main__': main()
