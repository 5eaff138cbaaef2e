"""The designs of chapter 21a: what could make a learned router choose better? One design is one small model.

    python nbs/experiments/designs.py                      # stories, which needs nothing
    python nbs/experiments/designs.py --corpus english --data DIR --only space 'two states' prior
    python nbs/experiments/designs.py --optimizer soap --budget 2.8e12 --seeds 0 1 2 --only 'pairs, gated carry' space
    python nbs/experiments/designs.py --answer --data DIR  # the table that opens chapter 21

Every model gets the same number of floating-point operations, counted with what was really routed. Its learning rate
falls as that budget is spent, so all are finished models at equal cost. They are scored on text that the grid does not
report: other stories, or the tenth of a corpus before its held-out tenth. It is read in windows of 512 bytes, so a
design needs no cache. Designs that are done are skipped. What failed is no longer here, but in LOG.md.

A new design is a line of `DESIGNS`, and where its router is new, a small class above it. (The stored results with SOAP
of the 25th and 26th of November 2026 and seeds below 7 were made when it still rotated the rows of the embedding and
the byte heads, see chapter 23.)
"""
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from chunking import Dechunking
from common import CORPORA, LENGTH, ROWS, Results, before_last, config, new_stories, parse, parser, part, source, stamp
from common import text, train_step
from torch import nn

from pico.data import Corpus
from pico.batches import batch
from pico.checkpoint import latest, load, save
from pico.evaluate import Surprise, agreement, class_rates, leak, starts_word, windowed
from pico.model import Pico, PicoConfig
from pico.router import RisingRouter, Route, Router, TopKRouter, by_space, router, spacelike
from pico.costs import flops_per_byte
from pico.train import TrainConfig, make_optimizer, lr_factor

# 1.4 TFLOP: about 400 steps with a quarter of the bytes deep
BUDGET, RATE, WARMUP = 1.4e12, 8e-3, 40

# --- routers that are only tried here: one small class each

@router('two')
class TwoStates(TopKRouter):
    "The score is a small network that sees this byte's state and the one before it."
    def __init__(self, dim, capacity):
        super().__init__(dim, capacity)
        self.network = nn.Sequential(nn.Linear(2*dim, 32), nn.SiLU(), nn.Linear(32, 1))

    def score(self, x, values, before):
        x = F.rms_norm(x, x.shape[-1:])
        last = F.pad(x, (0, 0, 1, 0))[:,:-1]                     # the state of the byte before
        # top-k's own weight is counted, and decays, but says nothing
        return self.network(torch.cat([x, last], -1))[...,0].float() + 0 * self.weight.sum()

@router('prior')
class Prior(TwoStates):
    "Two states, beginning at SpaceByte's rule."
    memory = 1
    def __init__(self, dim, capacity):
        super().__init__(dim, capacity)
        self.rule = nn.Parameter(torch.tensor(3.))
        nn.init.zeros_(self.network[2].weight)

    def score(self, x, values, before):
        return super().score(x, values, before) + torch.where(by_space(values, before), self.rule, -self.rule)

def contexts(
    values, # (..., T) bytes, -1 where the text had not begun
    n:int,  # how many of them make a context
):          # (..., T-n+1)
    "Every n bytes in a row as one number."
    T = values.shape[-1]
    return sum((values[..., n-1-i : T-i] + 1) << 9*i for i in range(n))

def counted_entropy(
    values:np.ndarray, # (N,) training text
    n:int,             # bytes of a context
    few:int,           # contexts seen less often are left out
)->tuple:              # contexts in rising order, bits of each
    "How uncertain the next byte was after every context of n bytes."
    pairs, count = np.unique(contexts(values, n)[:-1] * 256 + values[n:], return_counts=True)
    keys, first = np.unique(pairs // 256, return_index=True)
    total = np.add.reduceat(count, first)
    H = np.log2(total) - np.add.reduceat(count * np.log2(count), first) / total
    return torch.from_numpy(keys[total >= few]), torch.from_numpy(H[total >= few]).float()

@router('counted')
class Counted(Router):
    "Deep where the next byte is uncertain by counts of the training text, beyond what a fraction `capacity` of it is."
    memory, few = 4, 16
    def begin(self, corpus):
        "Count what follows the last one to four bytes."
        values = corpus.read(0, min(corpus.size, 8_000_000))[0].astype(np.int64)
        self.tables = [counted_entropy(values, n, self.few) for n in range(1, self.memory + 1)]
        start = torch.from_numpy(values[None, :1_000_000])
        self.limit = self.score(start, start.new_full((1, self.memory), -1)).quantile(1 - self.capacity).item()

    def score(self, values, before): # (B, T)
        "Entropy after the longest context that was seen often enough."
        v, H = torch.cat([before, values], 1), torch.zeros_like(values, dtype=torch.float)
        for n, (keys, known) in enumerate(self.tables, 1):
            context = contexts(v[:, self.memory - n + 1:], n)     # (B, T)
            at = torch.searchsorted(keys, context).clamp(max=len(keys) - 1)
            H = torch.where(keys[at] == context, known[at], H)
        return H

    def forward(self, x, values, before, position, train=False): return Route(self.score(values, before) > self.limit)

@router('table')
class Table(RisingRouter):
    "The beginning of `rising` alone: nothing is learned."
    def forward(self, x, values, before, position, train=False): return Route(self.begins(values, before))
    def factor(self, route): "All 1."
    def auxiliary(self, route): "No loss of its own."

@router('agreeing')
class Agreeing(TopKRouter):
    "Learns only to agree with its own choice: nothing of the loss reaches the score. Every routed byte weighs 1."
    def score(self, x, values, before): return 3 * super().score(F.rms_norm(x.detach(), x.shape[-1:]), values, before)

    def forward(self, x, values, before, position, train=False):
        route = super().forward(x, values, before, position, train)
        return Route(route.chosen, None, route.logits)

# --- models in which more than the router differs

class Carrying(Pico):
    "Bytes after a chosen one get a share of its change."
    def __init__(self, config): super().__init__(replace(config, latent_carry=True))

class PlainCarrying(Carrying):
    "All bytes want it alike."
    def __init__(self, config):
        super().__init__(config)
        self.latent.gate.requires_grad_(False)

class Chunking(Pico):
    "All bytes of a chunk get the change of its first byte."
    def __init__(self, config):
        super().__init__(config)
        self.latent.__class__ = Dechunking                        # which has the same parts

# --- designs

@dataclass(frozen=True)
class Design:
    "A router and the model around it."
    name:str               # what the command calls it
    why:str                # the question that it asks
    router:str             # a name in `pico.router.ROUTERS`
    capacity:float = .25   # fraction of bytes that should go deep
    model:type = Pico      # a subclass, where more than the router differs
    router_rate:float = 1. # factor of the router's learning rate
    positions:str = 'alibi'

    @property
    def config(self)->PicoConfig:
        "The shape whose operations are counted. Carrying, 0.07% of them, is left out."
        return config(router=self.router, latent_capacity_factor=self.capacity, positions=self.positions)

    def build(self,
        corpus:Corpus, # training text, which a router may look at before it begins
    )->Pico:
        "A new model."
        model = self.model(self.config)
        model.latent.router.begin(corpus)
        return model

DESIGNS = {d.name: d for d in [
    # the ends of the scale, and choices in which nothing is learned
    Design('none', 'What is a model worth in which no byte goes deep?', 'none'),
    Design('all', 'What if every byte goes deep?', 'all'),
    Design('stride', 'Does it matter which bytes go deep?', 'stride'),
    Design('space', "How far does SpaceByte's rule go?", 'space'),
    Design('counted, carry', 'Are uncertain bytes the ones to choose?', 'counted', 3/16, PlainCarrying),
    # a learned choice, and how many bytes it should choose
    Design('topk 1/4', 'How does a learned choice do?', 'topk'),
    Design('topk 3/16', 'And at about the rate of the rule?', 'topk', 3/16),
    Design('topk 1/8', 'Do fewer bytes pay?', 'topk', 1/8),
    Design('topk 1/16', 'Still fewer?', 'topk', 1/16),
    Design('threshold 3/16', 'Is a running quantile better, one rule in training and in writing?', 'threshold', 3/16),
    Design('two states', 'Does the score have to see the byte before?', 'two', 3/16),
    Design('two states 1/16', 'Even with few bytes?', 'two', 1/16),
    Design('two states, fast router', 'Does the router learn too slowly?', 'two', 3/16, router_rate=10.),
    # a choice that begins at the rule
    Design('prior', 'Does it help to begin at the rule?', 'prior', 3/16),
    Design('prior 1/8', 'With fewer bytes?', 'prior', 1/8),
    Design('prior 1/4', 'With more?', 'prior', 1/4),
    # bytes that stay shallow hear of the last one that did not
    Design('carry', 'Is what a deep byte learned of use to those after it?', 'topk', 3/16, PlainCarrying),
    Design('carry, space', 'And with the rule?', 'space', model=PlainCarrying),
    Design('prior, carry', 'And with a choice that begins at the rule?', 'prior', 3/16, PlainCarrying),
    Design('tuned, carry', 'And if training need not fill the budget?', 'tuned', model=PlainCarrying),
    Design('gated carry, space', 'Should each byte say how much of it it wants?', 'space', model=Carrying),
    Design('tuned, gated carry', 'And with a learned choice?', 'tuned', model=Carrying),
    Design('random, gated carry', 'Does carrying need a choice at all?', 'random', 3/16, Carrying),
    Design('whitespace, gated carry', "Is there a better rule than SpaceByte's?", 'whitespace', model=Carrying),
    Design('tuned whitespace, gated carry', 'Is that a better place to begin?', 'words', model=Carrying),
    # a choice that begins where uncertainty rises: no rule in it
    Design('pairs, gated carry', 'Can the text itself say where to begin?', 'rising', 3/16, Carrying),
    Design('rope, gated carry', 'Do rotary positions help?', 'rising', 3/16, Carrying, positions='rope'),
    Design('no positions, gated carry', 'Are positions of any use?', 'rising', 3/16, Carrying, positions='none'),
    Design('chunking', "Does H-Net's dynamic chunking find better borders?", 'chunk', 3/16, Chunking),
    Design('table, gated carry', 'Is there anything left to learn then?', 'table', 3/16, Carrying),
    Design('topk, gated carry', 'Does carrying help top-k?', 'topk', 3/16, Carrying),
    Design('agreeing, gated carry', 'What is a choice worth that only agrees with itself?', 'agreeing', 3/16, Carrying),
    Design('agreeing 1/4, gated carry', 'And with more bytes?', 'agreeing', .25, Carrying),
]}

# --- training and scoring

@dataclass(frozen=True)
class Trial:
    "One model of a design: what it learns from, and for how long."
    design:str
    corpus:str = 'stories'
    seed:int = 0
    budget:float = BUDGET     # floating-point operations
    optimizer:str = 'adamw'   # 'adamw' | 'soap'
    last:bool = False         # score on the text of the grid, by which nothing was chosen

    @property
    def name(self):
        words = [self.corpus, self.design.replace(', ', '-').replace(' ', '-').replace('/', 'of'), f'{self.seed}']
        if self.budget != BUDGET: words.append(f'{self.budget / 1e12:g}')
        if self.optimizer != 'adamw': words.append(self.optimizer)
        if self.last: words.append('last')
        return '-'.join(words)

    @property
    def held_out(self):
        "What it is scored on, in words."
        if self.corpus == 'stories': return 'seed 2' if self.last else 'seed 1'
        return 'the last tenth' if self.last else 'the tenth before the last'

def texts(corpus, data=None, last=False):
    "Training text, and text to choose designs by, which the grid does not report. With `last`, the text of the grid."
    if corpus == 'stories': return text(corpus), new_stories(120, seed=2 if last else 1)
    if corpus == 'compiled': return text(corpus), text(corpus, 'validation')
    train, held_out = before_last(text(corpus, 'train', data), 200_000)
    return train, text(corpus, 'validation', data) if last else held_out

def optimizer_of(model, name, router_rate):
    "The optimizer; a router that learns at a rate of its own is a group of its own."
    optimizer = make_optimizer(model, TrainConfig(learning_rate=RATE, optimizer=name))
    if router_rate == 1: return optimizer
    own = [*model.latent.router.parameters()]
    taken = set(own)
    for g in optimizer.param_groups: g['params'] = [p for p in g['params'] if p not in taken]
    optimizer.add_param_group(dict(params=own, weight_decay=0., lr_factor=router_rate))
    return optimizer

def train(trial, corpus, look=None, folder=None, every=500):
    """Train until the budget is spent. The model, and what was spent on it; `look(model, step)` is called before each
    step. With a folder a checkpoint is kept there every so many steps, and what was stopped goes on."""
    torch.manual_seed(trial.seed)
    design = DESIGNS[trial.design]
    model = design.build(corpus).train()
    optimizer = optimizer_of(model, trial.optimizer, design.router_rate)
    spent, routed, start = 0., [], time.process_time()
    found = latest(folder) if folder else None
    if found:
        weights, state = load(found)
        model.load_state_dict(weights)
        optimizer.load_state_dict(state['optimizer'])
        spent, routed, start = state['spent'], state['routed'], start - state['seconds']
    while spent < trial.budget:
        if look: look(model, len(routed))
        if folder and routed and len(routed) % every == 0:
            state = dict(optimizer=optimizer.state_dict(), spent=spent, routed=routed,
                         seconds=time.process_time() - start)
            save(folder, len(routed), model.state_dict(), state)
        x, y = batch(corpus, len(routed), ROWS, LENGTH, model.config.next_tokens, trial.seed)
        lr = RATE * lr_factor(len(routed), spent / trial.budget, WARMUP, 'wsd')
        out, _ = train_step(model, optimizer, x, y, lr)
        spent += ROWS * LENGTH * flops_per_byte(design.config, out['routed'])
        routed.append(out['routed'])
    return model, dict(router=design.router, capacity=design.capacity, trained=statistics.mean(routed[-50:]),
                       steps=len(routed), flops=spent, seconds=time.process_time() - start)

# --- what was chosen

@torch.no_grad()
def choice(model, held_out, rows=24):
    """How well the routed bytes are those before words, beside a random choice of equal rate; what looking ahead
    flatters; the share of each class of bytes that goes deep; the bytes that go deep most often."""
    values, _ = held_out.read(0, rows * LENGTH)
    rows = len(values) // LENGTH
    x = torch.from_numpy(values[:rows * LENGTH].astype(np.int64)).view(rows, LENGTH)
    chosen = model.states(x, routing='causal')[1].chosen.flatten().numpy()
    v, text = x.flatten().numpy(), np.ones(x.numel(), bool)
    *_, f1, random_f1 = agreement(chosen, starts_word(v, text))
    kinds = class_rates(Surprise(None, v, text, chosen, None))
    often = np.argsort(-np.bincount(v[chosen], minlength=256))[:10].tolist()
    flatters = leak(model, held_out, LENGTH, rows * LENGTH)
    return dict(f1=f1, random_f1=random_f1, routed=float(chosen.mean()), leak=flatters, kinds=kinds,
                deep=[(b, int(chosen[v == b].sum()), int((v == b).sum())) for b in often if chosen[v == b].any()])

def follow(trial, data=None, every=25):
    "How a choice changes while the model learns: F1 and the share of bytes, every so many steps."
    corpus, held_out = texts(trial.corpus, data, trial.last)
    curve = []
    def look(model, step):
        if step % every and step not in (5, 10, 15): return
        model.eval()
        c = choice(model, held_out)
        model.train()
        curve.append(dict(step=step, f1=c['f1'], random_f1=c['random_f1'], routed=c['routed']))
    model, spent = train(trial, corpus, look)
    look(model.eval(), 0)
    curve[-1]['step'] = spent['steps']
    score = windowed(model, held_out, LENGTH, 'causal', 60_000)
    return dict(name=trial.name, **asdict(trial), bpb=score.bpb, routed=score.routed_fraction,
                curve=curve) | spent

# --- what single bytes cost that go another way

class Deviating(Router):
    "A router whose choice is turned over at some bytes. One that is added weighs as much as the chosen ones do."
    turned = None # (B, T) bool
    def __init__(self, own):
        super().__init__(0, own.capacity)
        self.own, self.memory = own, own.memory

    def forward(self, x, values, before, position, train=False):
        route = self.own(x, values, before, position, train)
        if self.turned is None: return route
        if route.weight is not None:
            added = self.turned & ~route.chosen
            route.weight = torch.where(added, route.weight[route.chosen].mean(), route.weight)
        route.chosen = route.chosen ^ self.turned
        return route

def kinds(x, chosen):
    "Bytes that may go another way, by kind (B, T)."
    before, space = x.new_full((len(x), 1), -1), spacelike(x)
    after, first = by_space(x, before), by_space(x, before, lambda v: ~spacelike(v))
    added = {'after a word': after, 'one more between words': space & ~after, 'first of a word': first,
             'inside a word': ~space & ~first}
    return {'dropped': chosen} | {f'added: {name}': kind & ~chosen for name, kind in added.items()}

@torch.no_grad()
def nats_and_choice(model, x, y):
    "Nats of every window (B,), and the bytes that went deep (B, T)."
    h, route = model.states(x, routing='causal')
    logits = model.unembedding(h, 1)[:,:,0].float()
    nats = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction='none')
    return nats.view(x.shape).sum(1), route.chosen

def deviations(model, held_out, share=1/20, draws=4, rows=112):
    """What it costs or gains to drop a byte that was chosen, or to send another one deep, in nats of all the text that
    follows. Few bytes at a time, by kind, nothing trained again."""
    values, _ = held_out.read(0, rows * LENGTH + 1)
    v = torch.from_numpy(values.astype(np.int64))
    x, y = v[:-1].view(rows, LENGTH), v[1:].view(rows, LENGTH)
    model.latent.router = deviating = Deviating(model.latent.router)
    base, chosen = nats_and_choice(model, x, y)
    result = {}
    for name, kind in kinds(x, chosen).items():
        change, n = torch.zeros(rows), torch.zeros(rows)
        for i in range(draws):
            some = torch.rand(x.shape, generator=torch.Generator().manual_seed(i)) < share
            deviating.turned = kind & some
            change += nats_and_choice(model, x, y)[0] - base
            n += deviating.turned.sum(1)
        if n.sum() < 100: continue                                # too few to say anything
        each = change.sum() / n.sum()
        error = (change - each * n).square().sum().sqrt() / n.sum()     # windows are independent of one another
        result[name] = dict(nats=each.item(), error=error.item(), n=int(n.sum()))
    model.latent.router = deviating.own
    return result

# --- the command

# the table that opens chapter 21: on held-out text, by which nothing was chosen, with seeds by which nothing was chosen
TABLE = ('pairs, gated carry', 'gated carry, space', 'space', 'topk 3/16', 'agreeing, gated carry', 'stride', 'all',
         'none')
ANSWER = dict(budget=2.8e12, optimizer='soap', last=True)

def answer():
    "The models of that table: first of all what it is about, then one seed of the rivals, then the others."
    cells = [(design, corpus, seed) for seed in (5, 6, 7) for design in TABLE for corpus in CORPORA]
    cells.sort(key=lambda c: c[0] not in TABLE[:3])
    return [Trial(design, corpus, seed, **ANSWER) for design, corpus, seed in cells]

def run(trial, data=None, deviate=False, runs=None, scored=60_000, windows=112):
    "Train a model and score it; with `deviate`, score deviations from its router's choice instead."
    corpus, held_out = texts(trial.corpus, data, trial.last)
    model, spent = train(trial, corpus, folder=runs and runs/trial.name)
    score, longer = (windowed(model, held_out, n * LENGTH, 'causal', scored) for n in (1, 4))
    row = dict(name=trial.name, **asdict(trial), bpb=score.bpb, longer=longer.bpb, routed=score.routed_fraction)
    model.eval()
    if deviate: return row | dict(deviations=deviations(model, held_out, rows=windows))
    return choice(model, held_out, max(windows // 5, 1)) | row | spent

SMOKE = dict(scored=4000, windows=7)

def options():
    p = parser(__doc__)
    p.add_argument('--corpus', default='stories', choices=[*CORPORA, 'compiled'])
    p.add_argument('--data', metavar='DIR', help='folder that holds the corpora')
    p.add_argument('--only', nargs='*', choices=DESIGNS, metavar='DESIGN', help='a name in DESIGNS')
    p.add_argument('--seeds', type=int, nargs='*', default=[0])
    p.add_argument('--budget', type=float, default=BUDGET, help='floating-point operations a model')
    p.add_argument('--runs', type=Path, metavar='RUNS', help='folder for checkpoints; a long model can be stopped')
    p.add_argument('--last', action='store_true',
                   help='score on the held-out text of the grid, by which nothing was chosen')
    p.add_argument('--deviate', action='store_true',
                   help='what single bytes cost that go another way than the router says')
    p.add_argument('--follow', action='store_true', help='how the choice changes while the model learns')
    p.add_argument('--optimizer', default='adamw', choices=('adamw', 'soap'))
    p.add_argument('--answer', action='store_true', help='all models of the table that opens chapter 21')
    p.add_argument('--part', default='0/1', help='i/n: only every n-th model, from the i-th')
    return p

def trials(a):
    "What the options ask for; a few steps of each in a smoke test."
    budget = 5e9 if a.smoke else a.budget
    if a.answer: return [replace(t, budget=budget) if a.smoke else t for t in part(answer(), a.part)]
    asked = [(design, seed) for seed in a.seeds for design in a.only or DESIGNS]
    return [Trial(design, a.corpus, seed, budget, a.optimizer, a.last) for design, seed in part(asked, a.part)]

def main(args=None):
    p = options()
    a = parse(p, __file__, args)
    if not a.data and (a.answer or a.corpus not in ('stories', 'compiled')): p.error('these texts need --data DIR')
    for name, asked in dict(deviations=a.deviate, answer=a.answer, follow=a.follow).items():
        if asked and not a.out: a.results = Results(a.results.file.with_name(f'{name}.jsonl'))
    for trial in trials(a):
        if a.results.find(trial.name): continue
        how = SMOKE if a.smoke else {}
        row = follow(trial, a.data) if a.follow else run(trial, a.data, a.deviate, a.runs, **how)
        a.results.add(row | stamp(a.command, source(trial.corpus, a.data, trial.held_out)))
        print(f"{trial.name}: {row['bpb']:.4f} bits per byte, {row['routed']:.1%} routed", flush=True)

if __name__ == '__main__': main()
