"""Writing several bytes at a time: the second half of chapter 23.

    python nbs/experiments/writing.py models --data DIR    # trains the models that write; weights go to runs/writing
    python nbs/experiments/writing.py tune                 # goes on with the heads of stories-nano alone
    python nbs/experiments/writing.py write --data DIR     # bytes per pass and per second of those models
    python nbs/experiments/writing.py steady               # bytes per second of plain writing far into a text
    python nbs/experiments/writing.py lookup --data DIR    # how often a text continues as it did before

Results are lines of results/writing.jsonl. What is done is skipped; training goes on where it was stopped.
"""
import math
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from common import CORPORA, HERE, config, parse, parser, source, stamp, text

from pico.data import MARKS
from pico.batches import batch
from pico.evaluate import bits_per_byte
from pico.generate import rounds, stream
from pico.writing import Writing
from pico.model import Pico
from pico.train import TrainConfig, train

N = 8                                                    # byte heads
RUNS = HERE.parent.parent/'runs'/'writing'
BEGIN, END = MARKS['bytes'][:2]                           # of a document

def starts(corpus, n, length=100):
    "The first bytes of n held-out documents, or of places in a long one."
    raw = b''.join(a.tobytes() for a in corpus.text(0, min(corpus.text_bytes, 200_000)))
    return [raw[i*len(raw)//n:][:length] for i in range(n)]

# --- models that write

RULE = dict(router='space', latent_carry='yes')          # as pico-train had it then
MODELS = { # name: (corpus, preset, changes, steps, learning rate)
    'stories-nano': ('stories', 'nano', dict(router='topk'), 1500, 8e-3),
    'stories-xs':   ('stories', 'xs', dict(dim=144, router='topk', heads_every=16), 600, 4e-3),
    'python-nano':  ('python', 'nano', dict(router='topk', heads_every=16), 1500, 8e-3),
    'english-nano': ('english', 'nano', dict(router='topk', heads_every=16), 1500, 8e-3),
    'russian-nano': ('russian', 'nano', dict(router='topk', heads_every=16), 1500, 8e-3),
    'stories-nano-rule': ('stories', 'nano', RULE, 1500, 8e-3),
    'stories-xs-rule':   ('stories', 'xs', RULE | dict(dim=144, heads_every=16), 600, 4e-3),
}
TUNED = 'stories-nano-tuned'

def models(a):
    "Models with eight chained heads."
    for name, (corpus, preset, changes, steps, rate) in MODELS.items():
        if a.only and name not in a.only: continue
        if a.smoke: steps = 2
        settings = TrainConfig(context_len=512, batch_size=4, optimizer='adamw', learning_rate=rate, warmup_steps=50,
                               max_steps=steps, validation_interval=500, validation_bytes=500 if a.smoke else 20_000,
                               checkpoint_interval=250, keep=1)
        shape = config(preset, **dict(next_tokens=N, heads='chained', heads_every=8) | changes)
        train(a.runs/name, text(corpus, 'train', a.data, a.limit), shape, settings,
              text(corpus, 'validation', a.data, a.limit))

def tune(a, steps=500):
    "Go on with the chained heads alone: the model is frozen, they learn from every third byte of causal states."
    if a.smoke: steps = 2
    data = text('stories', 'train', a.data, a.limit)
    torch.manual_seed(0)
    model = Pico.from_pretrained(a.runs/'stories-nano')
    heads = model.unembedding
    heads.every = 3
    own = [p for n, p in heads.named_parameters() if n not in ('weight', 'bias')]
    optimizer = torch.optim.AdamW(own, 4e-3, betas=(.9, .95))
    for step in range(steps):
        for g in optimizer.param_groups: g['lr'] = 4e-3 * min(1, (step + 1) / 20) * (1 - step / steps)
        x, y = batch(data, 100_000 + step, 4, 512, N)
        with torch.no_grad(): h, _ = model.states(x, routing='causal')
        total, per_head = heads.loss(h, y)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        heads.weight.grad = heads.bias.grad = None
        if (step + 1) % 50 == 0:
            print(step + 1, [round(v, 2) for v in (per_head.detach() / math.log(2)).tolist()], flush=True)
    model.save_pretrained(a.runs/TUNED)

# --- every way to guess

MODES = { # name: what `rounds` is asked for
    'plain':  dict(),
    'drawn':  dict(drafts=N-1),
    'likely': dict(drafts=N-1, draft='likely'),
    'always': dict(drafts=N-1, least=0),
    'lookup': dict(copies=15),
    'both':   dict(drafts=N-1, copies=15),
    'both, likely': dict(drafts=N-1, copies=15, draft='likely'),
} | {f'{n} heads': dict(drafts=n-1) for n in (2, 3, 4, 6)}
LENGTH_WRITTEN = 200

def begin_writing(model, prompts, temperature, seed, length, **kw):
    "Rows to be filled, and the rounds that fill them; a new document begins where one ends."
    rows = [Writing(seed + i, length) for i in range(len(prompts))]
    return rows, rounds(model, prompts, rows, temperature, None, after={END[0]: BEGIN[0]}, **kw)

def timed(model, prompts, temperature, seed, length, **kw):
    "Write on from each prompt, as one batch: bytes, passes, processor seconds, and bytes gained in each round."
    start = time.thread_time()
    rows, writing = begin_writing(model, prompts, temperature, seed, length, **kw)
    for _ in writing: pass
    seconds = time.thread_time() - start
    return dict(bytes=sum(len(r.data) for r in rows), passes=sum(r.forwards - 1 for r in rows), seconds=seconds,
                gained=[g for r in rows for g in r.accepted[1:-1]])

def by_modes(model, prompts, batch_size, temperature, length):
    "Every way to guess against the plain loop: all ways take turns on each group of prompts."
    groups = [[p] for p in prompts[:10]] if batch_size == 1 else [prompts]*2
    modes = {m: kw for m, kw in MODES.items() if batch_size == 1 or 'heads' not in m}
    got = {mode: [] for mode in modes}
    for g, group in enumerate(groups):
        for mode, kw in modes.items(): got[mode].append(timed(model, group, temperature, 100*g, length, **kw))
    for mode, runs in got.items():
        written, passes, seconds = (sum(r[k] for r in runs) for k in ('bytes', 'passes', 'seconds'))
        speedup = [p['seconds'] / r['seconds'] for p, r in zip(got['plain'], runs, strict=True)]
        gained = [g for r in runs for g in r['gained']]
        yield dict(batch_size=batch_size, temperature=temperature, mode=mode, bytes_per_pass=written/passes,
                   bytes_per_second=written/seconds, speedup=statistics.median(speedup),
                   gained=np.bincount(gained, minlength=17).tolist())

def trained(a, stage, names):
    "Those models of a stage that are trained and not measured: names of their lines, and the models."
    for name in names:
        line = f'{stage}-{name}'
        if (a.only and name not in a.only) or a.results.find(line): continue
        if (a.runs/name/'model.safetensors').exists(): yield line, name, Pico.from_pretrained(a.runs/name)

def write(a):
    "Speeds of every model, one text at a time and sixteen at once."
    corpora = {name: corpus for name, (corpus, *_) in MODELS.items()} | {TUNED: 'stories'}
    for line, name, model in trained(a, 'write', corpora):
        held_out, out = text(corpora[name], 'validation', a.data, a.limit), []
        prompts = [BEGIN + p for p in starts(held_out, 2 if a.smoke else 16)]
        for batch_size in (1, 16):
            for t in (0, .8):
                for found in by_modes(model, prompts, batch_size, t, a.length):
                    out.append(found)
                    print(name, {k: v for k, v in found.items() if k != 'gained'}, flush=True)
        score = bits_per_byte(model, held_out, max_bytes=500 if a.smoke else 20_000)
        about = dict(model=name, corpus=corpora[name], bpb=score.bpb, routed=score.routed_fraction,
                     config=model.config.to_dict(), parameters=model.num_parameters(), runs=out)
        a.results.add(dict(name=line) | about | stamp(a.command, source(corpora[name], a.data)))

def steady(a, turns=7, length=1500):
    "Plain writing, without what loading and the prompt take; the models take turns."
    if a.smoke: turns, length = 1, a.length
    models, rates = {n: Pico.from_pretrained(a.runs/n) for n in MODELS if n.endswith('-rule')}, {}
    for turn in range(turns):
        for n, m in models.items():
            steps = stream(m, 'Once upon a time', max_bytes=length, speculative=False, seed=turn, ignore_end=True)
            next(steps)
            start = time.thread_time()
            written = sum(1 for _ in steps)
            rates.setdefault(n, []).append(written / (time.thread_time() - start))
    print({n: [round(v) for v in r] for n, r in rates.items()})
    a.results.add(dict(name='steady', models=rates, bytes=length, temperature=.8) | stamp(a.command))

# --- copying

LOOKUP_BYTES = 60_000

def lookup(a):
    "After the last L bytes, as they stood before: is the byte that followed then the one that follows now?"
    names, found = ['stories'] if a.smoke else list(CORPORA), {}
    for name in names:
        held_out = text(name, 'validation', a.data, a.limit)
        raw = b''.join(p.tobytes() for p in held_out.text(0, min(LOOKUP_BYTES, held_out.text_bytes)))
        found[name] = {L: continues(raw, L) for L in (4, 6, 8, 12, 16, 24)}
    a.results.add(dict(name='lookup', corpora=found, bytes=LOOKUP_BYTES)
                  | stamp(a.command, {name: source(name, a.data) for name in names}))

def continues(raw, L):
    "How often the last L bytes stood before, and how often the byte after them is then the same."
    places, n, right = {}, 0, 0
    for i in range(L, len(raw)):
        j = places.get(raw[i-L:i])
        if j is not None:
            n += 1
            right += raw[j] == raw[i]
        places[raw[i-L:i]] = i
    return dict(found=n/len(raw), right=right/max(n, 1))

# --- the command

STAGES = dict(models=models, tune=tune, write=write, steady=steady, lookup=lookup)

def options(doc, stages, args, script):
    "What this script and drafts.py are told."
    p = parser(doc)
    if stages: p.add_argument('stage', choices=stages)
    p.add_argument('--data', help='folder that holds the corpora')
    p.add_argument('--only', nargs='*', choices=[*MODELS, TUNED], help='only these models')
    p.add_argument('--runs', type=Path, default=RUNS, metavar='RUNS', help='where the models are')
    a = parse(p, script, args, 'writing')
    a.limit, a.length = (20_000, 20) if a.smoke else (None, LENGTH_WRITTEN)
    return a

def main(args=None):
    a = options(__doc__, STAGES, args, __file__)
    STAGES[a.stage](a)

if __name__ == '__main__': main()
