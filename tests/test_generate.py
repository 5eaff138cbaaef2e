"Writing: speculation changes nothing but the number of passes, batches change nothing at all, and endings are found."
import copy
import importlib
import inspect
import io
import itertools
import json
import math
import random
import warnings
from pathlib import Path
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from conftest import ORIGINAL
from pico import generate as module
from pico.core import InputError, to_text
from pico.data import Corpus, MARKS
from pico.batches import batch
from pico.evaluate import bits_per_byte
from pico.generate import generate, rounds, stream
from pico.model import Pico, PicoConfig
from pico.stories import story
from pico.writing import Writing, verify
from pico.show import characters
from pico.speculative import Noise, Pace, Way, accept, accept_drafts, byte_probabilities, choose, pick, scores

fast = settings(deadline=None, derandomize=True, max_examples=25)

@pytest.fixture(scope='module')
def trained():
    "A tiny model after some seconds on sentences: sure in places, unsure in others; in float64."
    torch.manual_seed(0)
    r = np.random.default_rng(0)
    words = ['kite', 'ball', 'café', 'boat', 'red', 'blue', 'Mia', 'Zoë', 'likes', 'sees', 'the', 'a']
    corpus = Corpus.from_bytes([' '.join(r.choice(words, 12)) + '.' for _ in range(300)])
    shape = dict(dim=24, fb_num_blocks=1, latent_num_blocks=1, next_tokens=3)
    m = Pico(PicoConfig.preset('nano', **shape, **ORIGINAL)).train()
    opt = torch.optim.AdamW(m.parameters(), 1e-2)
    for step in range(80):
        loss = m.loss(*batch(corpus, step, 8, 64, 3))
        opt.zero_grad()
        loss.total.backward()
        opt.step()
    return m.double().eval()

@pytest.fixture(scope='module')
def chained(trained):
    "The same model with three chained heads that learned for a few seconds what it says."
    torch.manual_seed(1)
    m = like(trained, heads='chained', next_tokens=4)
    prompts = ['Mia ', 'Zoë ', 'the ', 'a b']*4
    told = generate(trained, prompts, 120, temperature=.8, seed=list(range(16)), ignore_end=True)
    text = torch.tensor([list(g.bytes) for g in told])
    with torch.no_grad(): h = m.states(text)[0]
    y = torch.stack([F.pad(text[:,n+1:], (0, n+1), value=-100) for n in range(4)], -1)
    opt = torch.optim.AdamW([p for n, p in m.unembedding.named_parameters() if n not in ('weight', 'bias')], 1e-2)
    for _ in range(60):
        loss, _ = m.unembedding.loss(h, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
    return m

def like(model, **changes):
    "The same weights in a model with another router, other heads or other marks."
    m = Pico(PicoConfig.from_dict(model.config.to_dict() | changes)).double().eval()
    own = m.state_dict()
    m.load_state_dict({k: v[:len(own[k])] for k, v in model.state_dict().items() if k in own}, strict=False)
    return m

@pytest.mark.parametrize('router, carry',
                         [('topk', 'no'), ('space', 'no'), ('space', 'yes'), ('all', 'no'), ('none', 'no')])
@pytest.mark.parametrize('draft', ['likely', 'drawn'])
@pytest.mark.parametrize('heads', ['linear', 'chained'])
def test_greedy_is_plain_greedy(trained, chained, router, carry, draft, heads):
    "Over 2,000 bytes in all, bytes and router decisions are those of the plain loop."
    m = like(trained if heads == 'linear' else chained, router=router, latent_carry=carry, marks='none')
    prompts = ['Mia', 'the kite likes', 'ë', 'a b c d', 'Zoë sees the blue']
    plain, quick = (generate(m, prompts, 60, temperature=0, speculative=s, draft=draft) for s in (False, True))
    for a, b in zip(plain, quick, strict=True):
        assert (a.bytes, a.routed) == (b.bytes, b.routed) and len(a.bytes) == 60
        assert a.forwards == 61 and sum(a.accepted) == sum(b.accepted) == 60
        if a.router_weights[0] is not None: np.testing.assert_allclose(a.router_weights, b.router_weights, rtol=1e-5)
    assert sum(b.forwards for b in quick) < sum(a.forwards for a in plain)

def ways_to_write(seed):
    "Plain, forced, by the clock, and by a clock that says anything, so that every way is taken."
    r = random.Random(seed)
    return {'plain': False, 'forced': True, 'auto': 'auto', 'any': Pace(clock=lambda: r.random())}

def parted_at_a_tie(m, a, b, seed, temperature):
    "Where two texts that should be equal part: a routing score or two bytes with less than 1e-4 between them."
    n = next(i for i, (x, y) in enumerate(zip(a.bytes, b.bytes, strict=True)) if x != y)
    flip = next((i for i in range(n) if a.routed[i] != b.routed[i]), None)
    if flip is not None: return abs(a.router_weights[flip] - .5) < 1e-4
    with torch.inference_mode():
        z = m(torch.tensor([list(b'\xfe' + a.prompt + a.bytes[:n])]), heads=1).logits[0,-1:,0].numpy()
    best = np.sort(scores(z, temperature) + (Noise(seed)(n) if temperature else 0))[0,-2:]
    return (best[1] - best[0]) * (temperature or 1) < 1e-4

@pytest.mark.parametrize('temperature', [0, .8, 1])
@pytest.mark.parametrize('heads, dtype',
                         [('linear', torch.float64), ('chained', torch.float64), ('chained', torch.float32)])
def test_every_way_writes_the_same_2000_bytes(trained, chained, heads, dtype, temperature):
    "Alone and in a ragged batch. In float64 exactly; in float32 up to a near tie, of which there are few."
    m = like(trained if heads == 'linear' else chained, router='topk').to(dtype)
    prompts, seeds, texts = ['Mia likes', '', 'the red kite. the red'], [5, 6, 5], {}
    kw = dict(max_bytes=2000, temperature=temperature, ignore_end=True)
    for name, way in ways_to_write(0).items():
        texts[name] = generate(m, prompts, seed=seeds, speculative=way, **kw)
        texts[name + ' alone'] = [generate(m, prompts[0], seed=5, speculative=way, **kw)]
    parted = 0
    for name, rows in texts.items():
        for g, plain, seed in zip(rows, texts['plain'], seeds, strict=False):          # alone: only the first
            assert len(g.bytes) == 2000
            if g.bytes == plain.bytes and g.routed == plain.routed: continue
            parted += 1
            assert dtype == torch.float32 and parted_at_a_tie(m, plain, g, seed, temperature), name
    assert parted <= 4
    assert texts['plain'][0].forwards == 2001 > 1.2 * texts['forced'][0].forwards

@pytest.mark.parametrize('top_p', [None, .8])
def test_the_torch_reader_writes_the_same_bytes(chained, monkeypatch, top_p):
    "The model itself in float64 against the quick decoder, alone and in a batch, with and without a cut tail."
    prompts, kw = ['Mia likes', '', 'the red kite. the red'], dict(max_bytes=120, top_p=top_p, ignore_end=True)
    quick = generate(chained, prompts, speculative=False, **kw)
    monkeypatch.setattr(module, 'quick', lambda model: False)
    for way in ways_to_write(1).values():
        slow = generate(chained, prompts, speculative=way, **kw)
        assert [(g.bytes, g.routed) for g in slow] == [(g.bytes, g.routed) for g in quick]
        assert generate(chained, prompts[2], speculative=way, **kw).bytes == quick[2].bytes

def test_every_row_has_the_noise_of_its_seed(trained):
    "One number gives every row the same noise; None gives none of them the same twice."
    a, b = generate(trained, ['Mia', 'Mia'], 40, seed=3)
    assert a.bytes == b.bytes == generate(trained, 'Mia', 40, seed=3).bytes
    how = dict(temperature=2, seed=None, ignore_end=True)
    new = [g for _ in range(2) for g in generate(trained, ['Mia', 'Mia'], 40, **how)]
    assert len({g.bytes for g in new}) == 4

class Margins:
    "How sure a model was of its best byte, after every byte of a text."
    def __init__(self, model, text):
        with torch.inference_mode(): best = model(torch.tensor([list(text)]), heads=1).logits[0,:,0].topk(2).values
        self.at = (best[:,0] - best[:,1]).tolist()

@pytest.mark.slow
def test_greedy_is_plain_greedy_over_100_000_bytes(trained, chained, capsys):
    """Five routers, two kinds of heads. In float64 no byte differs. In float32 a text may part only where two bytes
    were almost equally good."""
    total, parted, saved = 0, [], 0
    routers = 'topk', 'space', 'all', 'stride', 'threshold'
    for k, (router, m) in enumerate(itertools.product(routers, [trained, chained])):
        r = np.random.default_rng(k)
        prompts = [bytes(r.integers(97, 123, 6).astype(np.uint8)) + b' ' + p
                   for p in [b'Mia', b'the', b'Zo\xc3\xab', b'a kite', b'red'] for _ in range(20)]
        for dtype in (torch.float64, torch.float32):
            m2 = like(m, router=router).to(dtype)
            plain, quick = (generate(m2, prompts, 100, temperature=0, speculative=s, ignore_end=True)
                            for s in (False, True))
            for a, b in zip(plain, quick, strict=True):
                assert len(a.bytes) == len(b.bytes) == 100
                saved += a.forwards - b.forwards
                if dtype == torch.float64:
                    assert (a.bytes, a.routed) == (b.bytes, b.routed)
                    total += 100
                elif a.bytes != b.bytes:
                    i = next(i for i in range(100) if a.bytes[i] != b.bytes[i])
                    parted.append(Margins(m2, b'\xfe' + a.prompt + a.bytes[:i]).at[-1])
    with capsys.disabled():
        print(f'\n{total:,} bytes equal in float64; in float32 {len(parted)} of {total//100:,} texts parted, largest '
              f'margin {max(parted, default=0):.1e}; {saved:,} of 202,000 passes saved')
    assert saved > 50_000 and total == 100_000 and all(m < 1e-4 for m in parted)

@pytest.mark.parametrize('speculative', [False, True])
@pytest.mark.parametrize('latent', [False, True])
def test_router_decisions_are_those_of_one_pass(trained, speculative, latent):
    "The flag of each byte is what the model decides when it reads the finished text."
    for seed in range(4):
        g = generate(trained, 'Mia likes', 80, temperature=1.3, seed=seed, speculative=speculative, latent=latent)
        whole = b'\xfe' + g.prompt + g.bytes
        out = trained(torch.tensor([list(whole)]), latent=latent)
        n = len(g.bytes)
        assert g.routed == out.routed[0,len(whole)-n:].tolist()
        if latent:
            np.testing.assert_allclose(g.router_weights, out.router_weights[0,len(whole)-n:].detach().numpy(),
                                       atol=1e-6)
        else: assert not any(g.routed)

@settings(fast, max_examples=12)
@given(st.lists(st.text('aeiou é.', max_size=70), min_size=1, max_size=4), st.integers(0, 40), st.booleans(),
       st.sampled_from(['likely', 'drawn']), st.sampled_from([0, .7, 1.5]), st.sampled_from([None, .9]))
def test_batches_streams_and_prefixes(trained, prompts, n, speculative, draft, temperature, top_p):
    "A row of a batch, a stream and a longer text all agree."
    kw = dict(temperature=temperature, top_p=top_p, speculative=speculative, draft=draft)
    seeds = list(range(len(prompts)))
    together = generate(trained, prompts, n, seed=seeds, **kw)
    for g, p, s in zip(together, prompts, seeds, strict=True):
        alone = generate(trained, p, n, seed=s, **kw)
        assert (g.bytes, g.routed) == (alone.bytes, alone.routed)
        assert (g.forwards, g.accepted, g.prompt) == (alone.forwards, alone.accepted, p.encode())
        assert generate(trained, p.encode(), n+7, seed=s, **kw).bytes[:n] == g.bytes
        assert [x.byte for x in stream(trained, p, n, seed=s, **kw)] == list(g.bytes)
    steps = list(stream(trained, prompts, n, seed=seeds, **kw))
    assert [bytes(x.byte for x in steps if x.row == b) for b in seeds] == [g.bytes for g in together]

def test_long_prompt(trained):
    "A prompt longer than what is read at once, beside a short one."
    long = 'the kite likes a boat. ' * 250
    for g, p in zip(generate(trained, [long, 'a', ''], 20), [long, 'a', ''], strict=True):
        assert g.bytes == generate(trained, p, 20).bytes
    naive = torch.tensor([list(b'\xfe' + long.encode())])
    with torch.inference_mode():
        assert generate(trained, long, 1, temperature=0).bytes[0] == trained(naive, heads=1).logits[0,-1,0].argmax()

class Table:
    """A two-letter model whose probabilities are quarters and depend on all bytes the cache holds. Heads 2 to N are
    fair coins ('coin'), sure of 1 ('sure'), or see the byte before: a coin after 0, sure of 1 after 1 ('chain')."""
    def __init__(self, N, kind):
        self.config, self.sure = PicoConfig.preset('nano', next_tokens=N, marks='none', **ORIGINAL), kind == 'sure'
        if kind == 'chain': self.unembedding = self
    def drafter(self): return self
    def begin(self, h): pass
    def next(self, last):
        z = np.full((len(last), 256), -1e4)
        for b, v in enumerate(last): z[b,:2] = [-1e3, 0] if v else 0
        return z
    def new_cache(self, rows, max_rollback):
        self.seen = [[] for _ in range(rows)]
        return self
    def rollback(self, n):
        for s, k in zip(self.seen, n.tolist(), strict=True): del s[len(s)-k:]
    @staticmethod
    def quarter(seen): return 1 + sum((i+1)*v for i, v in enumerate(seen)) % 3
    def __call__(self, x, cache, lengths, heads, **kw):
        z = torch.full((*x.shape, heads, 256), -1e4, dtype=torch.float64)
        for b, row in enumerate(x.tolist()):
            for t, v in enumerate(row if lengths is None else row[:lengths[b]]):
                self.seen[b].append(v)
                k = self.quarter(self.seen[b]) / 4
                z[b,t,0,0], z[b,t,0,1] = math.log(1-k), math.log(k)
        z[:,:,1:,:2] = torch.tensor([-1e3, 0.]) if self.sure else 0
        return type('Out', (), dict(logits=z, routed=x > 0, router_weights=None))

class Script:
    "Noise written down beforehand: what byte 1 has more than byte 0, by position; afterwards 0."
    def __init__(self, more): self.more = more
    def __call__(self, t, n=1):
        out = np.zeros((n, 256))
        for k in range(n): out[k,1] = self.more[t+k] if t+k < len(self.more) else 0
        return out

@pytest.mark.parametrize('N,kind,L,used,least', [(2, 'sure', 4, 5, .3), (2, 'coin', 4, 5, .3), (3, 'sure', 4, 6, .3),
                                                 (3, 'chain', 4, 6, .4), (3, 'chain', 4, 6, 0), (3, 'chain', 4, 6, .6)])
def test_exact_by_counting_every_random_number(N, kind, L, used, least):
    """All chances are quarters, so four values of each position's noise are all there is: the loop itself is run on
    every combination, drafts beyond the end included. With `least` = 0.4 the chain guesses a second byte after a 1
    only, with 0.6 it guesses at all only after a 1. Each text is the plain one of its noise."""
    grid, law, model, texts = [math.log(u/(1-u)) for u in (1/8, 3/8, 5/8, 7/8)], {}, Table(N, kind), {}
    combos, passes = list(itertools.product(grid, repeat=used)), {}
    for drafts in (0, N-1):
        for i in range(0, len(combos), 2048):
            rows = [Writing(0, L) for _ in combos[i:i+2048]]
            for r, c in zip(rows, combos[i:i+2048], strict=True): r.noise = Script(c)
            for _ in rounds(model, [b'\0']*len(rows), rows, 1., None, drafts, draft='drawn', least=least): pass
            texts.setdefault(drafts, []).extend(bytes(r.data) for r in rows)
            passes[drafts] = passes.get(drafts, 0) + sum(r.forwards for r in rows)
    assert texts[0] == texts[N-1] and passes[N-1] < passes[0]
    for t in texts[N-1]: law[t] = law.get(t, 0) + 1
    for text in itertools.product(range(2), repeat=L):
        p = 1.
        for t, v in enumerate(text):
            k = Table.quarter([0, *text[:t]]) / 4
            p *= k if v else 1-k
        assert law.get(bytes(text), 0) / len(combos) == p

@pytest.mark.parametrize('p', [[[.25, .75], [.5, .5], [.75, .25]], [[1, 0], [.25, .75], [.5, .5]]])
@pytest.mark.parametrize('q', [[[.5, .5], [.5, .5]], [[0, 1], [.5, .5]], [[.5, .5], [0, 1]]])
def test_accept_drafts_by_counting_every_random_number(p, q):
    "The rejection rule for two drafts and the byte after them; what a refusal leaves open is drawn plainly."
    p, q, grid, law = np.array(p), np.array(q), (1/8, 3/8, 5/8, 7/8), {}
    for u in itertools.product(grid, repeat=5):
        drafts = [int(pick(q[k], u[k])) for k in (0, 1)]
        n, new = accept_drafts(p, q, drafts, np.array(u[2:]))
        text = [*drafts[:n], new]
        for rest in itertools.product(range(2), repeat=3-len(text)):
            whole = (*text, *rest)
            law[whole] = law.get(whole, 0) + math.prod(p[k,whole[k]] for k in range(len(text), 3))
    for text in itertools.product(range(2), repeat=3):
        assert law.get(text, 0) / 4**5 == pytest.approx(math.prod(p[k,v] for k, v in enumerate(text)), abs=1e-12)

@fast
@given(st.integers(0, 10**30), st.lists(st.tuples(st.integers(0, 300), st.integers(1, 40)), min_size=1, max_size=12))
def test_noise_is_a_function_of_seed_and_position(seed, asked):
    "In whatever order and however many rows are asked for."
    noise, whole = Noise(seed), Noise(seed)(0, 340)
    for t, n in asked: assert (noise(t, n) == whole[t:t+n]).all()
    assert len(np.unique(whole)) == whole.size and abs(whole.mean() - .5772) < .03     # the mean of a Gumbel number
    assert not np.isin(Noise(seed + 2**32)(0, 340), whole).any()

@fast
@given(st.integers(2, 6), st.integers(0, 10**6), st.booleans())
def test_accept_gives_p_whatever_q(V, seed, sure):
    r = np.random.default_rng(seed)
    p = r.dirichlet(np.full(V, .3))
    q = np.eye(V)[r.integers(V)] if sure else r.dirichlet(np.full(V, .3))
    law = np.zeros(V)
    for x in q.nonzero()[0]:
        a, rest = accept(p, q, x)
        law += q[x]*(1-a)*rest/rest.sum()
        law[x] += q[x]*a
    np.testing.assert_allclose(law, p, atol=1e-12)

def alike(m, n, temperature, draft='drawn'):
    "The p-value of a chi-square test: n short texts written plainly, n with speculation."
    def texts(first, speculative):
        return [g.bytes for g in generate(m, ['Mia likes the ']*n, 3, temperature=temperature, draft=draft,
                                          seed=list(range(first, first+n)), speculative=speculative)]
    a, b = texts(0, False), texts(n, True)
    often = [t for t in sorted(set(a + b)) if a.count(t) + b.count(t) >= 20]
    counts = [(a.count(t), b.count(t)) for t in often]
    counts.append((n - sum(x for x, _ in counts), n - sum(y for _, y in counts)))
    assert len(often) > 4
    chi2 = sum((x-y)**2 / max(x+y, 1) for x, y in counts)
    return torch.special.gammaincc(torch.tensor((len(counts)-1)/2), torch.tensor(chi2/2)).item()

@pytest.mark.parametrize('heads', ['linear', 'chained'])
def test_samples_have_the_plain_distribution(trained, chained, heads):
    "Thousands of short texts drawn both ways."
    assert alike(like(trained if heads == 'linear' else chained, router='space').float(), 2500, .8) > .001

def test_mistakes_are_noticed(trained, monkeypatch):
    """A refused byte drawn again with other noise, as the original does; the temperature multiplied in verifying (its
    second mistake); drafts drawn with the noise of the byte before. The first two are far outside what the test above
    allows. The third costs only passes, since what is written never depends on a draft."""
    m, t = like(trained, router='space').float(), .6
    other = np.random.default_rng(0)
    def redrawn(rows, s, *rest):
        s, first = s.copy(), 0
        for r in rows:
            T = len(r.pending)
            noise = r.noise(len(r.data), T)
            chosen = choose(s[first:first+T], noise) if T > 1 else []
            wrong = next((k for k, v in enumerate(chosen[:-1]) if v != r.pending[k+1]), None)
            if wrong is not None: s[first+wrong] += other.gumbel(size=256) - noise[wrong]
            first += T
        return verify(rows, s, *rest)
    def multiplied(rows, s, *rest):
        guessed = np.repeat([len(r.pending) > 1 for r in rows], [len(r.pending) for r in rows])
        return verify(rows, np.where(guessed[:,None], s*t*t, s), *rest)
    assert alike(m, 4000, t, 'likely') > .001
    for mistake in (redrawn, multiplied):
        monkeypatch.setattr(module, 'verify', mistake)
        assert alike(m, 4000, t, 'likely') < 1e-6, mistake
    monkeypatch.setattr(module, 'verify', verify)
    kw = dict(temperature=1, seed=list(range(8)), ignore_end=True, lookup=False, speculative=True)
    right = generate(m, ['Mia']*8, 100, **kw)
    guess = module.guess
    def late(ahead, h, last, noise, *how): return guess(ahead, h, last, np.roll(noise, 1, 1), *how)
    monkeypatch.setattr(module, 'guess', late)
    shifted = generate(m, ['Mia']*8, 100, **kw)
    assert [g.bytes for g in shifted] == [g.bytes for g in right]
    assert sum(g.forwards for g in shifted) > sum(g.forwards for g in right)

class Says:
    "Writes a given text, whatever it reads; its drafts are right (`off` = 0) or wrong."
    def __init__(self, text, N=4, off=0, marks='bytes', fail_at=None):
        self.config = PicoConfig.preset('nano', next_tokens=N, marks=marks, **ORIGINAL)
        self.text, self.off = text + b'.'*300, off
        self.fail_at, self.calls = fail_at, 0
    def new_cache(self, rows, max_rollback):
        self.at = -1
        return self
    def rollback(self, n): self.at -= int(n)
    def __call__(self, x, cache, lengths, heads, **kw):
        self.calls += 1
        if self.calls == self.fail_at: raise KeyboardInterrupt
        if self.at == -1: self.at = -x.shape[1]
        z = torch.zeros(1, x.shape[1], heads, 256)
        for t in range(x.shape[1]):
            for h in range(heads):
                i = max(self.at + t + 1 + h, 0)
                z[0,t,h,(self.text[i] + self.off*(h > 0)) % 256] = 1e4
        self.at += x.shape[1]
        return type('Out', (), dict(logits=z, routed=x % 2 == 1, router_weights=None))

@pytest.mark.parametrize('N', [1, 2, 4, 8])
@pytest.mark.parametrize('draft', ['likely', 'drawn'])
def test_drafts_always_and_never_right(N, draft):
    text = bytes(range(32, 127))
    for off, forwards in ((0, 1 + -(-63//N) + 1), (1, 65)):
        g = generate(Says(text, N, off), 'ab', 64, draft=draft, speculative=True)
        assert g.bytes == text[:64] and g.routed == [b % 2 == 1 for b in g.bytes]
        assert abs(g.forwards - forwards) <= (off == 0)
        assert set(g.accepted[1:-1]) == ({1} if off else {N}) and sum(g.accepted) == 64
    assert generate(Says(text, N), 'ab', 64, speculative=False).forwards == 65

class Weather(Says):
    """Its heads are right or wrong by the position in the text; a pass takes 1 s, and a quarter more for each further
    byte."""
    def __init__(self, text, wrong, N=4):
        super().__init__(text, N)
        self.wrong, self.now = wrong, 0.
    def clock(self): return self.now
    def __call__(self, x, **kw):
        self.now += 1 + .25 * (x.shape[1] - 1)
        self.off = int(self.wrong(self.at))
        return super().__call__(x, **kw)

def written_with(m, n, way, **kw):
    "The pace, the seconds, and for each byte the way of the round that wrote it (None for the first)."
    pace = Pace(clock=m.clock) if way == 'auto' else way
    g = generate(m, '', n, temperature=0, lookup=False, speculative=pace, **kw)
    assert g.bytes == m.text[:n]
    if way != 'auto': return m.now, None
    return m.now, [w for w, k in zip([None, *pace.taken], g.accepted, strict=False) for _ in range(k)]

TEXT = bytes(random.Random(0).choices(range(32, 127), k=9000))

def test_drafting_stops_and_starts_again():
    "Heads that are right for 1,500 bytes, wrong for 3,000, and right again."
    _, ways = written_with(Weather(TEXT, lambda at: 1500 <= at < 4500), 9000, 'auto')
    def share(a, b): return ways[a:b].count('heads') / (b - a)
    assert share(100, 1500) > .9 and share(1600, 4500) < .05 and share(5700, 9000) > .9
    assert ways[1500:1600].count('heads') < 60 and 'heads' in ways[1700:4500]        # it stops soon, and goes on trying

def test_no_slower_than_plain_and_nearly_as_fast_as_forced():
    """Over 2,000 bytes: at most 5% slower than plain writing when no draft ever stands, at least 0.9 of forced drafting
    when all stand, or two out of three."""
    for wrong in (lambda at: True, lambda at: False, lambda at: at % 3 == 0):
        seconds = {way: written_with(Weather(TEXT, wrong), 2000, way)[0] for way in (False, True, 'auto')}
        assert seconds['auto'] <= 1.05 * seconds[False]
        if seconds[True] < seconds[False]: assert seconds['auto'] <= seconds[True] / .9

def test_copies_and_heads_are_judged_apart():
    """Heads that are always wrong beside text that repeats itself: copies are kept, heads are not; and the other way
    round."""
    for repeats, wrong, good, bad in ((True, True, 'copies', 'heads'), (False, False, 'heads', 'copies')):
        text = TEXT[:40]*60 if repeats else b''.join(b'the end' + TEXT[i:i+9] for i in range(0, 2000, 9))
        m = Weather(text, lambda at, wrong=wrong: wrong)
        pace = Pace(clock=m.clock)
        generate(m, '', 2000, temperature=0, speculative=pace)
        assert pace.taken.count(good) > 4 * pace.taken.count(bad), (good, len(pace.taken))
        assert pace.ways[good].speed > 1.3 * pace.ways["plain"].speed > pace.ways[bad].speed

def test_a_pace_knows_from_one_text_to_the_next(trained):
    "Handed on, it need not try everything again; and it is the default."
    m = Weather(TEXT, lambda at: True)
    pace = Pace(clock=m.clock)
    for _ in range(2):
        before = len(pace.taken)
        generate(m, '', 400, temperature=0, lookup=False, speculative=pace)
    assert pace.taken[before:].count('heads') < 6 <= pace.taken[:before].count('heads')
    for f in (generate, stream):
        assert inspect.signature(f).parameters['speculative'].default == 'auto'
        with pytest.raises(InputError, match="speculative='fast'"): f(trained, 'a', speculative='fast')

@pytest.mark.parametrize('speculative', [False, True])
@pytest.mark.parametrize('off', [0, 1])
def test_ignore_end_begins_a_new_document(speculative, off):
    "After the closing mark comes the opening mark, whatever the model says; other endings still count."
    says = b'one\xff?two\xff?three'
    kw = dict(ignore_end=True, speculative=speculative)
    assert generate(Says(says, 4, off), 'p', 14, **kw).bytes == b'one\xff\xfetwo\xff\xfethre'
    assert generate(Says(says, 4, off), 'p', 14, stop='wo', **kw).bytes == b'one\xff\xfet'
    close = MARKS['tags'][1]
    assert generate(Says(b'a' + close + b'b', 4, off, 'tags'), 'p', 14, **kw).bytes == b'a' + close + b'b.'

@pytest.mark.parametrize('speculative', [False, True])
def test_endings(speculative):
    kw = dict(speculative=speculative)
    close = MARKS['tags'][1]
    for says, marks, stop, expect in [(b'one\xfftwo', 'bytes', None, b'one'), (b'\xff', 'bytes', None, b''),
                                      (b'a</pico</pico:seq' + close + b'b', 'tags', None, b'a</pico</pico:seq'),
                                      (close, 'tags', None, b''), (b'aab', 'bytes', 'ab', b'a'),
                                      (b'x yz. w', 'bytes', ['w', b'z.'], b'x y'),
                                      ('né!'.encode(), 'bytes', 'é', b'n')]:
        for off in (0, 1):
            assert generate(Says(says, 4, off, marks), 'p', 50, stop=stop, **kw).bytes == expect
            assert bytes(s.byte for s in stream(Says(says, 4, off, marks), 'p', 50, stop=stop, **kw)) == expect
    g = generate(Says(b'abc' + close, 4, 0, 'tags'), '', 6, **kw)
    assert g.bytes == b'abc</p' and len(g.routed) == 6                       # cut before the mark was certain

def test_nothing_is_handed_out_too_early():
    "While bytes may still become a closing mark, a stream keeps them back."
    m, got = Says(b'ab</pico:sex', 1, 0, 'tags'), []
    for s in stream(m, '', 12): got.append((s.byte, m.calls))
    assert bytes(b for b,_ in got) == b'ab</pico:sex'
    assert got[1][1] < got[2][1] and len({c for _,c in got[2:11]}) == 1

def test_interrupt_keeps_what_was_written():
    g = generate(Says(b'abcdefghijk', 4, 1, fail_at=6), 'p', 50, speculative=True)
    assert g.bytes == b'abcd' and len(g.routed) == 4
    assert generate(Says(b'abc', fail_at=1), 'p', 50).bytes == b''

def test_an_interrupted_stream_keeps_its_text():
    "What was written stands, the broken character at its end too, and the interrupt goes on to whoever called."
    from pico.cli import show_stream
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt): show_stream(stream(Says('añ€b'.encode(), 4, 1, fail_at=7), 'p', 50), '', out)
    assert out.getvalue() == 'añ\ufffd\n'

def test_a_stream_left_open_leaks_no_inference_mode(trained):
    s = stream(trained, 'Mia', 20)
    next(s)
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
    trained.train()
    try: assert generate(trained, 'Mia', 9).bytes == generate(trained.eval(), 'Mia', 9).bytes
    finally: trained.eval()

@pytest.mark.parametrize('kw,word', [
    (dict(temperature=-.1), 'temperature=-0.1'), (dict(temperature=math.nan), 'nan'),
    (dict(temperature=math.inf), 'inf'), (dict(temperature='hot'), 'hot'),
    (dict(top_p=0), 'top_p=0'), (dict(top_p=1.01), 'top_p'), (dict(top_p=math.nan), 'nan'),
    (dict(max_bytes=-1), 'max_bytes'), (dict(max_bytes=1.5), 'max_bytes'), (dict(seed=-1), 'seed'),
    (dict(seed=[1, 2]), '2 seeds'), (dict(stop=5), 'stop=5'), (dict(draft='bold'), 'bold'), (dict(prompt=7), 'not int'),
    (dict(prompt=['a', 7]), 'not int')])
def test_mistakes_are_named(trained, kw, word):
    kw = dict(prompt='a') | kw
    for f in (generate, stream):
        with pytest.raises(InputError, match=word): f(trained, **kw)

def test_what_is_no_option_is_named(trained):
    for kw in (dict(temperature=np.complex64(1)), dict(speculative=np.array([1, 2]))):
        with pytest.raises(InputError, match=next(iter(kw))): generate(trained, 'a', 3, **kw)

def test_a_draft_may_fail_where_a_text_does_not(chained):
    "Heads 2 to N that say nothing finite end no text, and no temperature overflows."
    m = copy.deepcopy(chained)
    with torch.no_grad(): m.unembedding.guess.bias[5] = math.nan
    for top_p in (None, .9):
        plain, *others = (generate(m, 'a', 30, speculative=s, top_p=top_p).bytes for s in (False, True, 'auto'))
        assert all(plain == other for other in others)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(generate(chained, 'a', 30, temperature=1e39, speculative=True, ignore_end=True).bytes) == 30

def test_no_marks_needs_a_prompt_and_broken_weights_are_told(trained):
    m = like(trained, marks='none')
    with pytest.raises(InputError, match='opening mark'): generate(m, '')
    assert generate(m, 'a', 5).bytes == generate(m, b'a', 5).bytes
    with torch.no_grad(): m.norm.weight.fill_(math.nan)
    with pytest.raises(InputError, match='not finite'): generate(m, 'a')

@fast
@given(st.binary(max_size=40), st.data())
def test_characters_and_marks(data, draw):
    c = characters(data)
    assert ''.join(x for x,*_ in c) == to_text(data) and [a for _,a,_ in c] + [len(data)] == [0] + [b for *_,b in c]

@fast
@given(st.integers(0, 10**6), st.floats(0, 5), st.floats(.01, 1))
def test_probabilities(seed, temperature, top_p):
    r = np.random.default_rng(seed)
    z = r.normal(size=(3, 256)) * 5
    p, cut = byte_probabilities(z, temperature), byte_probabilities(z, temperature, top_p)
    np.testing.assert_allclose(cut.sum(-1), 1)
    assert ((cut > 0) <= (p > 0)).all()
    if temperature >= 1e-3:
        np.testing.assert_allclose(p, torch.softmax(torch.tensor(z)/temperature, -1).numpy(), atol=1e-12)
    kept = p * (cut > 0)
    assert (kept.sum(-1) >= top_p - 1e-9).all()
    # the smallest such set
    if temperature: assert (kept.sum(-1) - np.where(cut > 0, p, 2).min(-1) < top_p + 1e-9).all()
    i = pick(cut, r.random(3))
    assert (np.take_along_axis(cut, i[:,None], 1) > 0).all()

def test_page(trained):
    g = generate(Says(b'<b>&\x00\n'), '<i>', 6)
    page = g.html()
    bare = page.replace('</span>', '').replace('<span style="background:rgba(255,150,0,0.6);border-radius:2px">', '')
    assert '&lt;b&gt;&amp;\u2400' in bare and '<i>' not in page and page.startswith('<!doctype html>')

def test_both_doors_show_their_options():
    "Whoever asks for help sees every option with its default, and a misspelt one is refused by name."
    for f in (generate, stream):
        shown = inspect.signature(f).parameters
        assert list(shown)[:4] == ['model', 'prompt', 'max_bytes', 'temperature'] and shown['temperature'].default == .8
        with pytest.raises(TypeError, match='temprature'): f(None, 'a', temprature=1)

def test_the_speed_command_runs(trained, tmp_path, monkeypatch):
    "A few bytes of an untrained model and of a saved one, with what it says about them; mistakes are named."
    monkeypatch.syspath_prepend(Path(__file__).parents[1]/'nbs'/'experiments')
    main = importlib.import_module('pace').main
    trained.save_pretrained(tmp_path/'model')
    (tmp_path/'start.txt').write_text('Mia likes')
    main([f"mine={tmp_path/'model'}", '--prompt_file', f"mine={tmp_path/'start.txt'}", '--smoke', '--out',
          str(tmp_path/'auto.json')])
    result = {r['name']: r for r in map(json.loads, (tmp_path/'auto.json').read_text().splitlines())}
    assert set(result) == {'auto mine', 'auto smoke'} and result['auto mine']['prompt_bytes'] == 9
    for m in result.values():
        for r in m['temperatures'].values():
            assert r['ways']['plain']['ratio'] == 1 and r['ways']['plain']['passes_per_byte'] == 61/60
            assert min(w['bytes_per_second'] for w in r['ways'].values()) > 0
            assert abs(sum(r['auto_bytes'].values()) - 1) < 1e-9
    assert str(tmp_path) not in (tmp_path/'auto.json').read_text()
    for args, word in (([], 'no model'), (['oops'], 'NAME=DIR'), (['--smoke', '--prompt', 'other=a'], 'other')):
        with pytest.raises(InputError, match=word): main(args)

@pytest.mark.parametrize('stop', [5, [5], ['a', None], {'a': 1}])
def test_a_stop_that_is_no_text_is_named(stop):
    with pytest.raises(InputError, match='stop='): generate(Pico.from_pretrained('stories'), 'a', 3, stop=stop)

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('speculative', [False, True, 'auto'])
def test_a_gpu_writes_and_scores(speculative):
    "What the model that comes along says on a GPU is what it says on a processor, up to rounding."
    here, there = Pico.from_pretrained('stories'), Pico.from_pretrained('stories', device='cuda')
    assert generate(there, 'Once upon a time', max_bytes=300, speculative=speculative).bytes
    text = story(3, seed=9).text
    for latent in (True, False):
        assert abs(bits_per_byte(there, text, latent=latent).bpb - bits_per_byte(here, text, latent=latent).bpb) < .01

def test_a_way_that_never_pays_is_tried_ever_more_rarely_and_no_number_overflows():
    pace = Pace()
    pace.ways['plain'] = Way(0, rounds=9, gained=9., seconds=.1)
    way = pace.ways['drawn'] = Way(0, rounds=9, gained=1., seconds=1., lost=5000)
    pace.wait(way)
    assert way.due == Pace.longest

@pytest.mark.parametrize('stop', [['b', 'ab'], ['ab', 'b']])
def test_where_two_endings_stand_the_text_ends_before_both(stop):
    assert generate(Says(b'xxabyy', 1, 0), 'p', 14, stop=stop).bytes == b'xx'
