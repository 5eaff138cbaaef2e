"""What draft trees, and the shallow blocks as drafter, could bring the models of writing.py (chapter 23).

    python nbs/experiments/drafts.py --data DIR

On text that a model wrote byte by byte: how many bytes a pass would chains, trees and the shallow blocks gain, and what
would that cost? Trees are given their attention and their choosing for nothing. Results are lines of
results/writing.jsonl.
"""
import heapq
import statistics
import time
from dataclasses import dataclass

import numpy as np
from common import source, stamp, text
from writing import BEGIN, MODELS, N, begin_writing, options, starts, trained

from pico.decode import Decoder
from pico.speculative import byte_probabilities, guess

PIECES = 1, 2, 3, 4, 6, 8, 12, 16, 24, 32
MOST = 31                                                # nodes of the largest tree

# --- what a model writes by itself, and what its passes cost

def write_plain(model, prompts, temperature, length):
    "Texts, each with the place where the model begins, and the seconds of a byte."
    texts, seconds = [], []
    for k, prompt in enumerate(prompts):
        (row,), writing = begin_writing(model, [prompt], temperature, 100*k, length)
        next(writing)
        start = time.thread_time()
        for _ in writing: pass
        seconds.append((time.thread_time() - start) / (length - 1))
        texts.append((prompt + bytes(row.data), len(prompt) - 1))
    return texts, statistics.median(seconds)

def pass_costs(texts, make):
    "Seconds of a pass over n bytes of a model's own text, and of a shallow pass over one; ways take turns."
    took = {}
    for x, begin in texts:
        for n, latent in [(n, True) for n in PIECES] + [(1, False)]:
            d = make(latent)
            d.read([list(x[:begin])])
            pieces = [list(x[i:i+n]) for i in range(begin, len(x) - n + 1, n)]
            if not pieces: continue
            start = time.thread_time()
            for piece in pieces: d.read([piece])
            took.setdefault((n, latent), []).append((time.thread_time() - start) / len(pieces))
    return {n: statistics.median(took[n, True]) for n in PIECES if (n, True) in took}, statistics.median(took[1, False])

def guess_costs(ahead, state, byte, temperature, times=40):
    "Seconds of a chain's first guess, and of each further one."
    noise, took = np.zeros((1, N-1, 256)), {1: [], N-1: []}
    for _ in range(times):
        for d, seconds in took.items():
            start = time.thread_time()
            guess(ahead, state, [byte], noise[:,:d], temperature, None, 'drawn', 0)
            seconds.append(time.thread_time() - start)
    few, many = (statistics.median(took[d]) for d in (1, N-1))
    step = (many - few) / (N-2)
    return few - step, step

# --- what would be guessed

@dataclass
class Looked:
    "A text of the model's own, and what its heads and its shallow blocks think of the N - 1 bytes after each place."
    text: bytes
    begin: int
    states: np.ndarray       # (places, D) that the heads begin from
    rank: np.ndarray         # (places, N-1) how many bytes the heads find likelier than the true one
    chance: np.ndarray       # (places, N-1) the heads' probability of the true byte
    sure: np.ndarray         # (places, N-1) and of the likeliest
    truth: np.ndarray        # (places, N-1) the whole model's probability of the true byte
    shallow: np.ndarray      # (places, N-1) the shallow blocks' probability of the true byte
    shallow_sure: np.ndarray # (places, N-1) and of the likeliest
    agree: list              # at each byte: is the likeliest of the whole model that of the shallow blocks?
    common: list             # at each byte: how much of their probabilities is common

def chance_of(p, v): return np.take_along_axis(p, v[...,None].astype(int), -1)[...,0]

def look(model, ahead, text, begin, temperature):
    "Everything that the guesses below are judged by."
    tau = temperature or 1
    h, z, *_ = Decoder(model, 1, 0).read([list(text)])
    p = byte_probabilities(z, temperature)
    shallow, shallow_tau = (byte_probabilities(Decoder(model, 1, 0, latent=False).read([list(text)])[1], t)
                            for t in (temperature, tau))
    last, steps = len(text) - N - 1, range(1, N)
    ahead.begin(h[:last])
    q = np.stack([byte_probabilities(ahead.next(list(text[k:last+k])), tau) for k in steps], 1)  # (last, N-1, 256)
    true = [np.frombuffer(text, np.uint8)[k+1:last+k+1] for k in steps]
    def there(p): return np.stack([chance_of(p[k:last+k], y) for k, y in zip(steps, true, strict=True)], 1)
    chance = chance_of(q, np.stack(true, 1))
    return Looked(text, begin, h, rank=(q > chance[...,None]).sum(-1), chance=chance, sure=q.max(-1), truth=there(p),
                  shallow=there(shallow), shallow_sure=np.stack([shallow_tau[k:last+k].max(-1) for k in steps], 1),
                  agree=(shallow.argmax(-1) == p.argmax(-1))[begin:].tolist(),
                  common=np.minimum(p, shallow).sum(-1)[begin:].tolist())

def walk(s, stands):
    """Rounds along a text. `stands(i)` says how many guesses stand after byte i + 1, how many there were, and how many
    steps they took."""
    i, found = s.begin, []
    while i + N + 1 < len(s.text):
        n, guessed, steps = stands(i)
        found.append((n + 1, guessed, steps))
        i += n + 1
    return found

def chain(good, sure, least, d=N-1):
    "A chain of guesses, as far as it is sure: a guess stands if all before it stood."
    def stands(i):
        asked = min(int((np.cumprod(sure[i]) >= least).sum()), d) if least else d
        return int(np.cumprod(good(i)[:asked]).sum()), asked, min(asked + 1, d)
    return stands

def fixed_tree(rank, widths):
    "A tree of the likeliest bytes, so many at each depth."
    nodes = int(np.cumprod(widths).sum())
    def stands(i): return int(np.cumprod(rank[i,:len(widths)] < widths).sum()), nodes, len(widths)
    return stands

class BestTrees:
    "Trees of the likeliest paths, grown once for each place."
    def __init__(self, ahead, s, tau): self.ahead, self.s, self.tau, self.grown = ahead, s, tau, {}

    def __call__(self, nodes, least):
        def stands(i):
            if i not in self.grown: self.grown[i] = self.grow(i)
            chances, on = self.grown[i]
            m = min(nodes, int((chances >= least).sum()))
            return sum(r < m for r in on), m, N-1 if m else 1
        return stands

    def law(self, byte): return byte_probabilities(self.ahead.next([byte])[0], self.tau)

    def grow(self, i):
        "Best first: the chances of the nodes in that order, and the places of those that are on the text."
        text, ahead, heap, chances, found = self.s.text, self.ahead, [], [], []
        count = 0                                        # of equal chances, the first comes first
        def children(p, chance, depth, on):
            nonlocal count
            for v in np.argsort(-p)[:8]:
                count += 1
                here = on and int(v) == text[i+1+depth]
                heapq.heappush(heap, (-chance * p[v], count, int(v), depth, here, ahead.s.copy()))
        ahead.begin(self.s.states[i:i+1])
        children(self.law(text[i+1]), 1., 1, True)
        while len(chances) < MOST:
            chance, _, byte, depth, on, state = heapq.heappop(heap)
            if on: found.append(len(chances))
            chances.append(-chance)
            if depth < N-1:
                ahead.s = state.copy()
                children(self.law(byte), -chance, depth + 1, on)
        return np.array(chances), found

DOUBTS = 0, .1, .2, .3, .5       # a chain ends where it is less sure than that of all its guesses

def chains(s, temperature, rng):
    "Bytes that the chain of heads draws, or its likeliest ones: names, and what they say of a place."
    def likely(i): return s.rank[i] == 0
    def drawn(i): return rng.random(N-1) * s.truth[i] < s.chance[i]
    for least in DOUBTS: yield f'chain, drawn, {least}', chain(drawn if temperature else likely, s.sure, least)
    for least in DOUBTS: yield f'chain, likely, {least}', chain(likely, s.sure, least)

def trees(s, ahead, temperature):
    "Trees of one shape, and those of the likeliest paths."
    for shape, wide in (('2', [2]), ('3', [3]), ('2x2', [2, 2])):
        for d in (2, 3, 5, 7): yield f'tree {shape}, {d} deep', fixed_tree(s.rank, np.array((wide + [1]*N)[:d]))
    best = BestTrees(ahead, s, temperature or 1)
    for n in (3, 7, 15, MOST):
        for least in (0, .05, .1, .2, .3): yield f'best tree, {n} nodes, {least}', best(n, least)

def shallow_chains(s, rng):
    "Bytes that the shallow blocks draw."
    def drawn(i): return rng.random(N-1) * s.truth[i] < s.shallow[i]
    for d in (1, 2, 4, 7):
        for least in (0, .3): yield f'shallow, {d}, {least}', chain(drawn, s.shallow_sure, least, d)

# --- the experiment

def bounds(model, prompts, temperature, length):
    "Bytes a pass of every way, and how many times as fast as plain writing it could be."
    ahead, rng, found = model.unembedding.drafter(), np.random.default_rng(0), {}
    texts, plain = write_plain(model, prompts, temperature, length)
    passes, shallow = pass_costs(texts, lambda latent: Decoder(model, 1, 0, latent))
    looked = []
    for x, begin in texts:
        looked.append(look(model, ahead, x, begin, temperature))
        s = looked[-1]
        for way, stands in (*chains(s, temperature, rng), *trees(s, ahead, temperature), *shallow_chains(s, rng)):
            found.setdefault(way, []).extend(walk(s, stands))
    first, step = guess_costs(ahead, looked[-1].states[:1], x[1], temperature)
    around = plain - passes[1]                           # what the loop itself takes
    def seconds(way, guessed, steps):
        asking = steps * shallow if way.startswith('shallow') else first + steps * step
        return around + float(np.interp(1 + guessed, list(passes), list(passes.values()))) + asking
    speeds = {}
    for way, rounds in found.items():
        gained, took = sum(r[0] for r in rounds), sum(seconds(way, *r[1:]) for r in rounds)
        speeds[way] = dict(bytes_per_pass=gained/len(rounds), nodes=sum(r[1] for r in rounds)/len(rounds),
                           speedup=gained * plain / took)
    return dict(ways=speeds, seconds=dict(plain=plain, passes=passes, shallow=shallow, guess_first=first,
                                          guess_step=step),
                agree=float(np.mean(sum((s.agree for s in looked), []))),
                common=float(np.mean(sum((s.common for s in looked), []))))

def show(name, temperature, ways):
    "The best of each kind."
    for kind in ('chain, ', 'tree ', 'best tree', 'shallow'):
        way = max((w for w in ways if w.startswith(kind)), key=lambda w: ways[w]['speedup'])
        print(name, temperature, way, {k: round(v, 2) for k, v in ways[way].items()}, flush=True)

def main(args=None):
    a = options(__doc__, None, args, __file__)
    for line, name, model in trained(a, 'bounds', MODELS):
        held_out = text(MODELS[name][0], 'validation', a.data, a.limit)
        prompts, out = [BEGIN + p for p in starts(held_out, 1 if a.smoke else 10)], {}
        for t in (0, .8):
            out[str(t)] = bounds(model, prompts, t, a.length)
            show(name, t, out[str(t)]['ways'])
        a.results.add(dict(name=line, model=name, temperatures=out)
                      | stamp(a.command, source(MODELS[name][0], a.data)))

if __name__ == '__main__': main()
