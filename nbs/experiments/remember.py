"""What makes a small model remember what it has read? (LOG.md, "Memory that works")

    python nbs/experiments/remember.py                        # all of TRIES on stories, seed 0, 600 seconds each
    python nbs/experiments/remember.py --only 'all three' --seeds 1 2
    python nbs/experiments/remember.py --data DIR --corpora english russian      # what it costs or brings elsewhere

Three things are tried, alone and together. A **summary**: what goes into the latent blocks at a routed byte is its
state and a sum over the bytes since the last routed one, at most TAPS of them, of their embeddings times weights that
are learned for each distance. So a word can be told from another before anything is learned. **Shifted** keys: in the
latent blocks a routed byte is found by what the routed byte before it was, so that what is found is what came next.
**Repeats**: in the first REPEATING of a run, parts of every row of training text are replaced by the part before them,
so that looking for what stood there before pays at every word.

A line is one model of the shape of `nano` with one byte head. Its curve says, by the clock of one thread, the bits per
byte of new stories, how many bits a word costs that was told at least FAR bytes before, how often it is the likeliest
of the words of its kind in the story (`chance` where nothing is remembered), and what the second half of a text costs
that is the first once more. All of that is measured in one pass over each story, without a cache.
"""
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from common import NANO, NANO_TRAINING, before_last, config, follow, parse, parser, part, source, stamp, text
from common import train_step
from torch import nn

from pico.attention import attention
from pico.batches import batch
from pico.block import Attention, RMSNorm, Stack
from pico.depth import MixtureOfDepths, pack, weighted
from pico.model import Pico
from pico.stories import story
from pico.train import TrainConfig, lr_factor, make_optimizer

SECONDS, LOOK, FAR, TAPS, REPEATING = 600, 60, 200, 8, .3
TRIES = { # summary, shifted keys, share of the run with repeats
    'nano': (False, False, 0), 'summary': (True, False, 0), 'shifted': (False, True, 0), 'repeats': (False, False, .3),
    'summary, shifted': (True, True, 0), 'summary, repeats': (True, False, .3), 'shifted, repeats': (False, True, .3),
    'all three': (True, True, .3), 'all three, repeats to the end': (True, True, 1),
    'all three, queries like keys': (True, True, .3), 'all three, far sight': (True, True, .3),
    'all three, both': (True, True, .3),
}

# --- the model

class Shifted(Attention):
    "Attention whose keys are those of the byte before; what stands there is still the byte's own value."
    def forward(self, x, cache=None, plan=None, turn=None, slopes=None, documents=None):
        (B, T, _), (H, G) = x.shape, self.heads
        qkv = F.linear(x, self.fused_qkv.weight).view(B, T, H + 2*G, self.width).transpose(1, 2)
        q, k, v = qkv.split((H, G, G), 1)
        out = attention(q, F.pad(k[:,:,:-1], (0, 0, 1, 0)), v, self.window, slopes)
        return F.linear(out.transpose(1, 2).reshape(B, T, H * self.width), self.proj.weight)

class Summed(MixtureOfDepths):
    "The latent stack, with a summary of the bytes since the last routed one. Reads whole texts only."
    def begin(self, embedding):
        D = embedding.weight.shape[1]
        self.taps, self.norm, self.share = nn.Parameter(torch.randn(TAPS, D)), RMSNorm(D), nn.Parameter(torch.ones(D))
        self.embedded = [embedding]                               # in a list: its weights are the model's

    def summary_of(self, values, chosen, positions): # (B, C, D)
        "Sums of the bytes since the last routed one."
        back = torch.arange(TAPS)
        at = positions[...,None] - back                           # (B, C, TAPS)
        word = chosen.cumsum(1) - chosen.long()                   # the routed byte is the last of its word
        flat = at.clamp(min=0).flatten(1)
        same = (word.gather(1, flat).view(at.shape) == word.gather(1, positions)[...,None]) & (at >= 0)
        index = torch.where(same, values.gather(1, flat).view(at.shape) + 256*back, 256*TAPS)
        table = (self.taps[:,None] * self.embedded[0].weight).flatten(0, 1)
        table = torch.cat([table, table.new_zeros(1, table.shape[1])])
        sums = F.embedding_bag(index.flatten(0, 1), table, mode='sum', padding_idx=256*TAPS)
        return sums.view(*positions.shape, -1)

    def through(self, x, values, route, cache=None, documents=None):
        packed, positions, counts = pack(x, route.chosen, self.multiple)
        if not packed.numel(): return packed, positions, counts
        packed = packed + self.share * self.norm(self.summary_of(values, route.chosen, positions))
        out = Stack.forward(self, packed)
        return weighted((out - packed).to(x.dtype), positions, self.router.factor(route)), positions, counts

def model_of(name, width, seed):
    "An untrained model of one of TRIES."
    torch.manual_seed(seed)
    heads = width // 16
    model = Pico(config('nano', **NANO | dict(dim=width, att_q_heads=heads, att_kv_heads=heads//3, next_tokens=1)))
    summary, shifted, _ = TRIES[name]
    if summary:
        model.latent.__class__ = Summed
        model.latent.begin(model.embedding)
    for block in model.latent.blocks:
        if shifted: block.att.__class__ = Shifted
        if name.endswith(('far sight', 'both')): block.att.slopes.mul_(.05)
        if name.endswith(('queries like keys', 'both')): like_keys(block.att)
    return model.train()

def like_keys(att, scale=2):
    "Queries begin as the keys that they meet, and both are large: what is alike finds itself."
    (H, G), K, w = att.heads, att.width, att.fused_qkv.weight.data
    keys = w[H*K:(H+G)*K].view(G, 1, K, -1)
    w[:H*K] = keys.expand(G, H//G, K, -1).flatten(0, 2)
    w[:(H+G)*K] *= scale

# --- the text

def repeated(x, y, rng):
    "A batch in whose rows one part after the other, of 60 bytes up to half of the row, stands twice."
    B, T, N = y.shape
    values = torch.cat([x, y[:,-1].clamp(min=0)], 1)              # (B, T + N)
    targets = torch.cat([torch.full((B, 1), -100), y[:,:,0], y[:,-1,1:]], 1)
    for b in range(B):
        source, at = torch.arange(T + N), 0
        while True:
            n = int(math.exp(rng.uniform(math.log(min(60, T//3)), math.log(T//2))))
            if at + 2*n > T: break
            source[at+n:at+2*n] = source[at:at+n].clone()
            at += 2*n
        values[b], targets[b] = values[b][source], targets[b][source]
    return values[:,:T], targets[:,1:].unfold(1, N, 1)

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

@torch.no_grad()
def bits_of(model, corpus, piece=4096):
    "Bits per byte of a text that is no story, in pieces that overlap by half, of which the new half counts."
    values, kinds = corpus.read(0, corpus.size)
    values, scored, total, half = torch.from_numpy(values.astype(np.int64)), kinds == 0, 0., piece // 2
    for i in range(0, len(values) - 1, half):
        first = max(0, i - half)
        _, bits = costs(model, values[None, first:i+half+1])
        total += bits[0, i-first:][torch.from_numpy(scored[i+1:i+half+1])].sum().item()
    return total / scored[1:].sum().item()

def looked(model, held, stories):
    "What is measured of a model, its mode restored."
    model.eval()
    found = dict(bpb=bits_of(model, held)) if held else remembered(model, stories) | second_time(model, stories[:20])
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
    rng, curve, spent, step, until = np.random.default_rng(seed), [], 0., 0, TRIES[name][2] * a.seconds
    while spent < a.seconds:
        start, stop = time.thread_time() - spent, min(a.seconds, a.look * (len(curve) + 1))
        while spent < stop:
            x, y = batch(corpus, step, a.rows, a.length, 1, seed)
            if spent < until: x, y = repeated(x, y, rng)
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
    p.add_argument('--only', nargs='*', choices=TRIES, default=list(TRIES), metavar='TRY', help='a name in TRIES')
    p.add_argument('--width', type=int, default=96)
    p.add_argument('--length', type=int, default=2048, help='bytes in a row')
    p.add_argument('--rows', type=int, default=1)
    p.add_argument('--seeds', type=int, nargs='*', default=[0])
    p.add_argument('--seconds', type=float, default=SECONDS, help='of one thread, of a model')
    p.add_argument('--part', default='0/1', help='i/n: only every n-th model, from the i-th')
    a = parse(p, __file__, args)
    a.look, a.few, many = LOOK, 15, 60
    if a.smoke: a.only, a.seconds, a.length, a.look, many = ['all three, both'], .4, 256, .2, 2
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
