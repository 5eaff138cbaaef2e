"""The designs tried in chapter 21: what could make a learned router choose better? One design = one small model and one small JSON file.

    python nbs/21_designs.py                      # stories, which needs nothing
    python nbs/21_designs.py --corpus english --data DIR --only topk space keys
    python nbs/21_designs.py --optimizer soap --budget 2.8e12 --seeds 0 1 2 --only space 'carry, space' 'tuned, carry'

Every model gets the same number of floating-point operations, counted with what was really routed, and its learning rate falls as that
budget is spent: all are finished models at equal cost. Scored on text that chapter 21 does not report: other stories, or the tenth of a
corpus before its held-out tenth, in windows of 512 bytes (designs need no cache then). Designs that are done are skipped.
(The stored results with SOAP and seeds below 7 were made when it still turned the rows of the embedding and the byte heads, see chapter 23;
those of `--deviate` were made since.)
"""
import argparse, json, platform, statistics, sys, time
from datetime import date
from pathlib import Path
import numpy as np, torch, torch.nn.functional as F
from torch import nn
from pico.alibi import alibi_bias
from pico.block import Stack
from pico.data import Corpus, batch, load_corpus
from pico.evaluate import windowed
from pico.heads import head_weights
from pico.model import Pico, PicoConfig
from pico.router import (Route, Router, RunningQuantile, SpaceRouter, ThresholdRouter, TopKRouter, TunedRouter,
                         below_ceiling, best_of, by_space, router, spacelike)
from pico.depth import MixtureOfDepths, carried, pack, unpack
from pico.stories import story
from pico.train import TrainConfig, backward, flops_per_byte, make_optimizer, rate

RESULTS = Path(__file__).parent/'results'/'designs'
# 1.4 TFLOP: about 400 steps with a quarter of the bytes deep
BUDGET, ROWS, LENGTH, RATE, WARMUP = 1.4e12, 4, 512, 8e-3, 40

# --- routers -----------------------------------------------------------------------------------------------------
def before_one(x): return F.pad(x, (0, 0, 1, 0))[:, :-1]          # the state of the byte before

@router('normalised')
class Normalised(TopKRouter):
    "Top-k whose score reads the normalised state."
    noise, explore, taken = 0., 0., 0
    def score(self, x): return F.linear(F.rms_norm(x, x.shape[-1:]), self.weight)[...,0].float()
    def forward(self, x, values, before, position, train=False):
        logits = self.score(x)
        chosen = logits > 0
        if train:
            left, rank = max(0., 1 - self.taken / 300), logits.detach()               # wandering ends after 300 steps
            if self.noise:
                rank = rank - left * self.noise * torch.log(-torch.log(torch.rand_like(rank).clamp(1e-9, 1 - 1e-9)))
            if self.explore:
                rank = torch.where(torch.rand_like(rank) < left * self.explore * self.capacity, rank + 1e4, rank)
            chosen = best_of(rank, self.capacity)
        return Route(chosen, torch.sigmoid(logits), logits)
    def step(self): self.taken += 1

@router('noise')
class Noise(Normalised):
    "The score is disturbed at first, so that other bytes get a chance (Gumbel noise)."
    noise = 1.

@router('explore')
class Explore(Normalised):
    "Up to 40% of the chosen bytes are random ones at first."
    explore = .4

@router('two')
class Two(Normalised):
    "The score is a small network that sees this byte's state and the one before it."
    def __init__(self, dim, capacity):
        super().__init__(dim, capacity)
        self.network = nn.Sequential(nn.Linear(2*dim, 32), nn.SiLU(), nn.Linear(32, 1))
    def score(self, x):
        x = F.rms_norm(x, x.shape[-1:])
        return self.network(torch.cat([x, before_one(x)], -1))[...,0].float() + 0 * self.weight.sum()

@router('neighbours')
class Neighbours(Router):
    "Deep where a byte's state differs most from the one before (the idea of H-Net, arXiv 2507.07955), by a running quantile."
    def __init__(self, dim, capacity):
        super().__init__(dim, capacity)
        self.q, self.k, self.quantile = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim,
                                                                                   bias=False), RunningQuantile(capacity)
        nn.init.eye_(self.q.weight)
        nn.init.eye_(self.k.weight)
    def forward(self, x, values, before, position, train=False):
        logits = 2 * (1 - F.cosine_similarity(self.q(x), self.k(before_one(x)), dim=-1))
        over = logits - self.quantile.value.float()
        chosen = over > 0
        if train and self.training:
            self.quantile.count(logits)
            chosen = below_ceiling(chosen, 1 + int(2 * self.capacity * logits.shape[1]))
        return Route(chosen, torch.tanh(4 * over), logits)
    def step(self): self.quantile.step()

@router('edge')
class Edge(ThresholdRouter):
    "Deep at the first byte of every stretch whose score is high: SpaceByte's rule with a learned idea of 'space'."
    def forward(self, x, values, before, position, train=False):
        logits = F.linear(x, self.weight / self.weight.shape[1]**.5)[...,0].float()
        over = logits - self.quantile.value.to(logits.dtype)
        high = over > 0
        chosen = high & ~F.pad(high, (1, 0))[:, :-1]
        if train and self.training:                               # hold the rate of first bytes, not of high ones
            self.used = .9 * getattr(self, 'used', self.capacity) + .1 * chosen.float().mean().item()
            self.level = min(max(getattr(self, 'level', self.capacity) + .05 * (self.capacity - self.used), .02), .6)
            self.quantile.above = self.level
            self.quantile.count(logits)
            chosen = below_ceiling(chosen, 1 + int(2 * self.capacity * logits.shape[1]))
        return Route(chosen, torch.tanh(over), logits)

@router('benefit')
class Benefit(Router):
    "Deep where depth is expected to help most: the score is trained to predict by how much it did."
    def __init__(self, dim, capacity):
        super().__init__(dim, capacity)
        self.predict, self.quantile = nn.Sequential(nn.Linear(dim, 32), nn.SiLU(),
                                                    nn.Linear(32, 1)), RunningQuantile(capacity)
    def forward(self, x, values, before, position, train=False):
        logits = self.predict(F.rms_norm(x.detach(), x.shape[-1:]))[...,0]
        chosen = logits > self.quantile.value.float()
        if train and self.training:
            self.quantile.count(logits)
            chosen = below_ceiling(chosen | (torch.rand_like(logits) < .1 * self.capacity),
                                   1 + int(2 * self.capacity * logits.shape[1]))
        return Route(chosen, None, logits)
    def step(self): self.quantile.step()

@router('policy')
class Policy(Benefit):
    "Deep by chance, the likelier the higher the score; what the next eight bytes gain rewards the choice (REINFORCE)."
    def forward(self, x, values, before, position, train=False):
        logits = self.predict(F.rms_norm(x.detach(), x.shape[-1:]))[...,0]
        noisy = logits
        if train and self.training:
            u = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
            noisy = logits + (u / (1 - u)).log()
        chosen = noisy > self.quantile.value.float()
        if train and self.training:
            self.quantile.count(noisy)
            self.quiet = .9 * getattr(self, 'quiet', 0.) + .1 * logits.detach().quantile(1 - self.capacity).item()
            chosen = below_ceiling(chosen, 1 + int(2 * self.capacity * logits.shape[1]))
        elif hasattr(self, 'quiet'): chosen = logits > self.quiet
        return Route(chosen, None, logits)

def benefit_loss(model, x, y):
    "Train the score of `benefit` or `policy`: by how much depth lowered the cross-entropy, all byte heads by their weights."
    with torch.no_grad():
        def nats(latent):
            h, route = model.states(x, latent=latent)
            logp = model.unembedding(h).float().log_softmax(-1)
            return (-logp.gather(-1, y.clamp(min=0)[...,None])[...,0] * (y >= 0)
                    * head_weights(y.shape[-1])).sum(-1), route
        deep, route = nats(True)
        flat, _ = nats(False)
    r, gain = model.latent.router, flat - deep
    logits = r.predict(F.rms_norm(model.fb_in(model.embedding(x)).detach(), x.shape[:0] + (model.config.dim,)))[...,0]
    if isinstance(r, Policy):
        ahead = F.pad(gain, (0, 7)).unfold(1, 8, 1).mean(-1)
        likely = F.logsigmoid((logits - r.quantile.value.float()) * torch.where(route.chosen, 1., -1.))
        return -((ahead - ahead.mean()) / ahead.std().clamp(min=1e-6) * likely).mean()
    return ((logits - gain).square() * route.chosen).sum() / route.chosen.sum().clamp(min=1)

@router('unit')
class Unit(Two):
    "The same, but a chosen byte weighs exactly 1, and the gradient reaches the score as that of a logistic weight."
    def forward(self, x, values, before, position, train=False):
        r = super().forward(x, values, before, position, train)
        r.weight = 1 + .25 * (r.logits - r.logits.detach())
        return r

@router('entropy')
class Entropy(Router):
    "Deep where the next byte is uncertain: a small linear head on the shallow state predicts it, and its entropy passes a running quantile (BLT, arXiv 2412.09871)."
    rise = 0.
    def __init__(self, dim, capacity):
        super().__init__(dim, capacity)
        self.head, self.quantile = nn.Sequential(nn.Linear(dim, 32, bias=False),
                                                 nn.Linear(32, 256, bias=False)), RunningQuantile(capacity)
    def forward(self, x, values, before, position, train=False):
        logp = self.head(F.rms_norm(x.detach(), x.shape[-1:])).float().log_softmax(-1)
        loss = -logp[:,:-1].gather(-1, values[:,1:,None]).mean() if train else None
        H = -(logp.exp() * logp).sum(-1).detach()
        score = H - self.rise * F.pad(H, (1, 0))[:, :-1]
        over = score - self.quantile.value.float()
        chosen = over > 0
        if train and self.training:
            self.quantile.count(score)
            chosen = below_ceiling(chosen, 1 + int(2 * self.capacity * score.shape[1]))
        return Route(chosen, None, score, loss)
    def auxiliary(self, route): return route.guess
    def step(self): self.quantile.step()

@router('rise')
class Rise(Entropy):
    "Where it is more uncertain than before the last byte."
    rise = 1.

@router('half')
class Half(Entropy):
    "Where it is more uncertain than half of what it was before the last byte."
    rise = .5

@router('prior')
class Prior(Two):
    "Two states, beginning at SpaceByte's rule."
    memory = 1
    def __init__(self, dim, capacity):
        super().__init__(dim, capacity)
        self.rule = nn.Parameter(torch.tensor(3.))
        nn.init.zeros_(self.network[2].weight)
    def forward(self, x, values, before, position, train=False):
        logits = self.score(x) + torch.where(by_space(values, before), self.rule, -self.rule)
        return Route(best_of(logits, self.capacity) if train else logits > 0, torch.sigmoid(logits), logits)

@router('capped')
class Capped(Prior):
    "The same, but training too chooses only what passes 0, up to the capacity: no byte is chosen to fill it."
    start, noise, taken = 3., 0., 0
    def __init__(self, dim, capacity):
        super().__init__(dim, capacity)
        nn.init.constant_(self.rule, self.start)
    def forward(self, x, values, before, position, train=False):
        route = super().forward(x, values, before, position, train)
        if train:
            rank = route.logits.detach()
            if self.noise:
                rank = rank - max(0., 1 - self.taken
                                  / 300) * self.noise * torch.log(-torch.log(torch.rand_like(rank).clamp(1e-9,
                                                                                                         1 - 1e-9)))
            route.chosen = best_of(rank, self.capacity) & (rank > 0)
        return route
    def step(self): self.taken += 1

@router('tuned unit')
class TunedUnit(TunedRouter):
    "The package's router that begins at the rule, but a chosen byte weighs exactly 1, and only the gradient knows the score."
    def forward(self, x, values, before, position, train=False):
        route = super().forward(x, values, before, position, train)
        route.weight = 1 + route.weight - route.weight.detach()
        return route

class Changed(TunedRouter):
    "The package's router that begins at the rule, with parts that can be changed one by one."
    # no gradient through the score into the model; weights begin at 1; no auxiliary loss; what depth costs
    apart, twice, quiet, price = False, False, False, None
    def forward(self, x, values, before, position, train=False):
        if self.apart: x = x.detach()
        route = super().forward(x, values, before, position, train)
        if self.twice: route.weight = 2 * torch.sigmoid(TopKRouter.score(self, F.rms_norm(x, x.shape[-1:]), values, before))
        return route
    def auxiliary(self, route):
        if self.quiet: return None
        return super().auxiliary(route) if self.price is None else self.price * (route.weight * route.chosen).mean()

def changed(name, **parts):
    router(name)(type('Tuned', (Changed,), parts | dict(__doc__='`tuned`, ' + name)))
    return name

@router('gap')
class Gap(SpaceRouter):
    "SpaceByte's rule, but no byte goes deep within two bytes of another."
    def forward(self, x, values, before, position, train=False):
        rule = by_space(values, before).numpy()
        keep, last = np.zeros_like(rule), np.full(len(rule), -9)
        for t in range(rule.shape[1]):
            keep[:,t] = rule[:,t] & (t - last >= 3)
            last[keep[:,t]] = t
        return Route(torch.from_numpy(keep))

@router('wander')
class Wander(Capped):
    "It begins at the rule, but near the limit, so that little moves a byte across, and the choice is disturbed at first."
    start = noise = 1.

@router('counted')
class Counted(Router):
    "Deep where the next byte is uncertain by counts: its entropy after the last bytes (up to four), counted in the training text, passes a limit that a fraction `capacity` of that text passes."
    memory = 4
    def learn(self, values, most=4, few=16):
        "Count the training text (N,)."
        v, self.tables = values.astype(np.int64), []
        for n in range(1, most + 1):
            context = sum((v[n-1-i:len(v)-1-i] + 1) << (9 * i) for i in range(n))
            following = v[n:]
            pairs, count = np.unique(context * 256 + following, return_counts=True)
            keys, first = np.unique(pairs // 256, return_index=True)
            total = np.add.reduceat(count, first)
            H = np.log2(total) - np.add.reduceat(count * np.log2(count), first) / total
            self.tables.append((torch.from_numpy(keys[total >= few]), torch.from_numpy(H[total >= few]).float()))
        text = torch.from_numpy(v[None, :1_000_000])
        self.limit = self.score(text, text.new_full((1, 4), -1)).quantile(1 - self.capacity).item()
    def score(self, values, before):
        v = torch.cat([before, values], 1)
        T = values.shape[1]
        H = torch.zeros_like(values, dtype=torch.float)
        # the longest context that was seen often enough counts
        for n, (keys, known) in enumerate(self.tables, 1):
            context = sum((v[:, 4-i:4-i+T] + 1) << (9 * i) for i in range(n))
            at = torch.searchsorted(keys, context).clamp(max=len(keys) - 1)
            H = torch.where(keys[at] == context, known[at], H)
        return H
    def forward(self, x, values, before, position, train=False): return Route(self.score(values, before) > self.limit)

@router('table')
class Table(TopKRouter):
    "The score is looked up: one number for the byte and one for the byte before, plus the linear one of the state."
    memory = 1
    def __init__(self, dim, capacity):
        super().__init__(dim, capacity)
        self.here, self.last = nn.Embedding(257, 1), nn.Embedding(257, 1)
        nn.init.zeros_(self.here.weight)
        nn.init.zeros_(self.last.weight)
    def forward(self, x, values, before, position, train=False):
        v = torch.cat([before, values], 1) + 1
        logits = F.linear(F.rms_norm(x, x.shape[-1:]),
                          self.weight)[...,0] + self.here(v[:,1:])[...,0] + self.last(v[:,:-1])[...,0]
        return Route(best_of(logits, self.capacity) if train else logits > 0, torch.sigmoid(logits), logits)

# --- stacks ------------------------------------------------------------------------------------------------------
class Deep(MixtureOfDepths):
    "The stack with parts that can be changed; without a cache."
    keys = places = False
    def forward(self, x, values, cache=None, lengths=None, train=False):
        B, T, D = x.shape
        route = self.router(x, values, values.new_full((B, self.router.memory), -1), torch.arange(T).expand(B, T),
                            train=train)
        if not route.chosen.any(): return x, route
        packed, positions, counts = pack(x, route.chosen)
        C = packed.shape[1]
        i = torch.arange(C)
        real = i < counts[:,None]
        at = (positions if self.places else i.expand(B, C)).masked_fill(~real, -1)
        fade = route.weight.gather(1, positions).clamp(min=1e-4).log()[:,None,
                                                                       None] if self.keys and route.weight is not None else 0.
        h = packed
        for b in self.blocks:
            a = b.att
            qkv = a.fused_qkv(b.norm1(h)).view(B, C, -1, a.width).transpose(1, 2)
            q, k, v = qkv.split([a.heads[0], a.heads[1], a.heads[1]], 1)
            # (B, H, C, C)
            bias = alibi_bias(a.slopes, at.clamp(min=0), at, 4*a.window if self.places else a.window)
            # a padded byte sees itself
            bias = bias.masked_fill(torch.eye(C, dtype=torch.bool), 0.) + fade
            o = F.scaled_dot_product_attention(q, k, v, bias, enable_gqa=True)
            h = h + a.proj(o.transpose(1, 2).reshape(B, C, -1))
            h = h + b.glu(b.norm2(h))
        return unpack(x, packed, h, positions, counts, route.weight), route

class Mixed(MixtureOfDepths):
    "The weight of a chosen byte says how much of its own change it takes, and how much of what it would have been handed; without a cache."
    smooth = False
    def forward(self, x, values, cache=None, lengths=None, train=False):
        B, T, D = x.shape
        route = self.router(x, values, values.new_full((B, self.router.memory), -1), torch.arange(T).expand(B, T), train=train)
        wanted = 2 * torch.sigmoid(F.linear(F.rms_norm(x, (D,)), self.gate)) * self.carry
        if not route.chosen.any(): return x, route
        packed, positions, counts = pack(x, route.chosen)
        C = packed.shape[1]
        real = torch.arange(C) < counts[:,None]
        own = (Stack.forward(self, packed, None, counts) - packed) * real[...,None]
        w = route.weight[...,None]
        if self.smooth:                                           # what is handed on is mixed, too
            share, c, out = w.gather(1, positions[...,None]), x.new_zeros(B, D), []
            for j in range(C):
                c = c + share[:,j] * (own[:,j] - c)
                out.append(c)
            kept = torch.stack(out, 1) * real[...,None]
        else: kept = own
        change, on = (torch.zeros_like(x).scatter(1, positions[...,None].expand_as(t), t) for t in (own, kept))
        on = carried(on, route.chosen, x.new_zeros(B, D))
        # at bytes that are not chosen the last change is the one before them
        handed = wanted * F.pad(on, (0, 0, 1, 0))[:, :-1]
        return x + torch.where(route.chosen[...,None], w * change + (1 - w) * handed, handed), route

def mixed(**parts):
    def change(model):
        gated(model)
        model.latent.__class__ = type('Mixing', (Mixed,), parts)
    return change

def deep(**parts):
    def change(model): model.latent.__class__ = type('Changed', (Deep,), parts)
    return change

def gated(model):
    "What the last chosen byte learned goes on to those after it (chapter 05)."
    model.latent.carry, model.latent.gate = nn.Parameter(torch.full((model.config.dim,),
                                                                    .5)), nn.Parameter(torch.zeros(1, model.config.dim))

def carrying(model):
    "The same, but all bytes want it alike."
    gated(model)
    model.latent.gate.requires_grad_(False)

def moved(before, after):
    "Full-byte blocks before and after the deep stack."
    def change(model):
        c = model.config
        heads = c.dim, c.att_q_heads, c.att_kv_heads, c.fb_att_window_size
        model.fb_in, model.fb_out = Stack(before, *heads), Stack(after, *heads)
    return change

def grow(start, end):
    "The capacity changes evenly while the budget is spent, from `start` to `end` times its value."
    def change(model): model.latent.router.course = (start, end)
    return change

def auxiliary(weight):
    return lambda model: setattr(model.latent.router, 'auxiliary', lambda route,
                                 own=model.latent.router.auxiliary: weight / .1 * own(route))

DESIGNS = { # name: router, capacity, change of the model, factor of the router's learning rate
    'none': ('none', .25), 'all': ('all', .25), 'space': ('space', .25), 'stride': ('stride', .25),
    'topk 1/4': ('topk', .25), 'topk 3/16': ('topk', .1875), 'topk 1/8': ('topk', .125),
    'threshold 3/16': ('threshold', .1875),
    'normalised': ('normalised', .1875), 'two states': ('two', .1875), 'neighbours': ('neighbours', .1875),
    'edge': ('edge', .1875), 'benefit': ('benefit', .1875), 'policy': ('policy', .1875),
    'keys': ('topk', .1875, deep(keys=True)), 'keys, threshold': ('threshold', .1875, deep(keys=True)),
    'true bytes': ('topk', .1875, deep(places=True)),
    'carry': ('topk', .1875, carrying), 'carry, space': ('space', .25, carrying),
    'early': ('topk', .1875, moved(0, 2)), 'late': ('topk', .1875, moved(2, 0)),
    'late, space': ('space', .25, moved(2, 0)),
    'noise': ('noise', .1875), 'explore': ('explore', .1875), 'auxiliary 0.01': ('topk', .1875, auxiliary(.01)),
    'auxiliary 1': ('topk', .1875, auxiliary(1.)),
    'two states, carry': ('two', .1875, carrying), 'two states, fast router': ('two', .1875, None, 10.),
    'two states, fast router, carry': ('two', .1875, carrying, 10.),
    'topk 1/16': ('topk', .0625), 'two states 1/16': ('two', .0625), 'growing': ('topk', .1875, grow(.0, 1.)),
    'unit': ('unit', .1875), 'entropy 3/16': ('entropy', .1875), 'rise 3/16': ('rise', .1875),
    'half 3/16': ('half', .1875),
    'prior': ('prior', .1875), 'prior 1/8': ('prior', .125), 'prior 1/4': ('prior', .25), 'table': ('table', .1875),
    'rise, carry': ('rise', .1875, carrying), 'prior, carry': ('prior', .1875, carrying),
    'capped 1/4, carry': ('capped', .25, carrying),
    'tuned 1/8, gated carry': ('tuned', .125, gated), 'tuned, carry': ('tuned', .25, carrying),
    'tuned, slow router, carry': ('tuned', .25, carrying, .1), 'tuned unit, carry': ('tuned unit', .25, carrying),
    'gated carry, space': ('space', .25, gated), 'tuned, gated carry': ('tuned', .25, gated),
    'wander, carry': ('wander', .1875, carrying),
    'apart': (changed('tuned apart', apart=True), .25, gated),
    'twice': (changed('tuned twice', twice=True), .25, gated),
    'quiet': (changed('tuned quiet', quiet=True), .25, gated),
    'mixed': ('tuned', .25, mixed()), 'mixed smooth': ('tuned', .25, mixed(smooth=True)),
    'mixed price 1': (changed('tuned price', price=1.), .25, mixed()), 'gap 3': ('gap', .25, gated),
    'counted, carry': ('counted', .1875, carrying),
    'random, gated carry': ('random', .1875, gated), 'whitespace, gated carry': ('whitespace', .25, gated),
    'tuned whitespace, gated carry': ('words', .25, gated),
    'slow router': ('topk', .1875, None, .1), 'fast router': ('topk', .1875, None, 10.),
}

def corpora(name, data, last=False):
    "Training text, and text to choose designs by: neither is what the grid of chapter 21 reports. With `last`, training text and the text of the grid."
    if name == 'stories':
        return load_corpus('stories', 'train'), Corpus.from_bytes([story(i, seed=2 if last else 1).text.encode()
                                                                   for i in range(120)])
    file = str(Path(data)/{'english': 'war_and_peace.txt', 'russian': 'tinystories_ru.txt',
                           'python': 'python_algorithms.txt'}[name])
    whole = load_corpus(file, 'train')
    values, _ = whole.read(0, whole.size)
    cut = whole.size * 8 // 9
    if last: return Corpus.from_bytes([values[:cut].astype('uint8').tobytes()]), load_corpus(file, 'validation')
    return (Corpus.from_bytes(bytes(part.astype('uint8'))) for part in (values[:cut], values[cut:cut + 200_000]))

# written out here, so that these results keep their meaning whatever the presets of the library become
DESIGN = dict(router='topk', latent_carry='no', heads='linear', heads_every=1)

def config(router, capacity):
    "The model that is measured, with a router and its share of the bytes."
    return PicoConfig.preset('nano', **DESIGN | dict(router=router, latent_capacity_factor=capacity))

def run(corpus, design, seed, data, budget=BUDGET, optimizer='adamw', last=False, deviate=False):
    "Train until the budget is spent, and score; with `deviate`, score deviations from the router's choice instead."
    kind, capacity, change, factor = DESIGNS[design] + (None, 1.)[len(DESIGNS[design]) - 2:]
    train, held_out = corpora(corpus, data, last)
    torch.manual_seed(seed)
    model = Pico(config(kind, capacity))
    if change: change(model)
    if hasattr(model.latent.router, 'learn'): model.latent.router.learn(train.read(0, min(train.size, 8_000_000))[0])
    model.train()
    name, optimizer = optimizer, make_optimizer(model, TrainConfig(learning_rate=RATE, optimizer=optimizer))
    own = set(model.latent.router.parameters())
    if factor != 1:
        for g in optimizer.param_groups: g['params'] = [p for p in g['params'] if p not in own]
        optimizer.add_param_group(dict(params=list(own), weight_decay=0.))
    spent, step, start, trained = 0., 0, time.process_time(), []
    while spent < budget:
        lr = RATE * rate(step, spent / budget, WARMUP, 'wsd')
        for group in optimizer.param_groups: group['lr'] = lr
        optimizer.param_groups[-1]['lr'] = lr * factor            # 1 unless the router has a group of its own
        if hasattr(model.latent.router, 'course'):
            a, b = model.latent.router.course
            model.latent.router.capacity = capacity * (a + (b - a) * min(1., spent / budget))
        x, y = batch(train, step, ROWS, LENGTH, model.config.next_tokens, seed)
        out = backward(model, [(x, y)])
        if kind in ('benefit', 'policy'): benefit_loss(model, x, y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.)
        optimizer.step()
        optimizer.zero_grad()
        model.router_state_step()
        # without depth, forward only: a tenth more
        spent += ROWS * LENGTH * flops_per_byte(model.config, out['routed']) * (1 + (.1 if kind in ('benefit', 'policy')
                                                                                     else 0))
        step += 1
        trained.append(out['routed'])
    s = windowed(model, held_out, LENGTH, 'causal', 60_000)
    if deviate:
        return dict(corpus=corpus, design=design, seed=seed, bpb=s.bpb, routed=s.routed_fraction,
                    deviations=deviations(model.eval(), held_out))
    return dict(corpus=corpus, design=design, seed=seed, optimizer=name, router=kind, capacity=capacity, bpb=s.bpb,
                routed=s.routed_fraction, trained=statistics.mean(trained[-50:]), steps=step, flops=spent,
                seconds=time.process_time() - start)

def deviations(model, held_out, share=1/20, draws=4, rows=112):
    "What it costs or gains, in nats of all the following text, to drop a byte that was chosen or to send another one deep: few at a time, by kind, nothing trained again."
    values, _ = held_out.read(0, rows * LENGTH + 1)
    v = torch.from_numpy(values.astype(np.int64))
    x, y = v[:-1].view(rows, LENGTH), v[1:].view(rows, LENGTH)
    before, router, flip = x.new_full((rows, 1), -1), model.latent.router, None
    def perturbed(*args, own=router.forward, **kw):
        r = own(*args, **kw)
        if flip is not None:
            # what the others weigh
            if r.weight is not None: r.weight = torch.where(flip & ~r.chosen, r.weight[r.chosen].mean(), r.weight)
            r.chosen = r.chosen ^ flip
        return r
    def nats():
        with torch.no_grad():
            h, route = model.states(x, routing='causal')
            logits = model.unembedding(h, 1)[:,:,0].float()
            return F.cross_entropy(logits.flatten(0, 1), y.flatten(),
                                   reduction='none').view(rows, LENGTH).sum(1), route.chosen
    router.forward = perturbed
    base, chosen = nats()
    space, after, first = spacelike(x), by_space(x, before), by_space(x, before, lambda v: ~spacelike(v))
    added = {'after a word': after, 'one more between words': space & ~after, 'first of a word': first,
             'inside a word': ~space & ~first}
    kinds = {'dropped': chosen} | {f'added: {name}': kind & ~chosen for name, kind in added.items()}
    result = {}
    for name, kind in kinds.items():
        change, n = torch.zeros(rows), torch.zeros(rows)
        for i in range(draws):
            flip = kind & (torch.rand(x.shape, generator=torch.Generator().manual_seed(i)) < share)
            change += nats()[0] - base
            n += flip.sum(1)
        flip = None
        if n.sum() < 100: continue
        each = change.sum() / n.sum()
        # windows are independent of one another
        error = ((change - each * n).square().sum().sqrt() / n.sum()).item()
        result[name] = dict(nats=each.item(), error=error, n=int(n.sum()))
    del router.forward
    return result

def command(a, seed):
    "What to type for one more result like this one."
    return 'python nbs/21_designs.py' + f' --corpus {a.corpus} --data DIR' * (a.corpus != 'stories') + f' --seeds {seed}' * (seed > 0) + f' --budget {a.budget:g}' * (a.budget != BUDGET) + f' --optimizer {a.optimizer}' * (a.optimizer != 'adamw') + ' --last' * a.last + ' --deviate' * a.deviate

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--corpus', default='stories', choices=('stories', 'english', 'russian', 'python'))
    p.add_argument('--data', help='folder that holds the corpora')
    p.add_argument('--only', nargs='*', choices=DESIGNS)
    p.add_argument('--seeds', type=int, nargs='*', default=[0])
    p.add_argument('--budget', type=float, default=BUDGET, help='floating-point operations a model')
    p.add_argument('--last', action='store_true',
                   help='score on the held-out text of the grid, by which nothing was chosen')
    p.add_argument('--deviate', action='store_true',
                   help="what single bytes cost that go another way than the router says")
    p.add_argument('--optimizer', default='adamw', choices=('adamw', 'soap'))
    p.add_argument('--part', default='0/1', help='i/n: only every n-th model, from the i-th')
    a = p.parse_args()
    if a.corpus != 'stories' and not a.data: p.error(f'--corpus {a.corpus} needs --data DIR')
    torch.set_num_threads(1)
    i, n = map(int, a.part.split('/'))
    for seed, design in [(seed, design) for seed in a.seeds for design in a.only or DESIGNS][i::n]:
        file = (RESULTS.with_name('deviations') if a.deviate
                else RESULTS)/f"{a.corpus}-{design.replace(', ', '-').replace(' ', '-').replace('/', 'of')}-{seed}{'' if a.budget == BUDGET else f'-{a.budget/1e12:g}'}{'' if a.optimizer == 'adamw' else '-' + a.optimizer}{'-last' * a.last}.json"
        if file.exists(): continue
        result = run(a.corpus, design, seed, a.data, a.budget, a.optimizer, a.last,
                     a.deviate) | dict(last=a.last) | dict(command=command(a, seed), date=date.today().isoformat(),
                                                           device=f'{platform.machine()} processor, 1 thread',
                                                           torch=torch.__version__)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix('.tmp').write_text(json.dumps(result, indent=1) + '\n')
        file.with_suffix('.tmp').rename(file)
        print(f"{file.stem}: {result['bpb']:.4f} bits per byte, {result['routed']:.1%} routed", flush=True)

if __name__ == '__main__': main()
