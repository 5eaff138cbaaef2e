"Bytes, corpora and batches: random cases, every kind of source, mistakes, and a file larger than memory."
import gzip
import json
import os
import subprocess
import sys
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings, strategies as st
import pico.sources as sources
from pico.batches import batch, chunk_starts, chunks_per_epoch, shuffled
from pico.core import BYTE_CLASSES, InputError, TextDecoder, byte_class, to_bytes, to_text
from pico.data import CLOSE, MARKS, OPEN, TEXT, Corpus
from pico.rows import column_pieces
from pico.sources import load_corpus

random_cases = settings(deadline=None, derandomize=True, max_examples=60)
some_text = st.text(max_size=40).map(lambda t: t.encode('utf-8', 'surrogatepass'))
odd_bytes = st.sampled_from([b'\xfe', b'\xff', b'\xf0\x9f\x98', b'\xe2\x82', b'\xc0\x80', b'\xed\xa0\x80',
                             b'</pico:seq>'])
broken = st.lists(st.one_of(some_text, st.binary(max_size=6), odd_bytes), max_size=12).map(b''.join)
documents = st.lists(broken, min_size=1, max_size=8)

@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    "Nothing here writes into the caches of the person who runs it."
    import datasets
    monkeypatch.setenv('PICO_CACHE', str(tmp_path/'cache'))
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path/'hf')
    sources.story_piece.cache_clear()

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
    forms = b, list(b), torch.tensor(list(b)), np.frombuffer(b, np.uint8)
    for form in forms: assert to_text(form) == b.decode('utf-8', 'replace')

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
        n = draw.draw(st.integers(1, 5))
        out += d.feed(b[at:at+n])
        at += n
    assert out + d.finish() == b.decode('utf-8', 'replace')
    assert d.feed(b'ok') + d.finish() == 'ok'                              # finished means as new

@random_cases
@given(broken)
def test_decoder_byte_by_byte_holds_back_little(b):
    d, out = TextDecoder(), ''
    for i in range(len(b)):
        out += d.feed(b[i:i+1])
        whole = b[:i+1].decode('utf-8', 'replace')
        # at most three bytes of an unfinished character
        assert whole.startswith(out) and len(whole) - len(out) <= 3

def test_a_broken_sequence_swallows_nothing():
    d = TextDecoder()
    assert [d.feed(x) for x in (b'a\xe2', b'\x82', b'b', b'\xff', b'c')] == ['a', '', '\ufffdb', '\ufffd', 'c']

def test_byte_classes():
    def of(b): return [BYTE_CLASSES[i] for i in byte_class(list(b))]
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
    for x, y in zip(many.read(0, many.size), one.read(0, one.size), strict=True): assert (x == y).all()
    assert list(many.documents()) == docs and many.fingerprint == one.fingerprint

def test_marks_are_told_by_position():
    for marks in MARKS:
        o, c = MARKS[marks]
        text = b'x' + c + o + b'y' + c
        v, k = Corpus.from_bytes(text, marks).read(0, 999)
        assert v.tobytes() == o + text + c and (k == TEXT).sum() == len(text)

def test_fingerprint_tells_corpora_apart():
    a = Corpus.from_bytes([b'ab', b'c'])
    cases = (([b'a', b'bc'], 'bytes'), ([b'ab', b'c'], 'none'), ([b'ab', b'd'], 'bytes'), ([b'abc'], 'bytes'),
             ([b'ab', b'c', b''], 'bytes'))
    prints = {Corpus.from_bytes(docs, marks).fingerprint for docs, marks in cases}
    assert len(prints) == len(cases) and a.fingerprint not in prints
    assert a.fingerprint == Corpus.from_bytes([b'ab', b'c'], name='other').fingerprint
    big = bytearray(1_000_000)
    first = Corpus.from_bytes(bytes(big)).fingerprint
    big[777_777] = 1
    assert Corpus.from_bytes(bytes(big)).fingerprint != first

def test_bad_corpora():
    with pytest.raises(InputError, match="marks='sgml'"): Corpus.from_bytes(b'a', marks='sgml')
    with pytest.raises(InputError, match='no documents'): Corpus.from_bytes([])

# Batches

shapes = st.tuples(st.integers(1, 20), st.integers(1, 6), st.integers(0, 10**6), st.integers(-5, 2**64 - 1),
                   st.sampled_from(list(MARKS)))

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
    c.read(3, 9)
    batch(c, step+1, 2, T, N, seed+1)
    torch.manual_seed(step % 97)
    np.random.seed(1)
    for again in (batch(c, step, 4, T, N, seed), batch(Corpus.from_bytes(docs, marks), step, 4, T, N, seed)):
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
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
    # four standard deviations
    for u, v in ((np.arange(n), a), (a[1:], a[:-1]), (a, b)): assert abs(np.corrcoef(u, v)[0,1]) < .03
    assert (a == b).sum() < 10

@pytest.mark.parametrize('size, T, rows', [(1000, 10, 3), (1009, 10, 7), (64, 30, 2), (40, 39, 1), (12_345, 64, 16)])
def test_an_epoch_visits_every_chunk_once(size, T, rows):
    c = Corpus.from_bytes(bytes(i*i % 251 for i in range(size)), marks='none')
    n, offsets, orders = chunks_per_epoch(c, T), set(), set()
    assert n == size//T
    for epoch in range(6):
        starts = chunk_starts(size, epoch*n + np.arange(n), T, seed=3)
        offset = int(starts.min())
        offsets.add(offset)
        orders.add(tuple(starts - offset))
        assert sorted(starts.tolist()) == [offset + i*T for i in range(n)] and 0 <= offset <= size % T
    if size % T > 8: assert len(offsets) > 1
    if n > 8: assert len(orders) == 6
    seen = [r.tobytes() for step in range(-(-n//rows))
            for r in batch(c, step, rows, T, 1, seed=3)[0].numpy().astype(np.uint8)][:n]
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
    # two chunks, no spare: the later one ends at the end
    x, y = batch(Corpus.from_bytes(b'abcdefgh', marks='none'), 0, 1, 4, 4)
    start = int(chunk_starts(8, np.arange(1), 4)[0])
    late = y if start == 4 else batch(Corpus.from_bytes(b'abcdefgh', marks='none'), 1, 1, 4, 4)[1]
    assert late[0].tolist() == [[102, 103, 104, -100], [103, 104, -100, -100], [104, -100, -100, -100], [-100]*4]

def test_wrong_arguments():
    c = Corpus.from_bytes(b'hello there', name='greeting')
    with pytest.raises(InputError, match='greeting has 13 bytes .* 10 \\+ 4: .* smaller context_len'):
        batch(c, 0, 1, 10, 4)
    batch(c, 0, 1, 10, 3)
    with pytest.raises(ValueError, match='batch_size=3 is not a multiple of the 2'): batch(c, 0, 3, 4, 1, world_size=2)
    for bad in (dict(step=-1), dict(rank=1), dict(batch_size=0), dict(context_len=0), dict(next_tokens=0),
                dict(world_size=0)):
        with pytest.raises(ValueError):
            batch(**{**dict(corpus=c, step=0, batch_size=1, context_len=4, next_tokens=1), **bad})

# What training asks

def test_a_prepared_corpus_gives_the_batches_of_its_steps():
    c = Corpus.from_bytes([b'The cat sat on the mat. ' * 9, b'And so on. ' * 9])
    for rank in (0, 1):
        c.prepare(4, 16, 3, seed=5, rank=rank, world_size=2)
        for step in (0, 7, 3):
            c.ready(micro=2, step=step)
            for i, got in enumerate(c.batches()):
                want = batch(c, 2*step + i, 4, 16, 3, 5, rank, 2)
                assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert c.steps(2.5, 8) == -(-(c.size//16)*5 // 16) and c.state_dict() == {} and c.validation(10) is None
    with pytest.raises(InputError, match='batch_size=3 is not a multiple of the 2'): c.prepare(3, 16, 3, world_size=2)
    with pytest.raises(InputError, match='smaller context_len'): c.prepare(4, 9999, 3)

@pytest.mark.parametrize('name', ['load_corpus', 'batch', 'shuffled', 'hub_data', 'column_pieces', 'file_pieces'])
def test_names_that_moved_are_found_where_they_stood(name):
    import pico.data
    assert getattr(pico.data, name).__module__ != 'pico.data'

# Sources

TEXTS = [f'Story {i}: кот {"x"*(i % 7)} 🐢.' for i in range(50)]
ALL = [t.encode() for t in TEXTS]

def rows_of_texts():
    import datasets
    return datasets.Dataset.from_dict(dict(id=range(50), text=TEXTS))

def lines_of(texts): return '\n'.join(json.dumps(dict(id=i, text=t)) for i, t in enumerate(texts))

def write_tsv(f): f.write_text('id\ttext\n' + ''.join(f'{i}\t{t}\n' for i, t in enumerate(TEXTS)), encoding='utf-8')

def save_in_another_order(f):
    rows = rows_of_texts()
    rows.select(range(49, -1, -1)).select(range(49, -1, -1)).filter(lambda r: True).save_to_disk(f)

def save_with_one_split(f):
    import datasets
    datasets.DatasetDict(train=rows_of_texts()).save_to_disk(f)

def write_folder_of_lines(f):
    f.mkdir()
    (f/'README.md').write_text('about it')
    for i in range(2): (f/f'part-{i}.jsonl').write_text(lines_of(TEXTS[25*i:25*i+25]), encoding='utf-8')

def write_folder_of_text(f):
    (f/'below').mkdir(parents=True)
    (f/'.git').mkdir()
    (f/'.git'/'x.txt').write_text('hidden')
    (f/'image.png').write_bytes(b'\x89PNG\0\0')
    (f/'empty.txt').touch()
    for i, t in enumerate(TEXTS):
        name = f'below/c{i:02d}.txt' if i >= 25 else f'b{i:02d}.txt'
        (f/name).write_bytes(t.encode())

# the same rows in several forms
FORMS = {
    'jsonl': lambda f: f.write_text(lines_of(TEXTS), encoding='utf-8'),
    'jsonl.gz': lambda f: f.write_bytes(gzip.compress(lines_of(TEXTS).encode())),
    'json': lambda f: f.write_text(json.dumps([dict(text=t) for t in TEXTS]), encoding='utf-8'),
    'csv': lambda f: rows_of_texts().to_csv(f, index=False),
    'tsv': write_tsv,
    'parquet': lambda f: rows_of_texts().to_parquet(f),
    'saved': lambda f: rows_of_texts().save_to_disk(f),
    'saved in parts': lambda f: rows_of_texts().save_to_disk(f, num_shards=3),
    'saved in another order': save_in_another_order,
    'saved with one split': save_with_one_split,
    'folder of jsonl': write_folder_of_lines,
    'folder of text': write_folder_of_text,
}

@pytest.mark.parametrize('kind', FORMS)
def test_rows_are_documents(kind, tmp_path, capfd):
    f = tmp_path/f'rows.{kind}'
    FORMS[kind](f)
    capfd.readouterr()
    train, validation, both = (load_corpus(f, split=s) for s in ('train', 'validation', 'all'))
    want = ALL
    if kind == 'folder of text':
        want = sorted(ALL[:25]) + sorted(ALL[25:])
        assert sorted(both.documents()) == sorted(ALL)
        want = list(both.documents())
    assert list(both.documents()) == want == list(train.documents()) + list(validation.documents())
    total = sum(map(len, ALL))
    # cut before the row that passes 90%
    assert train.text_bytes <= total*9//10 < train.text_bytes + len(next(validation.documents()))
    v, k = train.read(0, train.size)
    assert (v.tobytes(), k.tolist()) == (stream(want, 'bytes')[0][:train.size],
                                         stream(want, 'bytes')[1][:train.size].tolist())
    assert train.fingerprint == load_corpus(f).fingerprint != validation.fingerprint
    small = load_corpus(f, limit=100)
    assert list(small.documents()) == want[:small.num_documents]
    assert 100 - len(want[small.num_documents]) < small.text_bytes <= 100
    out, err = capfd.readouterr()
    assert out + err == ''                   # no progress bars

def test_rows_keep_their_order_when_saved_shuffled(tmp_path):
    import datasets
    rows = datasets.Dataset.from_dict(dict(text=TEXTS)).shuffle(seed=1)
    assert list(Corpus(column_pieces(rows, 'text', 'rows')).documents()) == [t.encode() for t in rows['text']]
    rows = datasets.Dataset.from_dict(dict(text=TEXTS)).select(range(7, 20))      # a part of a table
    assert list(Corpus(column_pieces(rows, 'text', 'rows')).documents()) == ALL[7:20]

@pytest.mark.parametrize('kind', ['string', 'large_string', 'binary', 'large_binary'])
def test_columns_of_text_and_bytes_with_empty_rows(kind):
    import datasets
    values = [None, '', 'a', None, 'бв', '', 'd', None]
    if 'binary' in kind: values = [v if v is None else v.encode() for v in values]
    rows = datasets.Dataset.from_dict(dict(text=values), features=datasets.Features(text=datasets.Value(kind)))
    assert list(Corpus(column_pieces(rows, 'text', 'rows')).documents()) == [b'a', 'бв'.encode(), b'd']
    nothing = datasets.Dataset.from_dict(dict(text=[None, None]), features=datasets.Features(text=datasets.Value(kind)))
    assert column_pieces(nothing, 'text', 'rows') == []

@pytest.mark.parametrize('names', [('train', 'validation', 'test'), ('train', 'valid'), ('train', 'dev'),
                                   ('train', 'test')])
@pytest.mark.parametrize('kind', ['saved', 'files'])
def test_a_data_sets_own_splits(names, kind, tmp_path):
    import datasets
    parts = {n: TEXTS[10*i:10*i+10] for i, n in enumerate(names)}
    if kind == 'saved':
        made = {n: datasets.Dataset.from_dict(dict(text=t)) for n, t in parts.items()}
        datasets.DatasetDict(made).save_to_disk(tmp_path/'d')
    else:
        (tmp_path/'d').mkdir()
        for n, t in parts.items():
            (tmp_path/'d'/f'{n}.jsonl').write_text('\n'.join(json.dumps(dict(text=x)) for x in t))
    def got(split): return [d.decode() for d in load_corpus(tmp_path/'d', split=split).documents()]
    assert got('train') == TEXTS[:10] and got('validation') == TEXTS[10:20]
    assert sorted(got('all')) == sorted(TEXTS[:10*len(names)])
    if 'test' in names: assert got('test') == parts['test']
    else:
        with pytest.raises(InputError, match="no split 'test'"): got('test')

@random_cases
@given(st.text(min_size=1, max_size=60).map(lambda t: t.encode('utf-8', 'surrogatepass')), st.integers(1, 80))
def test_cutting_a_text_file(tmp_path_factory, text, limit):
    f = tmp_path_factory.mktemp('cut')/'a.txt'
    f.write_bytes(text)
    got = {}
    for s in ('train', 'validation', 'all'):
        try: got[s] = b''.join(load_corpus(f, split=s).documents())
        except InputError:
            got[s] = b''
            assert s != 'all' and len(text) < 40
    assert got['train'] + got['validation'] == got['all'] == text
    at = len(text)*9//10
    assert at-3 <= len(got['train']) <= at
    if b'\xed' not in text: [g.decode() for g in got.values()]             # no character is cut in two
    try: short = b''.join(load_corpus(f, split='all', limit=limit).documents())
    except InputError: assert limit < 4
    else: assert text.startswith(short) and min(limit, len(text)) - 3 <= len(short) <= limit

def test_any_bytes_as_a_file(tmp_path):
    b = bytes(range(256))*10
    (tmp_path/'a.bin').write_bytes(b)
    c = load_corpus(tmp_path/'a.bin', split='all', marks='tags')
    assert list(c.documents()) == [b] and c.size == len(b) + 21

def test_stories(tmp_path):
    from pico.stories import story
    c, v = load_corpus('stories', limit=20_000), load_corpus('stories', 'validation', limit=20_000)
    n = c.num_documents
    assert 20_000 - 5000 < c.text_bytes <= 20_000
    assert list(c.documents()) == [story(i, 0).text.encode() for i in range(n)]
    assert c.floor == pytest.approx(sum(story(i, 0).bits for i in range(n)) / c.text_bytes)
    assert next(v.documents()) == story(0, 1).text.encode() and not set(v.documents()) & set(c.documents())
    assert next(load_corpus('stories', limit=20_000, seed=1).documents()) == story(0, 2).text.encode()
    assert not (tmp_path/'cache').exists()                                  # few stories are simply made again

def test_a_disk_that_fails_is_said_in_a_sentence(tmp_path, monkeypatch):
    (tmp_path/'a.txt').write_text('a cat and a dog')
    c = load_corpus(tmp_path/'a.txt', 'all')
    def broken(*_): raise OSError(5, 'Input/output error')
    monkeypatch.setattr('pico.data.READ_AT', broken)
    with pytest.raises(InputError, match='Input/output error'): c.read(0, 5)

def test_many_stories_are_kept_whole_or_not_at_all(tmp_path, monkeypatch):
    want = load_corpus('stories', limit=1_000_000)
    c = load_corpus('stories', limit=1_000_001)
    folder, = (tmp_path/'cache').iterdir()
    assert list(want.documents()) == list(c.documents()) and c.floor == want.floor
    assert not isinstance(c.pieces[0].data, np.ndarray)
    def fresh():
        sources.story_piece.cache_clear()
        return load_corpus('stories', limit=1_000_001)
    with monkeypatch.context() as m:
        m.setattr(sources, 'write_stories', lambda *a: pytest.fail('the cache was not used'))
        assert fresh().fingerprint == c.fingerprint
    (folder/'text').write_bytes(b'half')
    assert fresh().fingerprint == c.fingerprint          # a damaged cache is not believed
    (folder/'index.json').write_text('')                 # as a power cut may leave it
    assert fresh().fingerprint == c.fingerprint
    with monkeypatch.context() as m:
        m.setattr(sources, 'write_stories', lambda *a: pytest.fail('it was not made again for good'))
        assert fresh().fingerprint == c.fingerprint
    monkeypatch.setenv('PICO_CACHE', str(tmp_path/'other'))
    def killed(out, *a):
        out.write(b'half')
        raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(sources, 'write_stories', killed)
        with pytest.raises(KeyboardInterrupt): fresh()
    assert list((tmp_path/'other').iterdir()) == []
    (tmp_path/'file').write_text('')
    monkeypatch.setenv('PICO_CACHE', str(tmp_path/'file'/'below'))
    assert fresh().fingerprint == c.fingerprint   # nowhere to keep them

def test_python():
    c = load_corpus('python', split='all')
    assert c.num_documents > 200 and any(b'def argsort' in d or b'class Fraction' in d for d in c.documents())
    t, v = load_corpus('python'), load_corpus('python', 'validation')
    assert t.text_bytes + v.text_bytes == c.text_bytes and .08 < v.text_bytes/c.text_bytes < .2

# Mistakes

def fails(source, *parts, **kw):
    with pytest.raises(InputError) as e: load_corpus(source, **kw)
    message = str(e.value)
    assert '\n' not in message and len(message) < 500 and all(p in message for p in parts), message

def test_mistakes_with_files(tmp_path, capfd):
    d = tmp_path
    (d/'empty.txt').touch()
    (d/'empty folder').mkdir()
    (d/'binary').mkdir()
    (d/'binary'/'x.so').write_bytes(b'\x7fELF\0\0')
    (d/'a.txt.gz').write_bytes(b'\x1f\x8b')
    (d/'broken.jsonl').write_text('{"text": "a"}\n{"te')
    (d/'broken.parquet').write_bytes(b'PAR1 and no more')
    (d/'empty.jsonl').touch()
    (d/'nulls.jsonl').write_text('{"text": null}\n')
    (d/'rows.csv').write_text('story,id\nabc,2\n')
    (d/'one.txt').write_text('a')
    (d/'damaged').mkdir()
    (d/'damaged'/'dataset_info.json').write_text('{')
    (d/'damaged'/'state.json').write_text('{')
    fails(d/'nowhere.txt', 'nowhere.txt does not exist', 'give a file')
    fails(d/'nowhere', 'does not exist')
    fails('nowhere.jsonl', 'does not exist')
    fails('./nowhere', 'does not exist')
    fails(d/'empty.txt', 'is empty')
    fails(d/'empty.jsonl', 'is empty')
    fails(d/'empty folder', 'holds no text')
    fails(d/'binary', 'holds no text')
    fails(d/'a.txt.gz', 'unpack')
    fails(d/'broken.jsonl', 'broken.jsonl cannot be loaded')
    fails(d/'broken.parquet', 'cannot be loaded')
    fails(d/'damaged', 'cannot be loaded')
    fails(d/'rows.csv', "no column 'text'", 'story, id')
    fails(d/'nulls.jsonl', 'holds null, not text')
    fails(d/'one.txt', 'no text for train')
    fails(d/'one.txt', "no split 'middle'", 'train, validation, all', split='middle')
    for source in ('stories', 'python'):
        fails(source, f"{source} has no split 'test'", 'train, validation', split='test')
    fails('python', 'limit=0', limit=0)
    fails('python', "marks='sgml'", 'bytes, tags, none', marks='sgml')
    fails('x'*300, 'cannot be read')
    fails('a b', 'check the name')
    out, err = capfd.readouterr()
    assert out + err == ''

def test_a_file_that_shrinks_is_noticed(tmp_path):
    f = tmp_path/'a.txt'
    f.write_bytes(b'x'*100_000)
    c = load_corpus(f, split='all')
    f.write_bytes(b'y')
    with pytest.raises(InputError, match='must not change'): c.read(0, 10)

def test_unknown_hub_name_without_network():
    "In a process of its own, with the network cut off for certain: one sentence, quickly, and nothing else is printed."
    code = '''
import socket, time
def no_network(*a, **k): raise OSError('no network in this test')
socket.getaddrinfo = socket.create_connection = no_network
from pico.sources import load_corpus
from pico.core import InputError
import datasets
for name in ('nobody/nothing-here', 'nothing-here', 'nobody/nothing-here:en'):
    t = time.time()
    try: load_corpus(name)
    except InputError as e: print(str(e), time.time() - t < 10)
print(datasets.config.HF_HUB_OFFLINE)
'''
    env = {k: v for k, v in os.environ.items() if 'OFFLINE' not in k}
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env, timeout=120)
    assert r.stderr == '', r.stderr
    for n, l in zip(('nobody/nothing-here', 'nothing-here', 'nobody/nothing-here:en', None), r.stdout.splitlines(),
                    strict=True):
        assert l == (f'{n} is not a file or folder here, and the Hugging Face Hub cannot be reached to look for a data '
                     f'set of that name: check the name and the network True' if n else 'False')

class Hub:
    "Stands in for the two calls that reach the network."
    def __init__(self, monkeypatch, exists, load):
        import datasets
        import huggingface_hub
        self.asked = []
        def info(api, name, **kw):
            if isinstance(exists, Exception): raise exists
        def load_dataset(name, config=None, **kw):
            self.asked.append((name, config, datasets.config.HF_HUB_OFFLINE))
            return load()
        monkeypatch.setattr(huggingface_hub.HfApi, 'dataset_info', info)
        monkeypatch.setattr(datasets, 'load_dataset', load_dataset)

def test_a_data_set_on_the_hub(monkeypatch):
    import datasets
    from huggingface_hub.errors import RepositoryNotFoundError
    def part(a, b): return datasets.Dataset.from_dict(dict(text=TEXTS[a:b], title=TEXTS[:b-a]))
    def splits(): return datasets.DatasetDict(train=part(0, 20), validation=part(20, 30))
    hub = Hub(monkeypatch, True, splits)
    assert list(load_corpus('owner/stories').documents()) == ALL[:20]
    assert list(load_corpus('owner/stories:en', 'validation', column='title').documents()) == ALL[:10]
    assert hub.asked == [('owner/stories', None, False), ('owner/stories', 'en', False)]
    fails('owner/stories', "no column 'story'", 'text, title', column='story')
    fails('owner/stories', "no split 'test'", 'train, validation', split='test')
    hub = Hub(monkeypatch, OSError('no network'), splits)                   # but it is in the cache
    assert load_corpus('owner/stories').num_documents == 20 and not datasets.config.HF_HUB_OFFLINE
    assert hub.asked == [('owner/stories', None, True)]
    missing = RepositoryNotFoundError.__new__(RepositoryNotFoundError)      # as raised for an answer of 404
    Hub(monkeypatch, missing, splits)
    fails('owner/stories', 'nor a data set on the Hugging Face Hub')
    def asks(): raise ValueError("Config name is missing.\nPlease pick one among the available configs: ['en', 'de']")
    Hub(monkeypatch, True, asks)
    fails('owner/stories', 'owner/stories cannot be loaded (Config name is missing.')

# Larger than memory

RSS = '''
import os, sys, numpy as np
from pico.batches import batch
from pico.sources import load_corpus
def resident():
    with open('/proc/self/statm') as f: return int(f.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')
c = load_corpus(sys.argv[1], split='all')
assert c.text_bytes == 10 * 2**30, c
batch(c, 0, 8, 1024, 8)
c.read(0, 2**20)
before, most = resident(), 0
for at in range(0, c.size, 2**28):                                          # 4 MB out of every 256, 160 MB in all
    v, k = c.read(at, at + 2**22)
    most = max(most, resident())
for step in range(200):
    batch(c, step, 8, 1024, 8)
    most = max(most, resident())
v, k = c.read(7 * 2**30, 7 * 2**30 + 8)
assert v.tobytes() == b'\\0here\\0\\0\\0', v
c.fingerprint
print((max(most, resident()) - before) >> 20)
'''

def test_a_file_of_ten_gigabytes(tmp_path):
    "Mapped, not loaded: what the process holds stays flat while it reads all over the file."
    if not os.path.exists('/proc/self/statm'):
        pytest.skip('resident memory is read from /proc, which this system lacks')
    f = tmp_path/'sparse.txt'
    with open(f, 'wb') as out:
        out.truncate(10 * 2**30)
        out.seek(7 * 2**30)
        out.write(b'here')
    if f.stat().st_blocks * 512 > 2**30:
        f.unlink()
        pytest.skip('this file system has no sparse files')
    r = subprocess.run([sys.executable, '-c', RSS, str(f)], capture_output=True, text=True, timeout=300)
    f.unlink()
    assert r.returncode == 0, r.stderr[-2000:]
    assert int(r.stdout) < 110, f'{r.stdout} MB'                             # a mapping is let go after 64 MB

def test_rows_on_disk_are_not_copied(tmp_path):
    import datasets
    datasets.Dataset.from_dict(dict(text=['x'*1000]*20_000)).save_to_disk(tmp_path/'d')          # 20 MB
    assert load_corpus(tmp_path/'d').text_bytes == 18_000_000
    import pyarrow
    held = pyarrow.total_allocated_bytes()
    c = load_corpus(tmp_path/'d')
    batch(c, 0, 8, 1024, 8)
    assert pyarrow.total_allocated_bytes() - held < 1_000_000
