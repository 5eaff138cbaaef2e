"""Is an average of the weights a better model than the weights themselves? (Chapter 11.)

    python nbs/experiments/averages.py                                  # the built-in stories
    python nbs/experiments/averages.py --text FILE --source NAME        # another text; NAME says where it is from

One line is one run. Every run keeps running averages (EMA) of several lengths beside the weights, so all are compared
at exactly the same steps. What an average costs in processor time is measured, as a fraction of a step.
"""
import time
from pathlib import Path

import torch
from common import LENGTH, ROWS, config, new_stories, parse, parser, sha256, source, stamp, text, train_step

from pico.sources import load_corpus
from pico.batches import batch
from pico.evaluate import bits_per_byte
from pico.model import Pico
from pico.train import TrainConfig, make_optimizer, lr_factor

STEPS, RATE, WARMUP = 1000, 8e-3, 50
DECAYS = .9, .97, .99
SCHEDULES = 'cosine', 'wsd', 'constant'

class Averages:
    "Running averages of a model's parameters, one for each decay, and the seconds that they took."
    def __init__(self, model):
        self.own, self.seconds = list(model.parameters()), 0.
        self.of = {d: [p.detach().clone() for p in self.own] for d in DECAYS}

    @torch.no_grad()
    def update(self, step):
        start = time.thread_time()
        for d, average in self.of.items():
            # short at first, when the weights still travel
            torch._foreach_lerp_(average, self.own, 1 - min(d, (1 + step)/(10 + step)))
        self.seconds += time.thread_time() - start

def run(train, held_out, schedule, seed, steps=STEPS, max_bytes=100_000):
    "Train one nano; returns held-out bits per byte of the weights and of each average, and the cost of one average."
    torch.manual_seed(seed)
    model = Pico(config()).train()
    optimizer = make_optimizer(model, TrainConfig(learning_rate=RATE, optimizer='adamw'))
    averages, seconds = Averages(model), 0.
    for step in range(steps):
        start = time.thread_time()
        x, y = batch(train, step, ROWS, LENGTH, model.config.next_tokens, seed)
        train_step(model, optimizer, x, y, RATE * lr_factor(step, step/steps, WARMUP, schedule))
        seconds += time.thread_time() - start
        averages.update(step)
    def score(): return bits_per_byte(model.eval(), held_out, max_bytes).bpb
    scores = {'weights': score()}
    for d, average in averages.of.items():
        with torch.no_grad(): torch._foreach_copy_(averages.own, average)
        scores[str(d)] = score()
    return scores, averages.seconds / len(DECAYS) / seconds

def texts(a):
    "Training text, held-out text, and where they are from."
    if a.text:
        about = dict(source=a.source, sha256=sha256(a.text))
        return load_corpus(a.text, 'train'), load_corpus(a.text, 'validation'), about
    limit, n = (50_000, 1) if a.smoke else (None, 120)
    return text('stories', limit=limit), new_stories(n, seed=2), source('stories', held_out='seed 2')

def main(args=None):
    p = parser(__doc__)
    p.add_argument('--text', help='a text file; the built-in stories without it')
    p.add_argument('--source', help='where that text is from')
    p.add_argument('--seeds', type=int, default=3)
    a = parse(p, __file__, args)
    if a.text and not a.source: p.error('--text needs --source NAME, which says where the text is from')
    train, held_out, about = texts(a)
    corpus, schedules, steps, max_bytes = Path(a.text).stem if a.text else 'stories', SCHEDULES, STEPS, 100_000
    if a.smoke: a.seeds, schedules, steps, max_bytes = 1, ['wsd'], 2, 500
    for seed in range(a.seeds):
        for schedule in schedules:
            name = f'{corpus}-{schedule}-{seed}'
            if a.results.find(name): continue
            scores, cost = run(train, held_out, schedule, seed, steps, max_bytes)
            a.results.add(dict(name=name, corpus=corpus, schedule=schedule, seed=seed, steps=steps,
                               bytes_per_step=ROWS*LENGTH, learning_rate=RATE, bits_per_byte=scores,
                               cost_of_average=cost) | stamp(a.command, about))
            print(name, {k: round(v, 4) for k, v in scores.items()}, f'{cost:.2%}', flush=True)

if __name__ == '__main__': main()
