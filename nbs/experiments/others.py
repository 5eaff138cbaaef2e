"""How fast do others learn a text? Pico beside MegaByte, SpaceByte and a Transformer over bytes, at equal time.

    python nbs/experiments/others.py choose --data DIR --megabyte DIR          # which rate: on training text
    python nbs/experiments/others.py --data DIR --megabyte DIR                 # all of MODELS, English and Russian
    python nbs/experiments/others.py --data DIR --megabyte DIR --seconds 900 --only pico spacebyte

The other models are those of github.com/kjslag/spacebyte, from a copy of it (see peers.py), with its optimizer and
schedule, and with the rate and the rows that were best of those tried; `--megabyte` names the folder, as in speed.py.
A line is one model, trained for so many seconds of one thread, on the first nine tenths of a file, and its bits per
byte of the beginning of the last tenth. Pico reads that through a cache, the others in pieces as long as their rows,
which overlap by half, and of which the new half counts. All see 2,048 bytes a step. Sizes are those of `nano`;
MegaByte also gets the larger size of speed.py.
"""
import math
import time

import torch
from choices import CHOICES, NAMES, train
from common import CORPORA, parse, parser, part, source, stamp
from peers import divided, repository

from pico.data import Corpus
from pico.evaluate import bits_per_byte

STEP, SCORED = 2048, 100_000         # bytes
MODELS = 'pico', 'megabyte', 'small_megabyte', 'spacebyte', 'transformer'
# how long a row is, and times the repository's own rate, which grows with the number of rows
TRIED = [(1024, t) for t in (.5, 1., 2., 4., 8.)] + [(256, t) for t in (1., 2., 4., 8.)]
BEST = 256, 4.                       # best of them for each model, or level with the best, as `choose` found
NOW = CHOICES[NAMES.index('nano now, memory')]
# SpaceByte's large blocks read at most one of so many bytes: about as many as its rule asks for. It takes every
# Cyrillic letter for the end of a word.
DEEP = {'english': 4, 'russian': 2}

def pico(text, seed, seconds):
    "Pico: `nano` as choices.py trains it."
    training, held_out = text
    model, steps, seen = train(NOW, Corpus.from_bytes(training), seed, seconds)
    score = bits_per_byte(model, Corpus.from_bytes(held_out))
    return dict(steps=steps, bytes=seen, bpb=score.bpb, scored=score.bytes, parameters=model.num_parameters())

@torch.no_grad()
def bits_of(text, nats, length):
    "Bits per byte in pieces that overlap by half, of which the new half counts; of the first all of it."
    half = length // 2
    pieces = text[:len(text) // half * half].unfold(0, length, half)
    losses = torch.cat([nats(some) for some in pieces.split(4 * STEP // length)])
    total, size = losses[0,:half].sum() + losses[:,half:].sum(), (len(pieces) + 1) * half
    return dict(bpb=total.item() / size / math.log(2), scored=size)

def other(folder, name, text, corpus, seed, seconds, length, times):
    "A model of the other repository, with rows of a length, at so many times its own rate."
    training, held_out = (torch.frombuffer(bytearray(t), dtype=torch.uint8).long() for t in text)
    shape = dict(global_context_size=length // DEEP[corpus]) if name == 'spacebyte' else {}
    size = STEP // length, length
    _, nats, done = repository(folder, name, training, seconds, size, time.thread_time, times, seed, **shape)
    return done | dict(length=length, times=times) | bits_of(held_out, nats, length)

def main(args=None):
    p = parser(__doc__)
    p.add_argument('stage', nargs='?', choices=('choose', 'final'), default='final')
    p.add_argument('--data', metavar='DIR', help='folder that holds the corpora')
    p.add_argument('--megabyte', metavar='DIR', help='a copy of github.com/kjslag/spacebyte')
    p.add_argument('--corpora', nargs='*', choices=DEEP, default=list(DEEP))
    p.add_argument('--only', nargs='*', choices=MODELS, default=MODELS, metavar='MODEL')
    p.add_argument('--seconds', type=float, nargs='*', default=[60., 200., 600.], help='of one thread, of a model')
    p.add_argument('--seeds', type=int, nargs='*', default=[0])
    p.add_argument('--part', default='0/1', help='i/n: only every n-th model, from the i-th')
    a = parse(p, __file__, args)
    if a.smoke: a.corpora, a.only, a.seconds = ['stories'], ['pico'], [.2]
    asked = [(s, c, m, seed, None) for seed in a.seeds for s in a.seconds for c in a.corpora for m in a.only]
    if a.stage == 'choose': asked = [(60., 'english', m, 0, tried) for m in a.only if m != 'pico' for tried in TRIED]
    for seconds, corpus, name, seed, tried in part(asked, a.part):
        row = f'{corpus}, {name}, {seconds:g} s, seed {seed}'
        if tried: row = f'choose, {row}, rows of {tried[0]}, rate x {tried[1]:g}'
        if a.results.find(row): continue
        training, held_out = texts(corpus, a.data, tried)
        text = training, held_out[:500 if a.smoke else SCORED]
        if name == 'pico': found = pico(text, seed, seconds)
        else: found = other(a.megabyte, name, text, corpus, seed, seconds, *(tried or BEST))
        asked_for = dict(stage=a.stage, corpus=corpus, model=name, seed=seed, seconds=seconds)
        a.results.add(dict(name=row) | asked_for | found | stamp(a.command, source(corpus, a.data)))
        print(f"{row}: {found['bpb']:.4f} bits per byte, {found['steps']:,} steps", flush=True)

def texts(corpus, data, choosing=None):
    "Training text and held-out text, as bytes; to choose by, training text and the ninth of it before the other."
    if corpus == 'stories': return b'The mouse went home. ' * 5000, b'The mouse went home. ' * 50
    training, held_out = divided(f'{data}/{CORPORA[corpus][0]}')
    cut = len(training) * 8 // 9
    return (training[:cut], training[cut:]) if choosing else (training, held_out)

if __name__ == '__main__': main()
