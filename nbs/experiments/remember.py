"""What makes a small model remember what it has read? (LOG.md, "Memory that works")

    python nbs/experiments/remember.py                        # those of chapter 08 on stories, seed 0, 300 seconds each
    python nbs/experiments/remember.py --only 'all three' --seeds 1 2
    python nbs/experiments/remember.py --data DIR --corpora english russian      # what it costs or brings elsewhere

Three things are tried, alone and together: the **summary** of the word at a routed byte (chapter 05a), **shifted**
keys with queries that begin as the keys (chapter 04), and **repeats** in the first REPEATING of a run (chapter 01a).
Two more are about how the shifted keys begin: `queries at random`, and `far at first`, where distances count a
twentieth.

A line is one model of the shape of `nano` with one byte head. Its curve says, by the clock of one thread, the bits per
byte of new stories, how many bits a word costs that was told at least FAR bytes before, how often it is the likeliest
of the words of its kind in the story (`chance` where nothing is remembered), and what the second half of a text costs
that is the first once more. All of that is measured in passes over whole stories, without a cache. Of another text it
says the bits per byte alone.
"""
import math
import time

import numpy as np
import torch
from common import NANO, NANO_TRAINING, before_last, config, follow, parse, parser, part, source, stamp, text
from common import train_step

from pico.batches import batch, repeated
from pico.evaluate import bits_per_byte
from pico.model import Pico
from pico.stories import story
from pico.train import TrainConfig, lr_factor, make_optimizer

SECONDS, LOOK, FAR, REPEATING = 300, 60, 200, .3
TRIES = { # summary, shifted keys, share of the run with repeats
    'nano': (False, False, 0), 'summary': (True, False, 0), 'shifted': (False, True, 0),
    'repeats': (False, False, REPEATING), 'summary, shifted': (True, True, 0),
    'summary, repeats': (True, False, REPEATING), 'shifted, repeats': (False, True, REPEATING),
    'all three': (True, True, REPEATING), 'all three, repeats to the end': (True, True, 1),
    'all three, queries at random': (True, True, REPEATING), 'all three, far at first': (True, True, REPEATING),
}
# of chapter 08
TOLD = ['summary, shifted', 'summary, repeats', 'shifted, repeats', 'all three', 'all three, queries at random']

# --- the model

def model_of(name, width, seed):
    "An untrained model of one of TRIES."
    torch.manual_seed(seed)
    heads, (summary, shifted, _) = width // 16, TRIES[name]
    changes = dict(dim=width, att_q_heads=heads, att_kv_heads=heads//3, next_tokens=1)
    model = Pico(config('nano', **NANO | changes | dict(latent_summary=summary, latent_shift=shifted)))
    for block in model.latent.blocks:
        if name.endswith('at random'): block.att.fused_qkv.reset_parameters()
        if name.endswith('far at first'): block.att.slopes.div_(20)
    return model.train()

# --- what is measured

def costs(model, documents): # rows of (T + 1,) values, all alike in length
    "Log-probabilities (B, T, 256) of the first head, in bits, and the cost of each next byte (B, T)."
    logp = model(documents[:,:-1], routing='causal', heads=1).logits[:,:,0].log_softmax(-1) / math.log(2)
    return logp, -logp.gather(2, documents[:,1:,None])[...,0]

def row(data): return torch.tensor([[0xfe, *data, 0xff]])

def words_of(fact): return [fact.answer, *fact.rivals]

def right(model, told, fact):
    "1 where the word that was told is the likeliest of its kind, 0 where another is; ties are shared."
    words = [w.encode() for w in words_of(fact)]
    longest = max(map(len, words))
    start = told[:fact.referred[0]].encode()
    rows = torch.tensor([[0xfe, *start, *w, *b'.' * (longest - len(w))] for w in words])
    _, bits = costs(model, rows)
    found = [bits[i, len(start):len(start)+len(w)].sum().item() for i, w in enumerate(words)]
    return (found[0] == min(found)) / found.count(min(found))

@torch.no_grad()
def remembered(model, stories):
    "Bits of facts told far before, how often the right word is the likeliest, and what chance would give."
    bits, share, chance, total, size = [], [], [], 0., 0
    for s in stories:
        data = s.text.encode()
        _, cost = costs(model, row(data))
        total, size = total + cost[0,:len(data)].sum().item(), size + len(data)
        far = [f for f in s.facts if f.rivals and f.referred[0] - f.told[1] >= FAR]
        bits += [cost[0, f.referred[0]:f.referred[1]].sum().item() for f in far]
        share.append([right(model, s.text, f) for f in far])
        chance += [1 / len(words_of(f)) for f in far]
    mean, n = np.mean(sum(share, [])), len(bits)
    error = math.hypot(*(sum(v - mean for v in of) for of in share)) / n          # facts of one story go together
    return dict(bpb=total / size, facts=n, bits=np.mean(bits).item(), right=float(mean), error=error,
                chance=float(np.mean(chance)))

@torch.no_grad()
def second_time(model, stories, n=400):
    "Bits per byte of the beginnings of stories, and of the same once more."
    twice = torch.cat([row(s.text.encode()[:n] * 2)[:,:2*n+1] for s in stories])
    _, bits = costs(model, twice)
    return dict(once=bits[:,:n].mean().item(), again=bits[:,n+20:].mean().item())

def looked(model, held, stories):
    "What is measured of a model, its mode restored."
    model.eval()
    if held: found = dict(bpb=bits_per_byte(model, held).bpb)
    else: found = remembered(model, stories) | second_time(model, stories[:20])
    model.train()
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}

# --- one model

def run(name, corpus, held, stories, a, seed):
    "A curve of (seconds, bytes, what was found) at each look, and the model's numbers."
    model = model_of(name, a.width, seed)
    model.latent.router.begin(corpus)
    settings = TrainConfig(optimizer='soap', **NANO_TRAINING | dict(context_len=a.length, batch_size=a.rows))
    optimizer, weights = make_optimizer(model, settings), list(model.parameters())
    average = [p.detach().clone() for p in weights]
    curve, spent, step, until = [], 0., 0, TRIES[name][2] * a.seconds
    while spent < a.seconds:
        start, stop = time.thread_time() - spent, min(a.seconds, a.look * (len(curve) + 1))
        while spent < stop:
            x, y = batch(corpus, step, a.rows, a.length, 1, seed)
            if spent < until: x, y = repeated(x, y, range(step * a.rows, (step+1) * a.rows), seed)
            factor = lr_factor(step, spent / a.seconds, settings.warmup_steps, 'cosine', 0.)
            train_step(model, optimizer, x, y, settings.learning_rate * factor)
            follow(average, weights, settings.average, step)
            step += 1
            spent = time.thread_time() - start
        kept = [p.detach().clone() for p in weights]
        with torch.no_grad(): torch._foreach_copy_(weights, average)
        few = stories if spent >= a.seconds else stories[:a.few]
        curve.append(dict(seconds=round(spent, 1), bytes=step * a.rows * a.length, **looked(model, held, few)))
        with torch.no_grad(): torch._foreach_copy_(weights, kept)
    return curve, model.num_parameters()

def main(args=None):
    p = parser(__doc__)
    p.add_argument('--data', metavar='DIR', help='folder that holds the corpora')
    p.add_argument('--corpora', nargs='*', choices=('stories', 'english', 'russian', 'python'), default=['stories'])
    p.add_argument('--only', nargs='*', choices=TRIES, default=TOLD, metavar='TRY', help='a name in TRIES')
    p.add_argument('--width', type=int, default=96)
    p.add_argument('--length', type=int, default=2048, help='bytes in a row')
    p.add_argument('--rows', type=int, default=1)
    p.add_argument('--seeds', type=int, nargs='*', default=[0])
    p.add_argument('--seconds', type=float, default=SECONDS, help='of one thread, of a model')
    p.add_argument('--part', default='0/1', help='i/n: only every n-th model, from the i-th')
    a = parse(p, __file__, args)
    a.look, a.few, many = LOOK, 15, 60
    if a.smoke: a.only, a.seconds, a.length, a.look, many = ['all three'], .4, 256, .2, 2
    asked = [(c, n, s) for s in a.seeds for n in a.only for c in a.corpora]
    for corpus, name, seed in part(asked, a.part):
        line = f'{corpus}: {name}, {a.rows} x {a.length}, width {a.width}, seed {seed}, {a.seconds:g} s'
        if a.results.find(line): continue
        of, held = text(corpus, 'train', a.data, 100_000 if a.smoke else 100_000_000), None
        if corpus != 'stories': of, held = before_last(of, 100_000)
        curve, parameters = run(name, of, held, [story(i, seed=2) for i in range(many)], a, seed)
        a.results.add(dict(name=line, corpus=corpus, design=name, width=a.width, seed=seed, seconds=a.seconds,
                           parameters=parameters, curve=curve) | stamp(a.command, source(corpus, a.data)))
        print(f'{line}: {curve[-1]}', flush=True)

if __name__ == '__main__': main()
