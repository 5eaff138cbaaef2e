"Bytes, corpora and batches: random cases, every kind of source, mistakes, and a file larger than memory."
import codecs, json, os, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import example, given, settings, strategies as st
import pico.data as data
from pico.data import (CLOSE, MARKS, OPEN, TEXT, Corpus, InputError, TextDecoder, batch, byte_class, BYTE_CLASSES, chunk_starts, chunks_per_epoch,
                       load_corpus, shuffled, to_bytes, to_text)

random_cases = settings(deadline=None, derandomize=True, max_examples=60)
some_text = st.text(max_size=40).map(lambda t: t.encode('utf-8', 'surrogatepass'))
broken = st.lists(st.one_of(some_text, st.binary(max_size=6), st.sampled_from([b'\xfe', b'\xff', b'\xf0\x9f\x98', b'\xe2\x82', b'\xc0\x80', b'\xed\xa0\x80', b'</pico:seq>'])), max_size=12).map(b''.join)
documents = st.lists(broken, min_size=1, max_size=8)

@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    "Nothing here writes into the caches of the person who runs it."
    import datasets
    monkeypatch.setenv('PICO_CACHE', str(tmp_path/'cache'))
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path/'hf')
    data.story_piece.cache_clear()

def stream(docs, marks):
    "The stream and its kinds, written down plainly."
    o, c = MARKS[marks]
    kinds = [k for d in docs for k in [OPEN]*len(o) + [TEXT]*len(d) + [CLOSE]*len(c)]
    return b''.join(o + d + c for d in docs), np.array(kinds, np.uint8)

# Bytes and text

@random_cases
@given(broken)
@example(bytes(range(256)))
def test_round_trip(b):
    assert to_bytes(to_text(b, 'surrogateescape')) == b
    assert to_bytes(b) == to_bytes(bytearray(b)) == b
    assert to_text(b) == to_text(list(b)) == to_text(torch.tensor(list(b))) == to_text(np.frombuffer(b, np.uint8)) == b.decode('utf-8', 'replace')

@random_cases
@given(st.text(max_size=40))
def test_any_str_has_bytes(t):
    b = to_bytes(t)
    if not any(0xD800 <= ord(c) < 0xE000 for c in t): assert to_text(b) == t

@random_cases
@given(broken, st.data())
def test_decoder_equals_decoding_at_once(b, draw):
    d, out, at = TextDecoder(), '', 0
    while at < len(b):
        n = draw.draw(st.integers(1, 5)); out += d.feed(b[at:at+n]); at += n
    assert out + d.finish() == b.decode('utf-8', 'replace')
    assert d.feed(b'ok') + d.finish() == 'ok'                              # finished means as new

@random_cases
@given(broken)
def test_decoder_byte_by_byte_holds_back_little(b):
    d, out = TextDecoder(), ''
    for i in range(len(b)):
        out += d.feed(b[i:i+1])
        whole = b[:i+1].decode('utf-8', 'replace')
        assert whole.startswith(out) and len(whole) - len(out) <= 3         # at most three bytes of an unfinished character

def test_a_broken_sequence_swallows_nothing():
    d = TextDecoder()
    assert [d.feed(x) for x in (b'a\xe2', b'\x82', b'b', b'\xff', b'c')] == ['a', '', '\ufffdb', '\ufffd', 'c']

def test_byte_classes():
    of = lambda b: [BYTE_CLASSES[i] for i in byte_class(list(b))]
    assert of(b'a1 \n.\x00') == ['letter', 'digit', 'space', 'space', 'punctuation', 'control']
    assert of('ы'.encode()) == ['lead', 'continuation'] and of(b'\xff\xc0\xf5') == ['invalid']*3
    for cp in (0x80, 0x7ff, 0x800, 0xffff, 0x10000, 0x10ffff):
        assert set(of(chr(cp).encode())[1:]) == {'continuation'} and of(chr(cp).encode())[0] == 'lead'

# The stream

@random_cases
@given(documents, st.sampled_from(list(MARKS)), st.integers(0, 300), st.integers(0, 300))
def test_reading_any_part(docs, marks, a, b):
    c = Corpus.from_bytes(docs, marks)
    want, kinds = stream(docs, marks)
    v, k = c.read(0, c.size)
    assert c.size == len(c) == len(want) and v.tobytes() == want and (k == kinds).all()
    v, k = c.read(a, b)
    assert v.tobytes() == want[a:b] and (k == kinds[a:b]).all()
    assert list(c.documents()) == docs and c.text_bytes == sum(map(len, docs)) and c.num_documents == len(docs)

@random_cases
@given(documents, st.integers(0, 3), st.sampled_from(list(MARKS)))
def test_pieces_do_not_show(docs, cut, marks):
    "However documents are spread over arrays, the stream is the same."
    parts = [docs[:cut], docs[cut:]]
    many = Corpus([p for d in parts if d for p in Corpus.from_bytes(d).pieces], marks)
    one = Corpus.from_bytes(docs, marks)
    for x, y in zip(many.read(0, many.size), one.read(0, one.size)): assert (x == y).all()
    assert list(many.documents()) == docs and many.fingerprint == one.fingerprint

def test_marks_are_told_by_position():
    for marks in MARKS:
        o, c = MARKS[marks]
        text = b'x' + c + o + b'y' + c
        v, k = Corpus.from_bytes(text, marks).read(0, 999)
        assert v.tobytes() == o + text + c and (k == TEXT).sum() == len(text)

def test_fingerprint_tells_corpora_apart():
    a = Corpus.from_bytes([b'ab', b'c'])
    others = [Corpus.from_bytes(d, m) for d, m in (([b'a', b'bc'], 'bytes'), ([b'ab', b'c'], 'none'), ([b'ab', b'd'], 'bytes'), ([b'abc'], 'bytes'), ([b'ab', b'c', b''], 'bytes'))]
    prints = {c.fingerprint for c in others}
    assert a.fingerprint == Corpus.from_bytes([b'ab', b'c'], name='other').fingerprint not in prints and len(prints) == len(others)
    big = bytearray(1_000_000); first = Corpus.from_bytes(bytes(big)).fingerprint
    big[777_777] = 1; assert Corpus.from_bytes(bytes(big)).fingerprint != first

def test_bad_corpora():
    with pytest.raises(InputError, match="marks='sgml'"): Corpus.from_bytes(b'a', marks='sgml')
    with pytest.raises(InputError, match='no documents'): Corpus.from_bytes([])

# Batches

shapes = st.tuples(st.integers(1, 20), st.integers(1, 6), st.integers(0, 10**6), st.integers(-5, 2**64 - 1), st.sampled_from(list(MARKS)))

def corpus_for(docs, T, N, marks):
    "A corpus of these documents, made long enough for a batch."
    docs = list(docs)
    while sum(map(len, docs)) < T+N: docs.append(b'more of it, \xff\xfe')
    return docs, Corpus.from_bytes(docs, marks)

def naive_targets(stream, kinds, start, T, N):
    "y from its definition, with loops."
    y = torch.full((T, N), -100)
    for t in range(T):
        for n in range(N):
            at = start + t + n + 1
            if at < len(stream) and kinds[at] != OPEN: y[t,n] = stream[at]
    return y

@random_cases
@given(documents, shapes)
def test_rows_and_targets(docs, shape):
    T, N, step, seed, marks = shape
    docs, c = corpus_for(docs, T, N, marks)
    x, y = batch(c, step, 4, T, N, seed)
    assert x.shape == (4, T) and y.shape == (4, T, N) and x.dtype == y.dtype == torch.long
    want, kinds = stream(docs, marks)
    for b, start in enumerate(chunk_starts(c.size, step*4 + np.arange(4), T, seed)):
        assert bytes(x[b].tolist()) == want[start:start+T]
        assert torch.equal(y[b], naive_targets(want, kinds, start, T, N))

@random_cases
@given(documents, shapes)
def test_ranks_together_are_the_batch(docs, shape):
    T, N, step, seed, marks = shape
    _, c = corpus_for(docs, T, N, marks)
    whole = batch(c, step, 8, T, N, seed)
    for R in (1, 2, 4):
        parts = [batch(c, step, 8, T, N, seed, rank, R) for rank in range(R)]
        for i in (0, 1): assert torch.equal(torch.cat([p[i] for p in parts]), whole[i])

@random_cases
@given(documents, shapes)
def test_a_batch_depends_on_its_arguments_alone(docs, shape):
    T, N, step, seed, marks = shape
    docs, c = corpus_for(docs, T, N, marks)
    first = batch(c, step, 4, T, N, seed)
    c.read(3, 9); batch(c, step+1, 2, T, N, seed+1); torch.manual_seed(step % 97); np.random.seed(1)
    for again in (batch(c, step, 4, T, N, seed), batch(Corpus.from_bytes(docs, marks), step, 4, T, N, seed)):
        assert all(torch.equal(a, b) for a, b in zip(first, again))
    first[0].zero_()                                                       # x is the caller's own
    assert torch.equal(batch(c, step, 4, T, N, seed)[1], first[1])

@random_cases
@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_shuffled_is_a_permutation(n, key):
    order = shuffled(np.arange(n), n, np.full(n, key, np.uint64))
    assert sorted(order.tolist()) == list(range(n))

def test_orders_look_random():
    n = 20_000
    a, b = (shuffled(np.arange(n), n, np.full(n, k, np.uint64)) for k in (1, 2))
    for u, v in ((np.arange(n), a), (a[1:], a[:-1]), (a, b)): assert abs(np.corrcoef(u, v)[0,1]) < .03       # four standard deviations
    assert (a == b).sum() < 10

@pytest.mark.parametrize('size, T, rows', [(1000, 10, 3), (1009, 10, 7), (64, 30, 2), (40, 39, 1), (12_345, 64, 16)])
def test_an_epoch_visits_every_chunk_once(size, T, rows):
    c = Corpus.from_bytes(bytes(i*i % 251 for i in range(size)), marks='none')
    n, offsets, orders = chunks_per_epoch(c, T), set(), set()
    assert n == size//T
    for epoch in range(6):
        starts = chunk_starts(size, epoch*n + np.arange(n), T, seed=3)
        offset = int(starts.min()); offsets.add(offset); orders.add(tuple(starts - offset))
        assert sorted(starts.tolist()) == [offset + i*T for i in range(n)] and 0 <= offset <= size % T
    if size % T > 8: assert len(offsets) > 1
    if n > 8: assert len(orders) == 6
    seen = [r.tobytes() for step in range(-(-n//rows)) for r in batch(c, step, rows, T, 1, seed=3)[0].numpy().astype(np.uint8)][:n]
    first = chunk_starts(size, np.arange(n), T, seed=3).min()
    whole = c.read(0, size)[0].tobytes()
    assert sorted(seen) == sorted(whole[first+i*T:first+(i+1)*T] for i in range(n))

def test_seeds_give_other_orders():
    a, b = (chunk_starts(10**6, np.arange(1000), 1000, s) for s in (0, 1))
    assert (a == b).sum() < 20

def test_targets_past_the_end_and_at_marks():
    c = Corpus.from_bytes([b'abc', b'de'])                                # [abc][de]: 9 bytes
    x, y = batch(c, 0, 1, 6, 3)
    start = int(chunk_starts(9, np.arange(1), 6)[0])
    assert torch.equal(y[0], naive_targets(*stream([b'abc', b'de'], 'bytes'), start, 6, 3))
    x, y = batch(Corpus.from_bytes(b'abcdefgh', marks='none'), 0, 1, 4, 4)   # two chunks, no spare: the later one ends at the end
    start = int(chunk_starts(8, np.arange(1), 4)[0])
    late = y if start == 4 else batch(Corpus.from_bytes(b'abcdefgh', marks='none'), 1, 1, 4, 4)[1]
    assert late[0].tolist() == [[102, 103, 104, -100], [103, 104, -100, -100], [104, -100, -100, -100], [-100]*4]

def test_wrong_arguments():
    c = Corpus.from_bytes(b'hello there', name='greeting')
    with pytest.raises(InputError, match='greeting has 13 bytes .* 10 \\+ 4: .* smaller context_len'): batch(c, 0, 1, 10, 4)
    batch(c, 0, 1, 10, 3)
    with pytest.raises(ValueError, match='batch_size=3 is no multiple of the 2'): batch(c, 0, 3, 4, 1, world_size=2)
    for bad in (dict(step=-1), dict(rank=1), dict(batch_size=0), dict(context_len=0), dict(next_tokens=0), dict(world_size=0)):
        with pytest.raises(ValueError): batch(**{**dict(corpus=c, step=0, batch_size=1, context_len=4, next_tokens=1), **bad})
