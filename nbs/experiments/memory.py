"""When does a model learn to copy what it was told? Made-up documents, on which nothing else can be learned. (LOG.md)

    python nbs/experiments/memory.py                             # all of GRID, seed 0, at most 400 seconds each
    python nbs/experiments/memory.py --only '3 facts, filler 8' --width 192 --seconds 1200

A document tells some facts, each a role and a name, and then names the roles again in another order; the names that
follow can be copied. Between all of them stand up to so many filler words that nobody can predict. A line is one model
of the design of `nano` with one byte head; its curve says how many bits a name costs the second time, and by the clock
of one thread when. A name that is one of 110 costs 6.78 bits where it is not copied. A run ends when a name costs less
than one bit.
"""
import math
import random
import time

import torch
from common import NANO, NANO_TRAINING, config, parse, parser, part, stamp, train_step

from pico.batches import batch
from pico.data import Corpus
from pico.evaluate import surprise
from pico.model import Pico
from pico.train import TrainConfig, lr_factor, make_optimizer

SECONDS, LOOK, DONE = 400, 15, 1.           # of one thread; between two looks; bits of a name that is copied
ROLES = 'hero', 'friend', 'giver', 'owner', 'guest', 'king'
GRID = {f'{n} fact{"s" * (n > 1)}, filler {k}': (n, k) for n in (1, 2, 3, 4) for k in (0, 2, 8)}

def words(n, seed):
    "Random strings of three to seven letters."
    rng, found = random.Random(seed), set()
    while len(found) < n: found.add(''.join(rng.choices('abcdefghijklmnopqrstuvwxyz', k=rng.randint(3, 7))))
    return sorted(found)

NAMES, FILLERS = words(110, 1), words(20, 2)

def document(rng, facts, filler):
    "A text, and where its names stand the second time, each with the space behind it."
    told = dict(zip(rng.sample(ROLES, facts), rng.sample(NAMES, facts), strict=True))
    text, asked = '', []
    def between(): return ''.join(f'{rng.choice(FILLERS)} ' for _ in range(rng.randint(0, filler)))
    for role, name in told.items(): text += f'{role} {name} {between()}'
    for role in rng.sample(list(told), facts):
        text += f'{role} '
        asked.append((len(text), len(text) + len(told[role]) + 1))
        text += f'{told[role]} {between()}'
    return text.encode(), asked

def documents(n, facts, filler, seed):
    rng = random.Random(seed)
    return [document(rng, facts, filler) for _ in range(n)]

def bits_of_names(model, held):
    "Mean bits of a name that was told before, over documents that no model has read."
    s, total, count, begin = surprise(model, Corpus.from_bytes([text for text, _ in held])), 0., 0, 1
    for text, asked in held:
        for a, b in asked: total += s.bits[begin+a:begin+b].sum()
        count += len(asked)
        begin += len(text) + 2                                    # the marks around it
    return total / count

def run(facts, filler, width, seed, seconds, n=20_000):
    "Train until names are copied or time is up; returns (seconds, bytes, bits of a name) at each look."
    corpus = Corpus.from_bytes([text for text, _ in documents(n, facts, filler, seed)])
    held = documents(60, facts, filler, seed + 1000)
    torch.manual_seed(seed)
    heads = width // 16
    model = Pico(config('nano', **NANO | dict(dim=width, att_q_heads=heads, att_kv_heads=heads//3, next_tokens=1)))
    model.train().latent.router.begin(corpus)
    settings = TrainConfig(optimizer='soap', **NANO_TRAINING)
    optimizer, curve, spent, step = make_optimizer(model, settings), [], 0., 0
    rows, length = settings.batch_size, settings.context_len
    while spent < seconds and not (curve and curve[-1][2] < DONE):
        start = time.thread_time()
        until = min(spent + LOOK, seconds)
        while spent + time.thread_time() - start < until:
            factor = lr_factor(step, 0., settings.warmup_steps, 'constant')
            train_step(model, optimizer, *batch(corpus, step, rows, length, 1, seed), settings.learning_rate * factor)
            step += 1
        spent += time.thread_time() - start
        curve.append((round(spent, 1), step * rows * length, round(bits_of_names(model.eval(), held), 4)))
        model.train()
    return curve, model.num_parameters()

def main(args=None):
    p = parser(__doc__)
    p.add_argument('--only', nargs='*', choices=GRID, default=list(GRID), metavar='CELL', help='a name in GRID')
    p.add_argument('--width', type=int, default=96)
    p.add_argument('--seeds', type=int, nargs='*', default=[0])
    p.add_argument('--seconds', type=float, default=SECONDS, help='at most, of a model')
    p.add_argument('--part', default='0/1', help='i/n: only every n-th model, from the i-th')
    a = parse(p, __file__, args)
    if a.smoke: a.only, a.seconds = ['1 fact, filler 0'], .3
    for seed, cell in part([(seed, cell) for seed in a.seeds for cell in a.only], a.part):
        name = f'{cell}, width {a.width}, seed {seed}, {a.seconds:g} s'
        if a.results.find(name): continue
        curve, parameters = run(*GRID[cell], a.width, seed, a.seconds, 50 if a.smoke else 20_000)
        facts, filler = GRID[cell]
        a.results.add(dict(name=name, facts=facts, filler=filler, width=a.width, seed=seed, seconds=a.seconds,
                           possible=math.log2(len(NAMES)), parameters=parameters, curve=curve) | stamp(a.command))
        spent, seen, bits = curve[-1]
        print(f'{name}: {bits:.2f} bits a name after {spent:.0f} s, {seen/1e6:.1f} MB', flush=True)

if __name__ == '__main__': main()
