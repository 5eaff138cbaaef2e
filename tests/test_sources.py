"What users' files and folders hold, and what becomes of it: splits, odd rows, runs, truncated files, missing homes."
import codecs
import gzip
import itertools
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
import pico.data as data
import pico.rows
import pico.sources as sources
from pico.batches import batch
from pico.core import InputError
from pico.data import Corpus
from pico.files import file_pieces
from pico.rows import column_pieces
from pico.sources import load_corpus
from pico.streaming import Stream, as_source, held_out

@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    "Nothing here writes into the caches of the person who runs it."
    import datasets
    monkeypatch.setenv('PICO_CACHE', str(tmp_path/'cache'))
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path/'hf')
    sources.story_piece.cache_clear()

def words(n, k=1): return ' '.join(f'word{(i*k*k + 7*i) % 997}' for i in range(n))

def files(folder, texts):
    "Files by name, text or bytes, in a folder that is made; the folder comes back."
    for name, text in texts.items():
        f = folder/name
        f.parent.mkdir(parents=True, exist_ok=True)
        f.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder

def texts(source, split='all', **kw): return [d.decode() for d in load_corpus(source, split, **kw).documents()]
def lines(*rows): return ''.join((r if isinstance(r, str) else json.dumps(r)) + '\n' for r in rows)
def share(source, **kw):
    t, v = load_corpus(source, **kw), load_corpus(source, 'validation', **kw)
    assert t.sizes == v.sizes == dict(train=t.text_bytes, validation=v.text_bytes)
    return v.text_bytes / (t.text_bytes + v.text_bytes)

def fails(source, *parts, **kw):
    with pytest.raises(InputError) as e: load_corpus(source, **kw)
    message = str(e.value)
    assert '\n' not in message and len(message) < 600 and all(p in message for p in parts), message

# Splits

@pytest.mark.parametrize('sizes', [(2_000, 320_000), (320_000, 2_000), (50_000, 50_000), (11_000, 1_200_000),
                                   (100, 100, 100), (1, 10_000, 1, 1, 30_000), (10_000,)*7 + (1_000_000,)])
def test_validation_is_a_tenth_however_large_the_documents(sizes, tmp_path):
    d = files(tmp_path/'d', {f'{i:02d}.txt': (f'{i} é' + words(n//4))[:n].encode()[:n] for i, n in enumerate(sizes)})
    assert .09 <= share(d) <= .11
    whole = [f.read_bytes() for f in sorted(d.iterdir())]
    t, v = load_corpus(d), load_corpus(d, 'validation')
    assert b''.join([*t.documents(), *v.documents()]) == b''.join(whole)                 # nothing lost, nothing twice
    assert sum(d not in whole for d in [*t.documents(), *v.documents()]) <= 2            # one document at most is cut

def test_rows_are_cut_where_they_must_be(tmp_path):
    rows = [dict(text=words(20)), dict(text=words(5000)), dict(text=words(30))]
    files(tmp_path, {'a.jsonl': lines(*rows)})
    assert .09 <= share(tmp_path/'a.jsonl') <= .11
    for i in range(5):
        assert .09 <= share(files(tmp_path/f'{i}', {'a.txt': 'кот ' * (50 + i), 'b.txt': 'я' * 99})) <= .11
    # decoded strictly: no character is cut
    for text in texts(tmp_path/'4', 'train') + texts(tmp_path/'4', 'validation'): assert '\ufffd' not in text

@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.lists(st.lists(st.integers(1, 900), min_size=1, max_size=6), min_size=1, max_size=6), st.integers(1, 9000))
def test_any_documents_are_divided_well(sizes, limit):
    "Documents of any sizes in pieces of any number, text of two bytes a letter."
    docs = [['я'*n for n in piece] for piece in sizes]
    pieces = [p for d in docs for p in Corpus.from_bytes(d).pieces]
    whole = ''.join(t for d in docs for t in d)
    total = len(whole.encode())
    parts, found = {}, {}
    for s in ('train', 'validation'): parts[s], found = data.split_pieces({'train': pieces}, s, 'it')
    text = {s: ''.join(d.decode() for d in Corpus(p).documents()) for s, p in parts.items()}
    assert text['train'] + text['validation'] == whole and found == {s: len(t.encode()) for s, t in text.items()}
    assert total*.09 <= found['validation'] <= total*.11 + 2                             # a letter is not cut in two
    kept = ''.join(d.decode() for d in Corpus(data.cut_pieces(pieces, limit, limit*9//10)[0]).documents())
    assert whole.startswith(kept) and min(total, limit*9//10 - 2) <= len(kept.encode()) <= limit

# made by the code before documents were cut
OLD = {
    'tree train': (57796, 86, 'be6a732cb14c8c6f'), 'tree validation': (6599, 10, '303f8157ce0197f8'),
    'one.txt train': (21294, 1, 'c51197b89ff98aa6'), 'one.txt validation': (2367, 1, '0232d50526b41ac0'),
    'russian.txt train': (4510, 1, 'b192e1f85972da74'), 'russian.txt validation': (502, 1, 'ac748d4b850e2c5f'),
    'bytes.bin train': (4502, 1, '83894f20339839b9'), 'bytes.bin validation': (501, 1, '5eee8ce22b7be14e'),
    'rows.jsonl train': (32093, 180, '1899ce042cd2fd96'), 'rows.jsonl validation': (3570, 20, '1da889f3b0531a2f'),
    'rows.csv train': (32093, 180, '1899ce042cd2fd96'), 'rows.csv validation': (3570, 20, '1da889f3b0531a2f'),
}

def test_what_was_well_divided_stays_to_the_byte(tmp_path):
    for p in range(12):
        for m in range(8):
            text = f'"Module {m}."\n' + words(40 + (p*8+m)*13 % 90, p*8+m+1) + '\n'
            files(tmp_path, {f'tree/package{p:02d}/module{m}.py': text})
    rows = [words(20 + i % 7, i+1) for i in range(200)]
    files(tmp_path, {'one.txt': words(3000, 3), 'russian.txt': 'кот и '*501 + 'é',
                     'bytes.bin': bytes((i*i) % 256 for i in range(5003)),
                     'rows.jsonl': lines(*[dict(text=r) for r in rows]),
                     'rows.csv': 'id,text\n' + ''.join(f'{i},{r}\n' for i, r in enumerate(rows))})
    for key, want in OLD.items():
        name, split = key.split()
        for rule in (1, 2):
            c = load_corpus(tmp_path/name, split, rule=rule)
            assert (c.text_bytes, c.num_documents, c.fingerprint) == want, (key, rule)

def test_the_standard_library_is_divided_between_its_files():
    pieces = file_pieces(sources.python_files())
    sizes = [p.text_bytes for p in pieces]
    t, v = load_corpus('python'), load_corpus('python', 'validation')
    assert t.num_documents + v.num_documents == len(sizes)
    assert t.text_bytes == sum(sizes[:t.num_documents]) <= sum(sizes)*9//10 < sum(sizes[:t.num_documents+1])
    assert load_corpus('python', rule=1).fingerprint == t.fingerprint

def test_a_run_of_rule_1_finds_its_text_again(tmp_path):
    d = files(tmp_path/'d', {'README.md': 'a'*2000, 'shakespeare.txt': 'b'*320_000, 'wide.txt': 'кот'.encode('utf-16'),
                             'build/x.txt': 'c'*10})
    t, v = load_corpus(d, rule=1), load_corpus(d, 'validation', rule=1)
    assert (t.text_bytes, v.text_bytes, t.rule, load_corpus(d).rule) == (2010, 320_000, 1, 2)
    assert texts(d, rule=1) == ['a'*2000, 'c'*10, 'b'*320_000]
    # the run that it makes there
    files(d, {'run/train.json': json.dumps(dict(settings={}, data={}, config={})), 'run/notes.txt': 'x'*100})
    assert load_corpus(d, rule=1).fingerprint == t.fingerprint
    files(tmp_path, {'a.csv': 'text\nNA\nabc\n'})
    assert texts(tmp_path/'a.csv', rule=1) == ['abc'] and texts(tmp_path/'a.csv') == ['NA', 'abc']
    assert load_corpus(files(tmp_path/'l', {'a.txt': 'x', 'b.txt': 'y'*500}), limit=100, rule=1).text_bytes == 1

NAMED = dict(
    files={'train.txt': 'learn', 'valid.txt': 'check'}, sorted_last={'test.txt': 'check', 'train.txt': 'learn'},
    folders={'train/a.txt': 'learn', 'test/a.txt': 'check'},
    deeper={'data/train/a.txt': 'learn', 'data/val/b.txt': 'check'},
    inside={'wiki.train.raw': 'learn', 'wiki.valid.raw': 'check'}, capitals={'TRAIN.TXT': 'learn', 'Dev.txt': 'check'},
    all_three={'train.txt': 'learn', 'valid.txt': 'check', 'test.txt': 'final'},
    readme={'README.md': 'about it', 'train.txt': 'learn', 'dev.txt': 'check'},
    folders_beside={'training/a.txt': 'learn'*20, 'validation/b.txt': 'check', 'notes.txt': 'n'},
    train_of_tests={'train/test_1.txt': 'learn', 'test/train_1.txt': 'check'})

@pytest.mark.parametrize('case', NAMED)
def test_names_that_say_the_split(case, tmp_path):
    d = files(tmp_path/'d', NAMED[case])
    assert set(''.join(texts(d, 'train'))) <= set('learn') and texts(d, 'validation') == ['check']
    if case == 'all_three': assert texts(d, 'test') == ['final'] and texts(d) == ['learn', 'check', 'final']
    else: assert 'final' not in texts(d)
    if 'README.md' in NAMED[case] or 'notes.txt' in NAMED[case]:
        assert 'named for no split (1: ' in load_corpus(d).notes[0]

@pytest.mark.parametrize('names', [('train.py', 'test.py', 'model.py'), ('train.py', 'test.py'),
                                   ('train.txt', 'valid.txt', 'other.txt'), ('train/a.txt', 'test/a.txt', 'more/a.txt'),
                                   ('train-1.txt', 'train-2.txt'), ('test.txt', 'valid.txt'),
                                   ('src/train.py', 'src/test.py', 'README.md'), ('trains.txt', 'detest.txt'),
                                   ('train_valid.txt', 'test.txt')])
def test_names_that_say_nothing(names, tmp_path):
    d = files(tmp_path/'d', {n: words(60, i+1) for i, n in enumerate(names)})
    assert .09 <= share(d) <= .11 and len(texts(d)) == len(names) and not load_corpus(d).notes

def test_names_of_files_of_rows(tmp_path):
    def row(*texts): return lines(*[dict(text=t) for t in texts])
    # the Hub's convention: one name is enough
    d = files(tmp_path/'a', {'train.jsonl': row('a', 'b'), 'dev.jsonl': row('c'), 'more.jsonl': row('d')})
    assert texts(d, 'train') == ['a', 'b'] and texts(d, 'validation') == ['c']
    assert 'named for no split (1: more.jsonl)' in load_corpus(d).notes[0]
    d = files(tmp_path/'b', {'data/old-00000-of-00001.jsonl': row('a'), 'data/new-00000-of-00001.jsonl': row('b')})
    assert texts(d, 'old') == ['a'] and texts(d, 'new') == ['b']
    card = ('---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: one.csv\n'
            '  - split: test\n    path: two.csv\n---\n')
    d = files(tmp_path/'c', {'README.md': card, 'one.csv': 'text\nNA\n' + 'a\n'*98, 'two.csv': 'text\nb\n'})
    assert texts(d, 'train') == ['NA'] + ['a']*98 and texts(d, 'test') == ['b']
    streamed = Stream(d)                                          # as it is read, so it is streamed
    assert [row['text'] for row in streamed.data] == ['NA'] + ['a']*98 and list(streamed.splits) == ['train', 'test']

@pytest.mark.parametrize('sizes', [(10, 50_000), (300, 300, 5000), (9_000, 10, 10, 5_000), (40,)*500])
@pytest.mark.parametrize('limit', [500, 5_000])
def test_a_limit_is_met_to_within_a_tenth(sizes, limit, tmp_path):
    d = files(tmp_path/'d', {f'{i:03d}.txt': words(n)[:n] for i, n in enumerate(sizes)})
    c, whole = load_corpus(d, limit=limit), load_corpus(d)
    assert min(limit, whole.text_bytes)*.9 <= c.text_bytes <= limit
    assert b''.join(whole.documents()).startswith(b''.join(c.documents()))
    assert c.sizes['train'] == c.text_bytes

def test_a_limit_of_stories():
    from pico.stories import story
    stories = [story(i, 0).text.encode() for i in range(60)]
    told, ends = b''.join(stories), set(itertools.accumulate(map(len, stories)))
    for limit in (1, 300, 1500, 2000, 3000, 5000, 8000, 20_000, 50_000):
        c = load_corpus('stories', limit=limit)
        text = b''.join(c.documents())
        assert limit*.9 - 1 <= len(text) <= limit and told.startswith(text)
        assert (c.floor or 0) > 0 if len(text) in ends else c.floor is None         # of whole stories it is known
    assert load_corpus('stories', limit=2000, rule=1).num_documents == 1
    assert load_corpus('stories', limit=2000).num_documents == 2

# CSV

@pytest.mark.parametrize('ending, sep', [('csv', ','), ('tsv', '\t'), ('TSV', '\t'), ('Csv', ','), ('csv.gz', ',')])
def test_csv_is_text_as_it_stands(ending, sep, tmp_path):
    values = ['NA', 'null', 'None', 'nan', 'N/A', '', '007', '1e5', 'true', '2020-01-01', ' x ', '-', 'é',
              'a "word" here']
    def quoted(v): return f'"{v.replace(chr(34), chr(34)*2)}"' if '"' in v else v
    text = f'id{sep}text\n' + ''.join(f'{i}{sep}{quoted(v)}\n' for i, v in enumerate(values))
    f = tmp_path/f'a.{ending}'
    f.write_bytes(gzip.compress(text.encode()) if ending.endswith('gz') else text.encode())
    # an empty document has nothing to read
    assert texts(f) == [v for v in values if v]
    assert texts(f, column='id') == [str(i) for i in range(len(values))]
    if not ending.endswith('gz'):
        assert texts(files(tmp_path/'d', {f'a.{ending}': text, 'README.md': 'x'})) == [v for v in values if v]

@pytest.mark.parametrize('values', [['1', '2'], ['1.0', '2'], ['True', 'False'], ['2020-01-01', 'NA'], ['NA', 'NA'],
                                    ['1']*9990 + ['x']*30])
def test_columns_that_look_like_something_else(values, tmp_path):
    (tmp_path/'a.csv').write_text('text,n\n' + ''.join(f'{v},{v}\n' for v in values))
    assert texts(tmp_path/'a.csv') == values == texts(tmp_path/'a.csv', column='n')

def test_a_spreadsheets_unicode_text(tmp_path):
    (tmp_path/'a.tsv').write_bytes('text\tid\nкот\t1\n'.encode('utf-16'))
    (tmp_path/'b.csv').write_bytes(codecs.BOM_UTF8 + 'text,id\nкот,1\n'.encode())
    (tmp_path/'c.jsonl').write_bytes('{"text": "кот"}\n'.encode('utf-16'))
    for name in ('a.tsv', 'b.csv', 'c.jsonl'): assert texts(tmp_path/name) == ['кот']

# JSON

ODD = {'half a pair': '{"text": "\\ud83d"}', 'a number': '{"text": 7}', 'a truth value': '{"text": true}',
       'a list': '{"text": ["a"]}', 'a date is text': '{"text": "2020-01-01"}',
       'broken': '{"text": "a', 'a bare number': '7', 'a bare list': '["text"]', 'no utf-8': b'{"text": "\xff"}',
       'deep': '[' * 100_000, 'null': '{"text": null}', 'another column': '{"id": 1}', 'blank': '  '}

@pytest.mark.parametrize('case', ODD)
@pytest.mark.parametrize('ending', ['jsonl', 'ndjson', 'jsonl.gz'])
def test_one_odd_row(case, ending, tmp_path, capfd):
    good, odd = [f'row {i}' for i in range(200)], ODD[case]
    odd = odd if isinstance(odd, bytes) else odd.encode()
    before, after = (lines(*[dict(text=t) for t in part]).encode() for part in (good[:100], good[100:]))
    text = before + odd + b'\n' + after
    f = tmp_path/f'a.{ending}'
    f.write_bytes(gzip.compress(text) if ending.endswith('gz') else text)
    extra = ['2020-01-01'] if case == 'a date is text' else []
    assert texts(f) == good[:100] + extra + good[100:]
    notes = load_corpus(f).notes
    if case in ('a date is text', 'null', 'another column', 'blank'): assert notes == []
    else:
        assert len(notes) == 1 and f'left out of a.{ending}: rows that cannot be read (1 of 201: line 101 ' in notes[0]
    out, err = capfd.readouterr()
    assert out + err == ''

def test_more_than_one_odd_row_in_a_hundred(tmp_path):
    f = tmp_path/'a.jsonl'
    rows = [dict(text=f'row {i}') for i in range(198)]
    f.write_text(lines(*rows, 'x', 'y'))
    assert len(texts(f)) == 198
    assert 'rows that cannot be read (2 of 200: line 199 is not JSON, line 200 ' in load_corpus(f).notes[0]
    f.write_text(lines(*rows, 'x', 'y', dict(text=1)))
    fails(f, 'a.jsonl cannot be loaded', 'line 199 is not JSON', '3 of 201 rows')
    f.write_text(lines(dict(text=1), dict(text=2)))
    fails(f, "column 'text'", 'holds a number, not text')
    f.write_text(lines(dict(body='a', id=1)))
    fails(f, "no column 'text'", 'body, id')
    f.write_text(lines([1], [2]))
    fails(f, 'line 1 is a list and no row')
    (tmp_path/'b.jsonl.gz').write_bytes(gzip.compress(lines(*rows).encode())[:-20])
    fails(tmp_path/'b.jsonl.gz', 'b.jsonl.gz cannot be loaded')

@pytest.mark.parametrize('values', [['2020-01-01', '2021-12-31'], ['2020-01-01T10:00:00Z'],
                                    ['10:30', '2020-01-01 10:00:00'], ['2020-01-01', 'not a date']])
@pytest.mark.parametrize('kind', ['jsonl', 'json', 'lines in json', 'texts in json'])
def test_dates_are_the_text_they_are(values, kind, tmp_path):
    f = tmp_path/('a.jsonl' if kind == 'jsonl' else 'a.json')
    rows = [dict(text=v) for v in values]
    f.write_text({'json': json.dumps(rows), 'texts in json': json.dumps(values)}.get(kind) or lines(*rows))
    assert texts(f) == values

def test_a_list_in_a_file_of_lines_and_a_mixture_in_a_list(tmp_path):
    (tmp_path/'a.jsonl').write_text(json.dumps([dict(text='a'), dict(text='b')]))
    assert texts(tmp_path/'a.jsonl') == ['a', 'b']
    (tmp_path/'a.json').write_text(json.dumps([dict(text=f'{i}') for i in range(150)] + [dict(text=7)]))
    assert len(texts(tmp_path/'a.json')) == 150 and 'line 151 holds a number' in load_corpus(tmp_path/'a.json').notes[0]

@pytest.mark.parametrize('odd', ['{"text": 7}', '7', '{"text": [1]}'])
def test_one_odd_row_in_a_list(odd, tmp_path):
    good, f = [f'row {i}' for i in range(200)], tmp_path/'a.json'
    f.write_text('[' + ', '.join([json.dumps(dict(text=t)) for t in good] + [odd]) + ']')
    assert texts(f) == good and '(1 of 201: line 201 ' in load_corpus(f).notes[0]

def test_a_broken_list_is_refused(tmp_path):
    (tmp_path/'a.json').write_text('[{"text": "a"}, {"te')
    fails(tmp_path/'a.json', 'a.json cannot be loaded', 'check that it holds what its name says')

def test_large_files_of_lines_are_kept_in_the_cache(tmp_path, monkeypatch):
    f = tmp_path/'a.jsonl'
    f.write_text(lines(*[dict(text=f'row {i}') for i in range(300)], 'odd'))
    want = load_corpus(f)
    monkeypatch.setattr(pico.rows, 'KEEP', 1000)
    c = load_corpus(f)
    assert c.fingerprint == want.fingerprint and c.notes == want.notes and isinstance(c.pieces[0].data, Path)
    monkeypatch.setattr(pico.rows, 'json_texts', lambda *a: pytest.fail('the cache was not used'))
    assert load_corpus(f).fingerprint == want.fingerprint and load_corpus(f).notes == want.notes
    monkeypatch.undo()
    f.write_text(lines(*[dict(text=f'now {i}') for i in range(300)]))
    # another file, another name in the cache
    assert texts(f)[0] == 'now 0'

def test_a_cache_that_cannot_be_written_is_not_blamed_on_the_data(tmp_path, monkeypatch):
    import datasets
    (tmp_path/'file').write_text('')
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path/'file'/'below')
    fails(files(tmp_path, {'a.csv': 'text\nhello\n'})/'a.csv',
          f"the cache in {tmp_path/'file'/'below'} cannot be written", 'set HF_HOME')

# Types that are bytes by what they say

@pytest.mark.parametrize('kind', ['uint8 list', 'large uint8 list', 'binary'])
def test_bytes_where_the_type_says_so(kind, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    values = [None, b'', b'ab', 'é'.encode(), None, b'\x00\xff']
    make = dict([('uint8 list', pa.list_(pa.uint8())), ('large uint8 list', pa.large_list(pa.uint8())),
                 ('binary', pa.binary())])[kind]
    column = pa.array([v if v is None or kind == 'binary' else list(v) for v in values], make)
    pq.write_table(pa.table(dict(text=column)), tmp_path/'a.parquet')
    assert list(load_corpus(tmp_path/'a.parquet', 'all').documents()) == [v for v in values if v]
    part = Corpus(column_pieces(_table(column[2:5]), 'text', 'it'))
    assert list(part.documents()) == [b'ab', 'é'.encode()]

def _table(column):
    import datasets
    import pyarrow as pa
    return datasets.Dataset(pa.table(dict(text=column)))

@pytest.mark.parametrize('kind', ['int64 list', 'int64', 'double', 'bool', 'struct', 'date'])
def test_what_is_no_text_is_refused(kind, tmp_path):
    import datetime
    import pyarrow as pa
    import pyarrow.parquet as pq
    value = {'int64 list': [1, 2], 'int64': 7, 'double': 1.5, 'bool': True, 'struct': dict(a=1),
             'date': datetime.date(2020, 1, 1)}[kind]
    pq.write_table(pa.table(dict(text=pa.array([value, value]))), tmp_path/'a.parquet')
    fails(tmp_path/'a.parquet', "column 'text' of", 'not text: choose a column of text')

# Folders

RUN = json.dumps(dict(settings={}, data={}, config={}, check='00'))

def test_what_a_folder_leaves_out(tmp_path):
    d = files(tmp_path/'d', {'a.txt': words(100), 'sub/b.txt': words(50, 2), '.git/config': 'x', '.hidden.txt': 'x',
                             'node_modules/p/index.js': 'x', '__pycache__/a.txt': 'x',
                             'env/pyvenv.cfg': '', 'env/lib/x.py': 'x', 'venv/x.py': 'x', 'build/x.txt': 'x',
                             'dist/x.txt': 'x', 'p.egg-info/x.txt': 'x', 'cache/CACHEDIR.TAG': 'x',
                             'runs/one/train.json': RUN, 'runs/one/config.json': '{}',
                             'runs/one/metrics.jsonl': 'x'*5000, 'runs/two/checkpoints/00000010/step.json': '{}',
                             'runs/two/README.md': 'x', 'x.png': b'\x89PNG\0', 'y.zip': b'PK', 'empty.txt': ''})
    (d/'link').symlink_to(tmp_path)
    (d/'a link.txt').symlink_to(d/'sub'/'b.txt')
    (d/'gone.txt').symlink_to(d/'nowhere')
    c = load_corpus(d, 'all')
    assert sorted(texts(d)) == sorted([words(100), words(50, 2), words(50, 2)])
    note, = c.notes
    assert '\n' not in note and note.isascii() and note.startswith(f'left out of {d}: ')
    for part in ('hidden (2: .git, .hidden.txt)', 'installed packages (1: node_modules)',
                 'cache (2: __pycache__, cache)', 'virtual environment (2: env, venv)',
                 'build folder (3: build, dist, p.egg-info)',
                 'run directory (2: runs/one, runs/two)', 'not text (1: x.png)', 'packed (1: y.zip)',
                 'empty (1: empty.txt)', 'link to a folder (1: link)', 'broken link (1: gone.txt)'):
        assert part in note, (part, note)

@pytest.mark.skipif(sys.platform == 'win32', reason='no such names there')
def test_names_are_counted_and_only_the_first_are_told(tmp_path):
    d = files(tmp_path/'d', {'a.txt': 'x'*100} | {f'{i:03d}.bin': b'\0' for i in range(200)} | {'new\nline.bin': b'\0'})
    note, = load_corpus(d).notes
    assert 'not text (201: 000.bin, 001.bin, 002.bin and 198 more)' in note
    for f in d.glob('0*'): f.unlink()
    for f in d.glob('1*'): f.unlink()
    assert '\n' not in load_corpus(d).notes[0]

def test_a_run_inside_its_corpus_goes_on(tmp_path):
    d = files(tmp_path/'d', {'a.txt': words(500)})
    before = load_corpus(d)
    # killed before its first checkpoint
    files(d, {'run/train.json': RUN, 'run/config.json': '{}'})
    assert load_corpus(d).fingerprint == before.fingerprint
    files(d, {'run/metrics.jsonl': 'x'*90_000, 'run/README.md': 'x'*9000, 'run/checkpoints/00000001/step.json': '{}'})
    assert load_corpus(d).fingerprint == before.fingerprint
    files(d, {'deep/er/model/checkpoints/00000001/x.txt': 'y'})
    assert load_corpus(d).fingerprint == before.fingerprint

def test_rows_called_train_are_no_run(tmp_path):
    def row(t): return json.dumps([dict(text=t)])
    d = files(tmp_path/'d', {'sub/train.json': row('a'), 'sub/test.json': row('b')})
    assert texts(d, 'train') == ['a'] and texts(d, 'validation') == ['b']

@pytest.mark.parametrize('settings', [{'package.json': json.dumps(dict(name='x', more=['y'*5000]), indent=1)},
                                      {'package-lock.json': json.dumps(dict(a='x'*2_000_000), indent=1)},
                                      {'a/tsconfig.json': json.dumps(dict(a='y'*5000))}])
def test_settings_do_not_make_rows_of_text(settings, tmp_path):
    d = files(tmp_path/'d', {'a.txt': words(100)} | settings)
    assert texts(d) == [words(100)] and f'rows beside text (1: {next(iter(settings))})' in load_corpus(d).notes[0]

def test_rows_and_text_in_one_folder(tmp_path):
    rows = lines(*[dict(text=words(50, i)) for i in range(20)])
    d = files(tmp_path/'a', {'README.md': 'about', 'a.jsonl': rows})
    assert len(texts(d)) == 20 and 'text beside rows (1: README.md)' in load_corpus(d).notes[0]
    d = files(tmp_path/'b', {'a.txt': words(5000), 'a.jsonl': rows, 'b.csv': 'body\nhello\n'})
    assert texts(d) == [words(5000)] and 'rows beside text (2: a.jsonl, b.csv)' in load_corpus(d).notes[0]
    assert texts(d, column='body') == ['hello']                                          # a column says what is meant
    d = files(tmp_path/'c', {'README.md': 'about', 'a.csv': 'story,id\n' + 'abc,1\n'*50})
    fails(d, "no column 'text'", 'story, id')
    assert texts(d, column='story') == ['abc']*50
    d = files(tmp_path/'d', {'a.jsonl': rows, 'b.csv': 'text\nhello\n',
                             'package.json': json.dumps(dict(a='x'*90_000), indent=1)})
    assert len(texts(d)) == 20 and 'rows unlike those used (2: b.csv, package.json)' in load_corpus(d).notes[0]
    d = files(tmp_path/'e', {'a.csv': 'text\nhello\n', 'b.TSV': 'text\tid\na,b\t1\n' + 'c\t2\n'*9})
    assert texts(d) == ['a,b'] + ['c']*9

def test_nothing_left_says_what_there_was(tmp_path):
    fails(files(tmp_path/'d', {'build/a.txt': 'x', 'x.png': b'\0'}), 'holds no text', 'build folder (1: build)',
          'not text (1: x.png)')

@pytest.mark.parametrize('codec', ['utf-16', 'utf-16-le', 'utf-16-be', 'utf-32'])
def test_wide_characters_with_a_byte_order_mark(codec, tmp_path):
    text = 'Жили-были 🐢 старик\n'*50
    raw = ({'utf-16-le': codecs.BOM_UTF16_LE, 'utf-16-be': codecs.BOM_UTF16_BE}.get(codec, b'')) + text.encode(codec)
    d = files(tmp_path/'d', {'a.txt': raw, 'b.txt': 'plain', 'c.bin': codecs.BOM_UTF16_LE + b'\x00\xd8',
                             'd.bin': codecs.BOM_UTF16_LE + b'a\0\0\0b\0'})
    assert texts(d) == [text, 'plain']
    left, turned = load_corpus(d).notes
    assert 'not text (2: c.bin, d.bin)' in left and 'UTF-16 or UTF-32 (1: a.txt)' in turned
    assert texts(d/'a.txt') == [text] and 'turned into UTF-8' in load_corpus(d/'a.txt').notes[0]
    assert list(load_corpus(d/'c.bin', 'all').documents()) == [b'\xff\xfe\x00\xd8']
    assert load_corpus(d/'a.txt', rule=1, split='all').text_bytes == len(raw)

def test_what_may_not_be_read_is_left_out(tmp_path, monkeypatch):
    d = files(tmp_path/'d', {'a.txt': 'x'*100, 'secret.txt': 'y', 'secret.csv': 'text\ny\n', 'closed/b.txt': 'z'})
    plain_open, plain_scandir = open, os.scandir
    def no(path, *a, **kw):
        if 'secret' in str(path): raise PermissionError(13, 'Permission denied', str(path))
        return plain_open(path, *a, **kw)
    def scandir(path):
        if 'closed' in str(path): raise PermissionError(13, 'Permission denied', str(path))
        return plain_scandir(path)
    monkeypatch.setattr('builtins.open', no)
    monkeypatch.setattr(os, 'scandir', scandir)
    c = load_corpus(d, 'all')
    assert list(c.documents()) == [b'x'*100] and 'unreadable (3: closed, secret.csv, secret.txt)' in c.notes[0]

# A file that changes, copies of a corpus, paths and homes

@pytest.mark.parametrize('left', [0, 1, 50_000])
def test_a_file_cut_short_while_it_is_read(left, tmp_path):
    "In a process of its own: a mapped file would end it with a bus error."
    code = '''
import sys
from pico.batches import batch
from pico.sources import load_corpus
from pico.core import InputError
c = load_corpus(sys.argv[1])
batch(c, 0, 4, 512, 8)
with open(sys.argv[1], 'r+b') as f: f.truncate(int(sys.argv[2]))
for ask in (lambda: [batch(c, s, 4, 512, 8) for s in range(400)], lambda: c.fingerprint, lambda: list(c.documents())):
    try: ask()
    except InputError as e: print(e)
'''
    f = files(tmp_path, {'a.txt': words(30_000)})/'a.txt'
    r = subprocess.run([sys.executable, '-c', code, str(f), str(left)], capture_output=True, text=True)
    assert r.returncode == 0 and r.stderr == '', r.stderr[-500:]
    said = r.stdout.splitlines()
    assert len(said) == 3, r.stdout
    for line in said: assert 'has become shorter while it was used' in line and 'must not change' in line

def test_a_saved_data_set_cut_short_while_it_is_read(tmp_path):
    import datasets
    datasets.Dataset.from_dict(dict(text=[words(100, i) for i in range(400)])).save_to_disk(tmp_path/'d')
    c = load_corpus(tmp_path/'d')
    batch(c, 0, 4, 512, 8)
    file, = (tmp_path/'d').glob('*.arrow')
    with open(file, 'r+b') as f: f.truncate(5000)
    for ask in (lambda: batch(c, 1, 4, 512, 8), lambda: c.fingerprint, lambda: list(c.documents())):
        with pytest.raises(InputError, match='has become shorter while it was used'): ask()

def test_files_are_read_where_the_system_has_no_pread(tmp_path, monkeypatch):
    f = files(tmp_path, {'a.txt': words(3000)})/'a.txt'
    want = load_corpus(f).fingerprint
    monkeypatch.setattr(data, 'READ_AT', None)
    assert load_corpus(f).fingerprint == want
    c = load_corpus(f)
    os.truncate(f, 100)
    with pytest.raises(InputError, match='has become shorter'): c.read(0, 5000)

def test_a_file_that_is_gone(tmp_path):
    d = files(tmp_path/'d', {f'{i:03d}.txt': words(100, i) for i in range(80)})
    c = load_corpus(d)
    (d/'000.txt').unlink()
    with pytest.raises(InputError, match='can no longer be read'): c.read(0, 10)

def _rows(corpus, out): out.put(batch(corpus, 3, 2, 50, 3)[0].numpy())

def test_a_corpus_can_be_sent_to_another_process(tmp_path):
    import multiprocessing
    f = files(tmp_path, {'a.txt': words(500), 'a.jsonl': lines(*[dict(text=words(50, i)) for i in range(9)])})
    for c in (load_corpus(f/'a.txt'), load_corpus(f/'a.jsonl'), Corpus.from_bytes([b'abc'*99, b'd'*99]),
              load_corpus('stories', limit=5000)):
        c.read(0, 5)
        again = pickle.loads(pickle.dumps(c))
        assert again.fingerprint == c.fingerprint and again.notes == c.notes
        assert torch.equal(batch(again, 3, 2, 50, 3)[0], batch(c, 3, 2, 50, 3)[0])
    c, spawn = load_corpus(f/'a.txt'), multiprocessing.get_context('spawn')
    out = spawn.Queue()
    worker = spawn.Process(target=_rows, args=(c, out))
    worker.start()
    assert np.array_equal(out.get(timeout=60), batch(c, 3, 2, 50, 3)[0].numpy())
    worker.join()

def test_how_a_path_is_spelled_does_not_matter(tmp_path, monkeypatch):
    files(tmp_path, {'here/corpus.txt': words(500), 'here/sub/x.txt': 'x'})
    monkeypatch.chdir(tmp_path/'here')
    monkeypatch.setenv('HOME', str(tmp_path/'here'))
    spelled = ['corpus.txt', './corpus.txt', 'sub/../corpus.txt', str(tmp_path/'here'/'corpus.txt'), '~/corpus.txt',
               Path('corpus.txt')]
    found = [load_corpus(s).identity for s in spelled]
    monkeypatch.chdir(tmp_path)
    found.append(load_corpus('here/corpus.txt').identity)
    assert all(i == found[0] for i in found) and found[0]['source'] == str(tmp_path/'here'/'corpus.txt')
    assert found[0].keys() == dict(source=0, rule=0, bytes=0, documents=0, fingerprint=0).keys()
    assert load_corpus('stories', limit=3000).identity['source'] == 'stories'
    assert Corpus.from_bytes(b'abc', name='mine').identity['source'] == 'mine'

@pytest.mark.skipif(sys.platform == 'win32', reason='it has no pwd')
@pytest.mark.parametrize('home', ['', 'nowhere'])
def test_without_a_home_directory(home, tmp_path):
    code = '''
import os, pwd
def nobody(*a): raise KeyError('unknown user')
pwd.getpwuid = pwd.getpwnam = nobody
from pico.sources import load_corpus
from pico.core import InputError
c = load_corpus('stories', limit=1_000_001)
print(c.text_bytes, os.listdir('.'))
for source in ('~/x', '~nosuchuser/x', '~nosuchuser/x.csv', '~'):
    try: load_corpus(source)
    except InputError as e: print(e)
'''
    env = {k: v for k, v in os.environ.items() if k not in ('HOME', 'PICO_CACHE', 'XDG_CACHE_HOME')}
    if home: env['HOME'] = '/dev/null/none'
    env['PYTHONPATH'] = os.pathsep.join([os.getcwd(), env.get('PYTHONPATH', '')])
    (tmp_path/'w').mkdir()
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env, cwd=tmp_path/'w')
    assert r.returncode == 0, r.stderr[-800:]
    first, *rest = r.stdout.splitlines()
    assert first.endswith(' []') and int(first.split()[0]) > 900_000 and len(rest) == 4
    assert all('does not exist: give a file' in line for line in rest)

@pytest.mark.parametrize('source', ['~nosuchuser/x', '~nosuchuser', '~nosuchuser/a.jsonl'])
def test_a_home_that_nobody_has(source): fails(source, f'{source} does not exist: give a file')

# Streams

def rows_of(stream):
    "What a stream reads, as text: the documents of its first epoch."
    stream.prepare(1, 50, 1)
    lane, = stream.lanes.values()
    while not lane.epoch: lane.fill(len(lane.values) + 1)
    kinds, values = np.frombuffer(bytes(lane.kinds), np.uint8), bytes(lane.values)
    ends = np.flatnonzero(kinds == data.CLOSE)
    # the last is the first once more
    return [values[a+1:b].decode() for a, b in zip([0, *(ends + 1)], ends, strict=False)][:-1]

def stream_fails(source, *parts, **kw):
    with pytest.raises(InputError) as e: rows_of(Stream(str(source), **kw))
    assert '\n' not in str(e.value) and all(p in str(e.value) for p in parts), str(e.value)

@pytest.mark.parametrize('value', [7, True, 10**12, 1.5, [65, 66], {'a': 1}])
@pytest.mark.parametrize('ending', ['jsonl', 'json', 'parquet'])
def test_streamed_columns_that_are_no_text(value, ending, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    f = tmp_path/f'a.{ending}'
    if ending == 'parquet': pq.write_table(pa.table(dict(text=[value]*3)), f)
    else: f.write_text(json.dumps([dict(text=value)]*3) if ending == 'json' else lines(*[dict(text=value)]*3))
    stream_fails(f, "column 'text' of", 'not text: choose a column of text with column=')

def test_streamed_bytes_where_the_type_says_so(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    pq.write_table(pa.table(dict(text=pa.array([[97, 98], None, [99]], pa.list_(pa.uint8())),
                                 b=pa.array([b'ab', None, b'c']))), tmp_path/'a.parquet')
    for column in ('text', 'b'): assert rows_of(Stream(str(tmp_path/'a.parquet'), column)) == ['ab', 'c']
    stream_fails(tmp_path/'a.parquet', "no column 'c'", 'text, b', column='c')

@pytest.mark.parametrize('ending', ['csv', 'tsv', 'TSV'])
def test_streamed_csv_is_text_as_it_stands(ending, tmp_path):
    values = ['NA', 'null', '007', 'true', '2020-01-01', '', 'a, b']
    sep = ',' if ending == 'csv' else '\t'
    quoted = [f'"{v}"' if sep in v else v for v in values]
    (tmp_path/f'a.{ending}').write_text(f'text{sep}id\n' + ''.join(f'{v}{sep}{i}\n' for i, v in enumerate(quoted)))
    assert rows_of(Stream(str(tmp_path/f'a.{ending}'))) == [v for v in values if v]

def test_streamed_lines_pass_over_odd_rows(tmp_path):
    good = [f'row {i}' for i in range(300)]
    rows = lines(*[dict(text=t) for t in good], '{"text": "\\ud83d"}', dict(text='2020-01-01'))
    settings = json.dumps(dict(a='x'*90_000), indent=1)
    s = Stream(str(d := files(tmp_path/'d', {'a.jsonl': rows, 'package.json': settings, 'README.md': 'about'})))
    assert rows_of(s) == [t for t in good + ['2020-01-01'] if not held_out(t.encode())]
    assert 'rows unlike those used (1: package.json)' in s.notes[0] and s.identity['source'] == str(d)
    assert s.notes[1] == 'left out of a.jsonl: rows that cannot be read (1: line 301 holds half of a surrogate pair)'
    (tmp_path/'b.jsonl').write_text(lines(*['x']*50, *[dict(text=t) for t in good]))
    stream_fails(tmp_path/'b.jsonl', 'more than one in a hundred')
    stream_fails(files(tmp_path/'t', {'a.txt': words(500)}), 'folder of text and needs no streaming')
    stream_fails(d, "no column 'body'", 'text', column='body')

def test_a_stream_of_rule_1_goes_on(tmp_path):
    "Its state is that of the reader it began with."
    f = files(tmp_path, {'a.jsonl': lines(*[dict(text=words(20, i)) for i in range(50)])})/'a.jsonl'
    old, new = Stream(str(f), rule=1), Stream(str(f))
    assert old.fingerprint == new.fingerprint and old.identity['rule'] == 1
    assert rows_of(old) == rows_of(new)

# One interface for both, and a kind of source of one's own

def test_a_corpus_and_a_stream_answer_the_same_questions(tmp_path):
    rows = lines(*[dict(text=words(30, i)) for i in range(400)])
    name = str(files(tmp_path, {'a.jsonl': rows})/'a.jsonl')
    for streaming in (False, True):
        source = as_source(name, streaming=streaming)
        assert as_source(source) is source and source.streaming == streaming and source.prepare(4, 32, 2) is source
        source.ready(micro=3, step=1)
        shapes = [(x.shape, y.shape) for x, y in source.batches()]
        assert shapes == [((4, 32), (4, 32, 2))]*3
        held = source.validation(500)
        assert held.text_bytes >= 500 and source.sample(40, held).shape == (40,) and source.sample(40).shape == (40,)
        assert all(isinstance(line, str) for line in source.summary(held) + source.summary())
        again = as_source(name, streaming=streaming).prepare(4, 32, 2)
        again.load_state_dict(source.state_dict())
        for s in (source, again): s.ready(1, 2)
        assert torch.equal(source.batches()[0][0], again.batches()[0][0])
        assert {'source', 'rule', 'fingerprint'} <= source.identity.keys() and source.floor is None

def test_only_a_corpus_knows_how_long_it_is(tmp_path):
    d = files(tmp_path, {'a.jsonl': lines(*[dict(text=words(30, i)) for i in range(40)])})
    assert as_source(d/'a.jsonl').prepare(4, 32, 2).steps(1, 4) > 1
    stream = as_source(d/'a.jsonl', streaming=True).prepare(4, 32, 2)
    for asks in (lambda: stream.steps(1, 4), lambda: as_source(stream, limit=100)):
        with pytest.raises(InputError, match='is streamed, so nobody knows how long it is'): asks()

def test_a_new_kind_of_source_is_a_small_class(monkeypatch):
    class Letters(sources.Source):
        def fits(self): return self.name.startswith('letters:')
        def open(self): return {'train': Corpus.from_bytes([c * 100 for c in self.name.split(':')[1]]).pieces}
    monkeypatch.setattr(sources, 'SOURCES', [Letters, *sources.SOURCES])
    assert texts('letters:ab') == ['a'*100, 'b'*100] and .09 <= share('letters:ab') <= .11
    assert load_corpus('letters:ab', limit=50).text_bytes == 50
    fails('letters:ab', "no split 'test'", split='test')

# TinyStories by its name on the Hub: the layout of the real one, which has not been tried

@pytest.fixture(scope='module')
def tiny_stories(tmp_path_factory):
    "A data set as the Hub keeps it: 20 numbered shards of `train`, one of `validation`, a column `text`, a README."
    import datasets
    d = tmp_path_factory.mktemp('hub')/'tiny'
    (d/'data').mkdir(parents=True)
    def story(i): return f'One day, child number {i} found a box. ' + words(60, i)
    def shard(name, a, b):
        datasets.Dataset.from_dict(dict(text=[story(i) for i in range(a, b)])).to_parquet(d/'data'/name)
    for i in range(20): shard(f'train-{i:05d}-of-00020-2d5a1467fff1081b.parquet', 10*i, 10*i + 10)
    shard('validation-00000-of-00001-869c898b519ad725.parquet', 200, 222)
    (d/'README.md').write_text('---\ndataset_info:\n  features:\n  - name: text\n    dtype: string\n'
                               '  splits:\n  - name: train\n    num_examples: 200\n'
                               '  - name: validation\n    num_examples: 22\n---\n')
    return d, [story(i).encode() for i in range(222)]

def test_tiny_stories_by_its_name(tiny_stories, monkeypatch, tmp_path):
    "Stored, streamed, and as a folder that was downloaded: the same stories, in the splits that the data set has."
    import datasets
    import huggingface_hub
    folder, stories = tiny_stories
    real = datasets.load_dataset
    monkeypatch.setattr(huggingface_hub.HfApi, 'dataset_info', lambda *a, **k: None)
    name, asked = 'roneneldan/TinyStories', []
    def load_dataset(what, *args, **how):
        asked.append(what)
        return real(str(folder) if what == name else what, *args, **how)
    monkeypatch.setattr(datasets, 'load_dataset', load_dataset)
    for source in (name, str(folder)):
        assert list(load_corpus(source, 'train').documents()) == stories[:200]
        assert list(load_corpus(source, 'validation').documents()) == stories[200:]
    held = Stream(name).validation(3000)
    assert list(held.documents())[:5] == stories[200:205]
    stream = Stream(name)
    stream.prepare(4, 64, 2, seed=0)
    read = bytearray()
    for step in range(40):
        stream.ready(1, step)
        for x, _ in stream.batches(): read += bytes(x.flatten().tolist())
    told = {int(n) for n in re.findall(rb'child number (\d+) found', bytes(read))}
    assert len(told) > 10 and max(told) < 200                               # nothing of the held-out split
    assert asked.count(name) >= 3                                           # stored, held out and streamed

def test_an_empty_name_is_no_source(tmp_path, monkeypatch):
    (tmp_path/'secret.txt').write_text('a text ' * 99)
    monkeypatch.chdir(tmp_path)
    for load in (load_corpus, as_source):
        with pytest.raises(InputError, match="'' is no source"): load('')

@pytest.mark.parametrize('head', ['', '\n\n'])
def test_csv_with_long_texts_and_empty_lines_before_is_read(tmp_path, head):
    (tmp_path/'t.csv').write_text(head + 'id,text\n' + '\n'.join(f'{i},"{"word, " * 40_000}"' for i in range(3)))
    assert load_corpus(tmp_path/'t.csv', 'all').text_bytes == 3 * 240_000
