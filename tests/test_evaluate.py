"Measuring: what is scored is what the definition says, and a model that knows nothing is told so."
import math
from itertools import pairwise
from pathlib import Path
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pico.core import InputError
from pico.data import MARKS, Corpus
from pico.evaluate import agreement, bits_per_byte, leak, recall, router_report, surprise, windowed
from pico.model import Pico, PicoConfig
from pico.router import ROUTERS
from pico.sources import load_corpus
from pico.stories import Fact, Story, story

fast = settings(deadline=None, derandomize=True, max_examples=20)

def make(router='topk', marks='bytes', seed=0, **kw):
    "A small model in float64 whose router is undecided, so that some bytes go deep and others do not."
    torch.manual_seed(seed)
    kw = dict(latent_carry='no', positions='alibi', latent_summary=False, latent_shift=False, heads='linear',
              heads_every=1) | kw
    config = PicoConfig.preset('nano', dim=12, latent_num_blocks=1, next_tokens=2, fb_att_window_size=5,
                               latent_att_window_size=4, router=router, marks=marks, **kw)
    m = Pico(config).double().eval()
    with torch.no_grad():
        for p in m.parameters(): p.mul_(1.5)
        for name, b in m.named_buffers():
            if name.endswith('router.pairs'): b.copy_(torch.rand(256, 256) < .3)           # as if it had counted
    return m

TODAY = dict(latent_carry='yes', positions='relative', latent_summary=True, latent_shift=True)
MODELS = {(r, k): make(r, k) for r in ROUTERS for k in MARKS}
PRESENT = {(r, k): make(r, k, **TODAY) for r in ROUTERS for k in MARKS}

@torch.no_grad()
def naive(model, values, kinds, latent=True):
    """Costs by the definition: the model reads everything before the byte, each time anew.

    Only text counts, and never the first byte of a stream."""
    bits = []
    for t in range(1, len(values)):
        if kinds[t] != 0: continue
        logits = model(torch.tensor([values[:t]]), routing='causal', latent=latent).logits[0,-1,0]
        bits.append(-logits.log_softmax(-1)[values[t]].item() / math.log(2))
    return sum(bits) / len(bits), len(bits)

def by_hand(docs, marks):
    "Values and kinds of a stream, written out."
    opening, closing = MARKS[marks]
    values, kinds = [], []
    for d in docs:
        values += opening + d + closing
        kinds += [1]*len(opening) + [0]*len(d) + [2]*len(closing)
    return values, kinds

@pytest.mark.parametrize('router', sorted(ROUTERS))
@settings(fast, max_examples=6)
@given(st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=3), st.sampled_from(sorted(MARKS)),
       st.integers(1, 50), st.booleans(), st.booleans())
def test_equals_the_definition(router, docs, marks, chunk, latent, today):
    "Any bytes (those of marks included), any router, any marks, any chunk."
    model, corpus = (PRESENT if today else MODELS)[router, marks], Corpus.from_bytes(docs, marks)
    values, kinds = by_hand(docs, marks)
    if len(values) < 2: return
    bpb, n = naive(model, values, kinds, latent)
    s = bits_per_byte(model, corpus, chunk=chunk, latent=latent)
    assert s.bytes == n and abs(s.bpb - bpb) < 1e-10
    every = surprise(model, corpus, chunk=chunk, latent=latent)
    assert every.scored.sum() == n and abs(every.bits[every.scored].mean() - bpb) < 1e-10
    assert every.routed.mean() == s.routed_fraction
    assert np.isnan(every.bits[0]) and not np.isnan(every.bits[1:]).any()

def test_first_byte_of_raw_bytes_is_scored_and_str_is_utf8():
    for marks in ('bytes', 'tags'):
        m = MODELS['topk', marks]
        assert bits_per_byte(m, b'a').bytes == 1 and bits_per_byte(m, 'né').bytes == 3
        assert abs(bits_per_byte(m, 'né').bpb - bits_per_byte(m, 'né'.encode()).bpb) < 1e-15

def test_a_known_distribution_costs_its_cross_entropy():
    "With the last layer's weights at zero only its bias speaks: every byte has a probability that we chose."
    m = make()
    torch.nn.init.zeros_(m.unembedding.weight)
    p = np.random.default_rng(0).dirichlet(np.ones(256))
    with torch.no_grad(): m.unembedding.bias[:256] = torch.tensor(np.log(p))
    text = bytes(range(256)) + b'\xfe\xff\xff'
    assert abs(bits_per_byte(m, text).bpb + np.log2(p[list(text)]).mean()) < 1e-12
    assert np.allclose(surprise(m, text).entropy, -(p * np.log2(p)).sum())
    torch.nn.init.zeros_(m.unembedding.bias)
    assert abs(bits_per_byte(m, text).bpb - 8) < 1e-12

def test_max_bytes_counts_the_stream():
    m, docs = make(), [b'abc', b'defg', b'h']
    values, kinds = by_hand(docs, 'bytes')
    for k in range(2, len(values)+3):
        bpb, n = naive(m, values[:k], kinds[:k])
        s = bits_per_byte(m, Corpus.from_bytes(docs), max_bytes=k, chunk=3)
        assert s.bytes == n and abs(s.bpb - bpb) < 1e-10

@pytest.mark.parametrize('chunk', [2, 5, 100])
def test_a_damaged_model_is_not_flattered(chunk):
    "A cost that is no number makes the mean no number; it is not skipped."
    m = make()
    with torch.no_grad(): m.embedding.weight[ord('z')] = math.nan
    assert math.isnan(bits_per_byte(m, b'good z and good again', chunk=chunk).bpb)
    assert math.isfinite(bits_per_byte(m, b'good and good again', chunk=chunk).bpb)
    assert math.isnan(router_report(m, b'good z and good again').bpb)
    assert math.isnan(windowed(m, b'good z and good', 5).bpb)

def test_a_large_corpus_is_read_in_pieces():
    corpus, sizes = Corpus.from_bytes([b'some text. '*50]*8), []
    read = corpus.read
    def noting(a, b):
        sizes.append(b-a)
        return read(a, b)
    corpus.read = noting
    for f in (lambda: bits_per_byte(make(), corpus, chunk=100), lambda: windowed(make(), corpus, 10, max_bytes=3000)):
        sizes.clear()
        f()
        assert len(sizes) > 10 and max(sizes) <= 161

def test_the_model_is_left_as_it_was():
    m = make()
    for mode in (True, False):
        m.train(mode)
        s = bits_per_byte(m, b'some text')
        assert m.training is mode and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        assert s == bits_per_byte(m.eval(), b'some text')
    m.train()
    with pytest.raises(InputError): bits_per_byte(m, b'')
    with pytest.raises(IndexError): bits_per_byte(m, _Broken())
    m.latent.router.eval()                                              # frozen, while the rest learns
    bits_per_byte(m, b'some text')
    assert not m.latent.router.training and m.fb_in.training
    assert m.training and not torch.is_inference_mode_enabled()

class _Broken(Corpus):
    "A corpus whose disk fails half-way."
    def __init__(self): self.size, self.marks = 10_000, 'bytes'
    def read(self, a, b):
        if a > 0: raise IndexError('gone')
        return np.full(b-a, 97, np.uint8), np.zeros(b-a, np.uint8)

@pytest.mark.parametrize('T', [20, 4])                              # 7 windows, and several groups of 16
@pytest.mark.parametrize('router', sorted(ROUTERS))
def test_the_leak_is_the_difference_of_two_rules(router, T):
    "On the same cold windows; zero for every router that uses one rule, and not for top-k."
    # words so short that every rule here is above its budget
    m, text = MODELS[router, 'bytes'], b'Mia is at a red kite. It is an old one. ' * 4
    values, kinds = by_hand([text], 'bytes')
    n = (len(values)-1)//T
    expect = {}
    for rule in ('causal', 'train'):
        with torch.no_grad():
            logp = m(torch.tensor(values[:n*T]).view(n, T), routing=rule).logits[:,:,0].log_softmax(-1).flatten(0, 1)
        bits = [-logp[t, values[t+1]].item() / math.log(2) for t in range(n*T) if kinds[t+1] == 0]
        expect[rule] = sum(bits)/len(bits)
        s = windowed(m, text, T, rule)
        assert s.bytes == len(bits) and abs(s.bpb - expect[rule]) < 1e-10
    assert abs(leak(m, text, T) - (expect['causal'] - expect['train'])) < 1e-10
    assert (leak(m, text, T) == 0) == (router not in ('topk', 'tuned', 'words', 'rising', 'predictor'))

def test_one_window_as_long_as_the_text_is_the_text():
    "A window wider than the stream shrinks to it; its last byte (the closing mark) is no text."
    for text in (b's', b'so', b'some text'):
        bpb, n = naive(make(), *by_hand([text], 'bytes'))
        s = windowed(make(), text, 500)
        assert s.bytes == n == len(text) and abs(s.bpb - bpb) < 1e-10

@fast
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_agreement_by_counting(pairs):
    routed, starts = map(np.array, zip(*pairs, strict=True))
    p, r, f, by_chance = agreement(routed, starts)
    hit = sum(a and b for a, b in pairs)
    assert p == (hit/routed.sum() if routed.any() else 0) and r == (hit/starts.sum() if starts.any() else 0)
    assert abs(f - 2*hit/max(1, routed.sum() + starts.sum())) < 1e-12           # F1 in its other form
    assert 0 <= by_chance <= 1

def test_f1_of_a_random_router_is_what_random_routers_get():
    rng = np.random.default_rng(0)
    starts = rng.random(20_000) < .2
    got = [agreement(rng.random(20_000) < .25, starts)[2] for _ in range(20)]
    assert abs(np.mean(got) - agreement(rng.random(20_000) < .25, starts)[3]) < .01

def test_report_recounted():
    "Every figure of the report from a plain loop over the stream."
    m, docs = MODELS['space', 'bytes'], ['Mia has 3 caf\u00e9s, no 4!', 'Zo\u00eb \u20ac.']
    corpus = Corpus.from_bytes(docs)
    values, kinds = by_hand([d.encode() for d in docs], 'bytes')
    with torch.no_grad(): routed = m(torch.tensor([values])).routed[0].tolist()
    word = [k == 0 and (chr(v).isalnum() if v < 128 else True) for v, k in zip(values, kinds, strict=True)]
    starts = [not a and b for a, b in pairwise(word)] + [False]
    assert sum(starts) == 8                                          # Mia has 3 cafés no 4 Zoë €
    r = router_report(m, corpus)
    assert str(router_report(m, corpus, chunk=3)) == str(r)
    hit = sum(a and b for a, b in zip(routed, starts, strict=True))
    assert (r.used, r.precision, r.recall) == (np.mean(routed), hit/sum(routed), hit/sum(starts))
    assert r.router == m.config.router == r.rows()[0][1]
    assert r.budget == m.config.latent_capacity_factor and r.leak == 0
    assert sum(n for _, n in r.rates.values()) == kinds.count(0)
    assert r.rates['digit'][1] == 2 and r.rates['continuation'][1] == 4
    assert r.bpb == pytest.approx(bits_per_byte(m, corpus).bpb)
    assert r.bpb_off == pytest.approx(bits_per_byte(m, corpus, latent=False).bpb)
    s = surprise(m, corpus)
    assert r.entropy == pytest.approx((s.entropy[s.routed].mean(), s.entropy[~s.routed].mean()))
    assert all(k in str(r) and f'| {k} | {v} |' in r._repr_markdown_() for k, v in r.rows())

def test_latent_off_is_a_model_without_latent_blocks():
    m, off = make('all'), make('none')
    off.load_state_dict(m.state_dict())
    without, plain = bits_per_byte(m, b'some text', latent=False), bits_per_byte(off, b'some text')
    assert abs(without.bpb - plain.bpb) < 1e-12 and without.routed_fraction == 0
    assert bits_per_byte(m, b'some text').bpb != plain.bpb

@torch.no_grad()
def shares(model, text, f, latent):
    "Share of each candidate by whole passes over story, candidate and the byte that ends it."
    opening, data = MARKS[model.config.marks][0], text.encode()
    score = []
    for w in [f.answer, *f.rivals]:
        x = list(opening + data[:f.referred[0]] + w.encode() + data[f.referred[1]:f.referred[1]+1])
        a = len(opening) + f.referred[0]
        lp = model(torch.tensor([x]), latent=latent).logits[0, a-1:-1, 0].log_softmax(-1)
        score.append(lp.gather(1, torch.tensor(x[a:])[:,None]).sum().item())
    p = np.exp(np.array(score) - max(score))
    return p / p.sum()

@pytest.mark.parametrize('router,marks,latent', [
    ('topk', 'bytes', True), ('topk', 'tags', False), ('space', 'none', True), ('stride', 'bytes', True),
    ('random', 'tags', True)])
def test_recall_by_whole_passes(router, marks, latent):
    "Reading once and rolling back gives what a fresh pass for each candidate gives."
    m, s = MODELS[router, marks], story(0, seed=1)
    facts = [f for f in s.facts if f.rivals][:4]
    assert facts
    p = [shares(m, s.text, f, latent) for f in facts]
    r = recall(m, [Story(s.text, s.bits, facts[::-1])], latent)                 # the order of facts does not matter
    assert r.n == len(facts) and abs(r.probability - np.mean([x[0] for x in p])) < 1e-9
    assert abs(r.rank - np.mean([1 + (x > x[0]).sum() for x in p])) < 1e-9
    assert abs(r.accuracy - np.mean([x.argmax() == 0 for x in p])) < 1e-9
    assert abs(r.chance - np.mean([1/len(x) for x in p])) < 1e-12

def test_recall_gives_nothing_for_a_tie():
    "A model that cannot tell the words apart is at chance, wherever the right one stands."
    m = make()
    torch.nn.init.zeros_(m.unembedding.weight)
    torch.nn.init.zeros_(m.unembedding.bias)
    for k in (1, 2, 4):
        fact = Fact('animal', (4, 7), (18, 21), 'cat', ['dog', 'pig', 'hen', 'ant'][:k])
        r = recall(m, [Story('one cat. it was a cat.', 0., [fact])])
        assert (r.accuracy, r.chance, r.rank, r.n) == (1/(k+1), 1/(k+1), (k+2)/2, 1)
        assert abs(r.probability - 1/(k+1)) < 1e-12

class Pairs(torch.nn.Module):
    "After some bytes it is sure of the next one; otherwise it has no idea."
    def __init__(self, **after):
        super().__init__()
        self.embedding, self.after = torch.nn.Embedding(1, 1), after
        self.config = PicoConfig.preset('nano', router='topk', latent_carry='no', heads='linear', heads_every=1)
    def new_cache(self, rows, max_rollback=0): return self
    def rollback(self, n): pass
    def forward(self, x, **kw):
        z = torch.zeros(*x.shape, 1, 256)
        for t, v in enumerate(x[0].tolist()):
            if chr(v) in self.after: z[0,t,0,ord(self.after[chr(v)])] = 20.
        return type('Out', (), dict(logits=z))

def test_a_word_must_end():
    "A model sure that `s` follows `t` is not credited with, or blamed for, `cat`: that candidate is merely shorter."
    def s(told, rival):
        text, n = f'two {told}. see: {told}.', len(told)
        return Story(text, 0., [Fact('animal', (4, 4+n), (11+n, 11+2*n), told, [rival])])
    sure = Pairs(t='s', s='.')
    assert recall(sure, [s('cats', 'cat')]).accuracy == 1
    assert recall(sure, [s('cat', 'cats')]).accuracy == 0

def test_recall_far_and_nothing_to_ask():
    m, s = make(), story(0, seed=1)
    near, far = recall(m, [s]), recall(m, [s], far=300)
    distances = [f.referred[0] - f.told[1] for f in s.facts if f.rivals]
    assert 0 < far.n < near.n and far.n == sum(d >= 300 for d in distances)
    for stories, kw in (([], {}), ([Story('a.', 0., [])], {}), ([s], dict(far=10**6))):
        with pytest.raises(InputError, match='no fact'): recall(m, stories, **kw)

@pytest.mark.parametrize('call,word', [
    (lambda m: bits_per_byte(m, b''), 'empty'),
    (lambda m: bits_per_byte(m, ''), 'empty'),
    (lambda m: bits_per_byte(m, Corpus.from_bytes([b'', b''])), 'nothing to score'),
    (lambda m: bits_per_byte(m, b'abc', max_bytes=0), 'max_bytes=0'),
    (lambda m: bits_per_byte(m, b'abc', max_bytes=-5), 'max_bytes=-5'),
    (lambda m: bits_per_byte(m, b'abc', max_bytes=1), 'nothing to score'),
    (lambda m: leak(m, b'abc', max_bytes=1), 'nothing to score'),
    (lambda m: windowed(m, Corpus.from_bytes([b'', b''])), 'nothing to score'),
    (lambda m: router_report(m, b''), 'empty'),
    (lambda m: router_report(m, b'abc', max_bytes=1), 'nothing to score'),
    (lambda m: bits_per_byte(MODELS['topk', 'none'], b'a'), 'nothing to score')])
def test_mistakes_are_named(call, word):
    with pytest.raises(InputError, match=word): call(MODELS['topk', 'bytes'])

def test_wrong_call_arguments():
    for f, word in ((lambda: bits_per_byte(make(), b'abc', chunk=0), 'chunk=0'),
                    (lambda: bits_per_byte(make(), b'abc', routing='train'), 'windowed'),
                    (lambda: windowed(make(), b'abc', 0), 'context_len=0'),
                    (lambda: windowed(make(), b'abc', routing='magic'), 'magic')):
        with pytest.raises(ValueError, match=word): f()

def test_a_corpus_is_read_with_the_marks_of_the_model():
    m = Pico.from_pretrained('stories')
    tagged, plain = (load_corpus('stories', 'validation', limit=3000, marks=marks) for marks in ('tags', 'bytes'))
    assert bits_per_byte(m, tagged) == bits_per_byte(m, plain) and tagged.marks == 'tags'

@pytest.mark.parametrize('data', [Path('t.txt'), 7, ['one', 'two'], None])
def test_what_is_no_text_is_not_scored(data):
    with pytest.raises(InputError, match='load_corpus'): bits_per_byte(Pico.from_pretrained('stories'), data)

def test_a_broken_model_remembers_nothing_that_can_be_said():
    model = Pico(PicoConfig.preset('nano', dim=24))
    with torch.no_grad(): model.norm.weight.fill_(math.nan)
    found = recall(model, [story(0)])
    assert math.isnan(found.accuracy) and 'nan' in str(found)

@pytest.mark.parametrize('name, budget', [('all', 1), ('none', 0), ('rising', 3/16)])
def test_the_budget_is_the_routers(name, budget):
    model = Pico(PicoConfig.preset('nano', dim=24, router=name))
    assert router_report(model, b'Once upon a time there was a cat.', 40).budget == budget
