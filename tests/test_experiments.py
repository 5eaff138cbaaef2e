"The experiments run, go on where they were stopped, and say how their results were made. Chapter 21's have a file too."
import ast
import importlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import EXPERIMENTS, ROOT, lines

FILES = sorted((EXPERIMENTS/'results').iterdir())
HOW = {'command', 'commit', 'data', 'device', 'date', 'torch'}

@pytest.fixture
def load(monkeypatch):
    "Imports a script by its name."
    monkeypatch.syspath_prepend(EXPERIMENTS)
    return importlib.import_module

@pytest.fixture
def common(load): return load('common')

# --- a few steps of each

def twice(main, args, out, capsys, *, kept=True):
    "The lines that a command writes. Asked again it adds nothing, and measures nothing if what it has is kept."
    args = [*args, '--smoke', '--out', str(out)]
    main(args)
    first = lines(out)
    for row in first:
        assert row.keys() >= HOW and row['command'].endswith('--smoke') and str(out.parent) not in json.dumps(row)
    capsys.readouterr()
    if kept:
        main(args)
        assert lines(out) == first and capsys.readouterr().out == ''
    return first

@pytest.mark.parametrize('script, args, names', [
    ('attention_costs', [], ['cpu']),
    ('averages', [], ['stories-wsd-0']),
    ('remember', [], ['stories: all three, 1 x 256, width 96, seed 0, 0.4 s']),
    ('learned', [], ['nano, stories, 0.005 minutes of 2 threads, 2 x 128, repeats 0.15']),
    ('learned', ['--router', 'none'],
     ['nano, stories, 0.005 minutes of 2 threads, 2 x 128, repeats 0.15, router none']),
    ('learned', ['--bundled'], ['the model that comes along']),
    ('others', [], ['stories, pico, 0.2 s, seed 0']),
    ('choices', ['--only', 'nano', 'one head'], ['stories-nano-0-0.2', 'stories-one-head-0-0.2']),
    ('tokens', ['--models', 'pico', 'bytes'], ['final-stories-bytes-0-0.5', 'final-stories-pico-0-0.5']),
    ('tokens', ['choose', '--models', 'bytes at 0.004'], ['choose-stories-bytes-at-0.004-0-0.5']),
    ('demo', [], ['rising', 'space']),
    ('head_costs', ['cost'], ['cost-stories-0']),
    ('head_costs', ['equal', '--seed', '3'], ['equal-nano-3']),
    ('optimizers', ['--stage', 'rates'], [f'rates-stories-{o}-0.008-100' for o in ('adamw', 'muon', 'soap')]),
    ('starting', [], ['stories-from-nothing-0', 'stories-from-stories-0']),
    ('train_costs', [], ['cost']),
    ('step_costs', ['profile'], ['profile']),
    pytest.param('step_costs', ['growth'], ['growth'], marks=pytest.mark.slow),
    pytest.param('step_costs', ['memory'], ['memory'], marks=pytest.mark.slow),
    pytest.param('ddp', [], ['ddp'], marks=pytest.mark.slow),
    pytest.param('threads', [], ['threads'], marks=pytest.mark.slow),
], ids=lambda v: '-'.join(v) if isinstance(v, list) and v and v[0].isalpha() else None)
def test_an_experiment_runs_once(load, tmp_path, capsys, script, args, names):
    found = twice(load(script).main, args, tmp_path/'out.jsonl', capsys)
    assert [r['name'] for r in found] == names

@pytest.mark.parametrize('script, args, name', [
    ('head_costs', ['seconds'], 'seconds'), ('head_costs', ['bases'], 'bases'),
    ('optimizers', ['--stage', 'speed'], 'speed-nano'), ('writing', ['lookup'], 'lookup'),
])
def test_an_experiment_runs_anew(load, tmp_path, capsys, script, args, name):
    main, out = load(script).main, tmp_path/'out.jsonl'
    row, = twice(main, args, out, capsys, kept=False)
    assert row['name'] == name
    written = out.stat().st_mtime_ns
    main([*args, '--smoke', '--out', str(out)])
    assert out.stat().st_mtime_ns > written

def test_ways_to_compute_take_turns(load, monkeypatch, tmp_path, capsys):
    "Compiling takes minutes, so nothing is compiled here."
    monkeypatch.setattr(load('train_costs'), 'compile_model', lambda *args: None)
    row, = twice(load('train_costs').main, ['speed'], tmp_path/'out.jsonl', capsys)
    assert row['rows'][0]['ratio'].keys() == {'float32', 'bfloat16', 'compiled'}

def test_models_are_trained_and_write(load, tmp_path, capsys):
    writing, drafts, out = load('writing'), load('drafts'), tmp_path/'out.jsonl'
    own = ['--runs', str(tmp_path/'runs'), '--only', 'stories-nano']
    writing.main(['models', *own, '--smoke'])
    writing.main(['tune', *own, '--smoke'])
    row, = twice(writing.main, ['write', *own], out, capsys)
    assert {r['mode'] for r in row['runs']} == set(writing.MODES) and row['parameters'] > 100_000
    assert all(r['bytes_per_pass'] >= 1 for r in row['runs'])
    twice(drafts.main, own, out, capsys)
    bounds, written = lines(out)
    assert written == row and bounds['name'] == 'bounds-stories-nano' and set(bounds['temperatures']) == {'0', '0.8'}

def test_a_vocabulary_spells_every_byte(load):
    "What is no text, too: no byte is lost, and text takes fewer units than bytes."
    tokens = load('tokens')
    letters = tokens.letters_of_bytes()
    assert len(set(letters)) == 256 and letters[ord('A')] == 'A' and all(c.isprintable() for c in letters)
    pytest.importorskip('tokenizers')
    units = tokens.BPE([b'the cat and the dog and the cat', 'да и нет'.encode()], 280)
    text, odd = b'the cat and the dog', bytes(range(256)) + 'да'.encode() + b'\xff the \xe2\x82'
    for data in (text, odd, b''):
        spelt = ''.join(units.model.id_to_token(i) for i in units.encode(data))
        assert bytes(letters.index(c) for c in spelt) == data
    assert len(units.encode(text)) < len(text) / 2 and max(units.encode(odd)) < units.begin == 280

def test_the_demo_is_trained_as_its_experiment_says(load):
    flags = re.search(r'pico-train runs/demo stories --preset nano (.*)', (ROOT/'Makefile').read_text())[1].split()
    given = {k.removeprefix('--'): float(v) for k, v in zip(flags[::2], flags[1::2], strict=True)}
    assert given == load('demo').HOW

@pytest.mark.slow
def test_the_model_that_comes_along_can_be_made(load, tmp_path):
    load('bundle').smoke(tmp_path)
    card = (tmp_path/'model'/'README.md').read_text(encoding='utf-8')
    made = (ROOT/'pico'/'models'/'stories'/'README.md').read_text(encoding='utf-8')
    def words(text): return re.sub(r'[\d,.]+|```.*?```', '', text, flags=re.S).split('## A sample')[0].split()
    assert words(card)[:60] == words(made)[:60] and '`python nbs/experiments/bundle.py`' in card

# --- what waits for a GPU

def dry(gpu, capsys, out, *args):
    "The lines and the table of a run of tiny sizes, on whatever machine this is."
    gpu.main(['--dry', '--out', str(out), *args])
    found, table = {r['name']: r for r in lines(out)}, capsys.readouterr().out.split('| what |')[1]
    for step in gpu.STEPS: assert f'| {step.name} | ' in table and (step.name in found or 'left out' in table)
    return found, table

def test_a_gpu_is_asked_what_takes_no_compiling(load, monkeypatch, tmp_path, capsys):
    gpu = load('gpu')
    slow = {s.name for s in gpu.STEPS if s.name.endswith('compiled')} | {'tests', 'breaks-xs'}
    monkeypatch.setattr(gpu, 'STEPS', [s for s in gpu.STEPS if s.name not in slow])
    found, table = dry(gpu, capsys, tmp_path/'gpu.jsonl')
    assert 'failed' not in table and found.keys() == {s.name for s in gpu.STEPS}
    for row in found.values(): assert row.keys() >= HOW and row['command'].startswith('python nbs/experiments/gpu.py')
    assert found['flex-14-6144-16-float32']['gradient'] < 5e-3 < found['flex-14-6144-16-bfloat16']['gradient'] < .05
    # both end where one does: after two steps a model may take its 20th byte for the end
    assert all(found[f'graph-{m}']['same'] == found[f'graph-{m}']['of'] for m in ('10m', 'stories'))
    assert found['graph-stories']['of'] == 20 >= found['graph-10m']['of'] > 15
    assert dry(gpu, capsys, tmp_path/'gpu.jsonl')[0] == found

@pytest.mark.slow
def test_a_gpu_is_asked_everything(load, tmp_path, capsys):
    gpu = load('gpu')
    found, table = dry(gpu, capsys, tmp_path/'gpu.jsonl')
    assert 'failed' not in table and found.keys() == {s.name for s in gpu.STEPS}
    assert sum(found['tests']['counts'].values()) >= 6 and not found['tests']['failures']
    for size in ('xs', '10m', '100m'):
        plain, compiled = found[f'step-{size}'], found[f'step-{size}-compiled']
        assert compiled['bits'] == pytest.approx(plain['bits'], rel=.01) and compiled['graphs'] > plain['graphs']
        assert compiled['graphs'] > compiled['graphs_later'] >= compiled['graphs_after_three'] >= 0
        assert not compiled['breaks'] and not compiled['gave_up']

def test_speed_is_measured_once_in_a_turn(load, tmp_path, capsys):
    text = tmp_path/'text.txt'
    text.write_text('To be, or not to be, that is the question. ' * 400)
    main, out = load('speed').main, tmp_path/'out.jsonl'
    row, = twice(main, ['--text', str(text)], out, capsys, kept=False)
    turn, = row['turns']
    main(['--text', str(text), '--smoke', '--out', str(out)])
    assert lines(out) == [row]
    assert turn.keys() == {'rate', 'nano', 'xs', 'xs_original', 'megabyte_time', 'demo'} and turn['nano']['share'] < 1
    assert row['data']['source'] == 'text.txt' and 0 < turn['demo']['floor'] < turn['demo']['bpb']

def test_others_attend_as_they_should(load):
    "What stands in for FlashAttention gives what chapter 03 gives."
    import torch
    from pico.alibi import alibi_slopes
    from pico.attention import attention
    q, k, v = (torch.randn(2, 40, heads, 8) for heads in (6, 3, 3))
    own = attention(*(x.transpose(1, 2) for x in (q, k, v)), 5, alibi_slopes(6)).transpose(1, 2)
    found = load('peers').masked_attention(q, k, v, True, (5, 5), alibi_slopes(6))
    torch.testing.assert_close(found, own)

def test_graphs_are_counted(load):
    import torch
    steps = load('gpu_steps')
    steps.forget()
    grown = torch.compile(lambda x: x * len(x), backend='eager', dynamic=False)
    for n in range(2, 5): grown(torch.ones(n))
    assert steps.graphs() == 3 and steps.traces() == dict(breaks={}, gave_up=0)
    for n in range(5, 20): grown(torch.ones(n))                   # more often than torch.compile puts up with
    assert steps.graphs() < 18 and steps.traces()['gave_up'] > 0
    steps.forget()
    asks = torch.compile(lambda x: x + int(x.sum()), backend='eager')
    assert asks(torch.ones(3)).tolist() == [4]*3 and sum(steps.traces()['breaks'].values()) == 1
    steps.forget()

def test_what_fails_or_does_not_fit_is_said_and_the_rest_goes_on(load, monkeypatch, tmp_path, capsys):
    gpu, calls = load('gpu'), []
    def fine(h):
        calls.append(h.left())
        return dict(n=1)
    def memory(h): raise RuntimeError('out of memory')
    def waits(h): raise gpu.NotYet('needs another')
    def endless(h):
        while True: pass
    def steps(**runs):
        told = [gpu.Step(n, 0, run, lambda r: f"n is {r['n']}") for n, run in runs.items()]
        monkeypatch.setattr(gpu, 'STEPS', told)
    out = tmp_path/'gpu.jsonl'
    steps(first=fine, memory=memory, waits=waits, last=fine)
    found, table = dry(gpu, capsys, out)
    assert found.keys() == {'first', 'memory', 'last'} and found['memory']['error'] == 'RuntimeError: out of memory'
    for says in 'first | n is 1', 'memory | failed: RuntimeError', 'waits | left out: needs another', 'last | n is 1':
        assert f'| {says}' in table
    steps(endless=endless, late=fine)
    _, table = dry(gpu, capsys, out, '--minutes', '.05')
    assert '| endless | left out: the time was up' in table and '| late | left out: 0.0 minutes are left' in table
    calls.clear()
    steps(first=fine, memory=fine, waits=fine, endless=fine)
    assert 'error' in dry(gpu, capsys, out)[0]['memory'] and len(calls) == 2
    found, table = dry(gpu, capsys, out, '--again')
    assert len(calls) == 3 and found['memory']['n'] == 1 and 'failed' not in table

def test_another_process_goes_on_where_the_gpu_does_not_answer(load, monkeypatch, tmp_path):
    gpu, called = load('gpu'), []
    def breaks(h): raise RuntimeError('illegal memory access')
    monkeypatch.setattr(gpu, 'STEPS', [gpu.Step('breaks', 0, breaks, str), gpu.Step('next', 0, breaks, str)])
    monkeypatch.setattr(gpu, 'alive', lambda h: False)
    monkeypatch.setattr(gpu, 'subprocess', SimpleNamespace(run=called.append))
    gpu.main(['--dry', '--again', '--minutes', '5', '--out', str(tmp_path/'gpu.jsonl')])
    assert [r['name'] for r in lines(tmp_path/'gpu.jsonl')] == ['breaks'] and '--again' not in called[-1]
    options = gpu.options(called[-1][2:])
    assert options.smoke and options.results.file == tmp_path/'gpu.jsonl' and 4 < options.minutes <= 5

@pytest.mark.parametrize('T', [1, 8])
@pytest.mark.parametrize('shape', [dict(router='rising', latent_carry=True), dict(router='topk')])
def test_a_pass_that_can_be_captured_is_the_same(load, T, shape):
    "Far beyond all windows, two rows that route different bytes, some of them none for a while."
    import torch
    from pico.model import Pico
    torch.manual_seed(0)
    model = Pico(load('common').config('nano', dim=24, fb_att_window_size=5, latent_att_window_size=7, **shape))
    model = model.double().eval()
    if shape['router'] == 'rising': model.latent.router.pairs[:, 32:64] = True
    x, outs, routed = torch.randint(0, 128, (2, 96)), [], []
    captured = load('captured').Captured(model, T, rows=2)
    for again in range(2):
        captured.begin()
        for i in range(0, 96, T):
            captured.x.copy_(x[:, i:i+T])
            captured.read()
            if again: outs.append(captured.logits.clone())
            if again: routed.append(captured.routed.clone())
    with torch.no_grad(): whole = model(x)
    torch.testing.assert_close(torch.cat(outs, 1), whole.logits[:,:,0])
    assert torch.equal(torch.cat(routed, 1), whole.routed) and 0 < whole.routed.sum() < whole.routed.numel()

def test_a_pass_that_can_be_captured_asks_for_no_value(load):
    "A graph cannot hold a question. Here tensors have no values, so that one would fail, as in the package's cache."
    import torch
    from pico import block
    from pico.model import Pico
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
    with FakeTensorMode(), torch.no_grad():
        block.norm_constants.cache_clear()
        try:
            model = Pico(load('common').config('nano', dim=24, router='rising', latent_carry=True)).eval()
            for T in (1, 8): load('captured').Captured(model, T).once()
            x, cache = torch.zeros(1, 1, dtype=torch.long), model.new_cache()
            with pytest.raises(DataDependentOutputException): model(x, cache=cache)
        finally: block.norm_constants.cache_clear()

# --- what they share

HELP = """
import contextlib, io, json, runpy, sys
said = {}
for script in sys.argv[1:]:
    sys.argv, out = [script, '--help'], io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit): runpy.run_path(script, run_name='__main__')
    said[script] = out.getvalue()
print(json.dumps(said))
"""

def test_every_experiment_answers_help_and_does_not_start():
    scripts = sorted(EXPERIMENTS.glob('*.py'))
    command = [sys.executable, '-c', HELP, *map(str, scripts)]
    path = os.pathsep.join([str(EXPERIMENTS), str(ROOT), os.environ.get('PYTHONPATH', '')])
    r = subprocess.run(command, capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=path))
    said = json.loads(r.stdout.splitlines()[-1]) if not r.returncode else pytest.fail(r.stderr)
    for script in scripts:
        doc = ast.get_docstring(ast.parse(script.read_text(encoding='utf-8')))
        # its own words, nothing else, but for the options
        assert doc.splitlines()[0] in said[str(script)], script.name
        assert said[str(script)].startswith(('usage: ', doc.splitlines()[0])), script.name

def test_common_says_what_it_needs(common, capsys):
    with pytest.raises(SystemExit) as e: common.main([])
    assert e.value.code == 2 and 'INTO.jsonl' in capsys.readouterr().err

def test_lines_are_in_order_and_one_of_the_same_name_gives_way(common, tmp_path):
    results = common.Results(tmp_path/'some'/'x.jsonl')
    assert results.rows() == [] and results.find('a') is None
    results.add(dict(name='b', n=1), dict(name='c', n=.1))
    results.add(dict(name='a', n=2), dict(name='b', n=3))
    assert results.rows() == [dict(name='a', n=2), dict(name='b', n=3), dict(name='c', n=.1)]
    assert results.find('b')['n'] == 3
    assert not list((tmp_path/'some').glob('*.tmp'))

def test_what_another_machine_found_is_taken_in(common, tmp_path):
    mine, other = (common.Results(tmp_path/f) for f in ('mine.jsonl', 'other.jsonl'))
    mine.add(dict(name='a', n=1))
    other.add(dict(name='a', n=1), dict(name='b', n=2))
    mine.merge(other.file)
    assert [r['name'] for r in mine.rows()] == ['a', 'b']
    other.add(dict(name='b', n=3), dict(name='c', n=4))
    with pytest.raises(ValueError, match='b: both'): mine.merge(other.file)
    assert len(mine.rows()) == 2

def add_ten(folder, file, who):
    import sys
    sys.path.insert(0, folder)
    from common import Results
    for i in range(10): Results(file).add(dict(name=f'{who}-{i}'))

def test_several_processes_add_to_one_file(common, tmp_path):
    spawn = multiprocessing.get_context('fork' if 'fork' in multiprocessing.get_all_start_methods() else 'spawn')
    parts = [spawn.Process(target=add_ten, args=(str(EXPERIMENTS), tmp_path/'x.jsonl', who)) for who in 'ab']
    for p in parts: p.start()
    for p in parts: p.join()
    assert len(common.Results(tmp_path/'x.jsonl').rows()) == 20

def test_parts_are_all_there_is(common):
    cells = list(range(7))
    assert sorted(c for i in range(3) for c in common.part(cells, f'{i}/3')) == cells
    assert common.part(cells, '2/2') == common.part(cells, '0/2') == [0, 2, 4, 6]

def test_a_command_can_be_typed_elsewhere(common):
    args = ['cost', '--data', '/home/me/texts', '--part=1/2', '--out', 'x.jsonl', '--only', 'carry, space', '--seed=1']
    assert common.typed('x', args) == "python nbs/experiments/x.py cost --data DIR --only 'carry, space' --seed=1"

def test_an_average_begins_as_a_copy(common):
    import torch
    average, model = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    common.average_weights(average, model, 0)
    assert torch.equal(average.weight, model.weight)
    first = model.weight.clone()
    with torch.no_grad(): model.weight.zero_()
    common.average_weights(average, model, 1)
    torch.testing.assert_close(average.weight, first / 10)

def test_a_text_has_a_name_that_everybody_knows(common, tmp_path):
    (tmp_path/'war_and_peace.txt').write_text('Well, Prince')
    assert common.source('english', tmp_path)['sha256'] == common.sha256(tmp_path/'war_and_peace.txt')
    assert str(tmp_path) not in str(common.source('english', tmp_path))
    stories = common.source('stories', held_out='seed 2')
    assert stories['source'] == 'the built-in stories; held out: seed 2' and len(stories['sha256']) == 64

# --- what they have found

def test_results_are_a_few_files_of_lines():
    # not what is being written, nor what a GPU adds where one is lent
    files = [f for f in FILES if f.suffix != '.lock' and f.name[0] != '.' and f.stem != 'gpu']
    assert {f.suffix for f in files} == {'.jsonl'} and len(files) <= 20      # one for each experiment
    assert not (ROOT/'nbs'/'results').exists()

@pytest.mark.parametrize('file', [f for f in FILES if f.suffix == '.jsonl'], ids=lambda f: f.stem)
def test_lines_have_names_and_say_how_they_were_made(file):
    rows = lines(file)
    names = [r['name'] for r in rows]
    assert names == sorted(set(names))
    for r in rows: assert {'command', 'date'} <= r.keys(), r['name']

def test_the_readme_shows_what_the_demo_says_of_routers(load, common):
    said = load('demo').tell(common.Results(EXPERIMENTS/'results'/'demo.jsonl'))
    assert 'SpaceByte' in said and said in ' '.join((ROOT/'README.md').read_text(encoding='utf-8').split())

def test_the_card_of_the_largest_model_is_that_of_its_line(load, common):
    learned = load('learned')
    line = learned.largest(common.Results(EXPERIMENTS/'results'/'learned.jsonl'))
    written = (EXPERIMENTS/'10m.md').read_text(encoding='utf-8')
    assert written == learned.card(line) != learned.card(line | dict(bpb=line['bpb'] + .01))

@pytest.mark.parametrize('script, measures, args', [
    ('optimizers', 'run', ['--stage', 'rates', '--data', 'nowhere']),
    ('optimizers', 'run', ['--stage', 'seeds', '--data', 'nowhere']),
    ('optimizers', 'run', ['--stage', 'variants']),
    ('optimizers', 'run', ['--stage', 'long']),
    ('averages', 'run', []),
    ('head_costs', 'side_by_side', ['cost', '--corpora', 'stories']),
    ('attention_costs', 'costs', []),
    ('train_costs', 'measure', []),
    ('train_costs', 'measure', ['speed']),
    ('learned', 'run', ['--data', 'nowhere']),
    ('learned', 'bundled', ['--bundled']),
    ('remember', 'run', []),
    ('others', 'pico', ['--data', 'nowhere', '--megabyte', 'nowhere']),
    ('tokens', 'measure', ['--data', 'nowhere']),
])
def test_what_was_measured_is_not_measured_again(load, monkeypatch, script, measures, args):
    "Lines that were once files have the names that their scripts look for."
    def again(*args, **kw): raise AssertionError('this has a line')
    monkeypatch.setattr(load(script), measures, again)
    load(script).main(args)

def test_commands_that_the_book_names_are_there():
    pages = ROOT/'README.md', ROOT/'Makefile', EXPERIMENTS/'README.md'
    for file in (*pages, *ROOT.glob('nbs/*.ipynb'), *EXPERIMENTS.glob('*.py')):
        for script in re.findall(r'nbs/experiments/\w+\.py', file.read_text(encoding='utf-8')):
            assert (ROOT/script).exists(), (file.name, script)

def test_every_experiment_is_explained():
    text = (EXPERIMENTS/'README.md').read_text(encoding='utf-8')
    for script in EXPERIMENTS.glob('*.py'): assert script.name in text
