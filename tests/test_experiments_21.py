"The experiments of chapter 21: they run, stop and go on, build what they built, and a new design is one small class."
import ast
import importlib
import json
import re
import sys

import pytest
import torch

from conftest import BEFORE, EXPERIMENTS, lines

from pico.data import Corpus
from pico.model import Pico, PicoConfig
from pico.router import ROUTERS, Route, Router, router


@pytest.fixture(scope='module')
def experiments():
    "Both scripts, imported; the routers that they register are gone afterwards, since other tests go through them all."
    before = dict(ROUTERS)
    sys.path.insert(0, str(EXPERIMENTS))
    yield {name: importlib.import_module(name) for name in ('routers', 'designs')}
    sys.path.remove(str(EXPERIMENTS))
    for name in ROUTERS.keys() - before: del ROUTERS[name]
    for name in ('routers', 'designs'): del sys.modules[name]

@pytest.fixture
def designs(experiments): return experiments['designs']

@pytest.fixture
def routers(experiments): return experiments['routers']

def found(name): return lines(EXPERIMENTS/'results'/f'{name}.jsonl')

def timeless(rows):
    "Lines as text, seconds left out."
    return re.sub(r'"seconds\w*": [\d.e-]+', '', json.dumps(rows))

# --- the commands

def test_the_grid_runs_and_goes_on(routers, tmp_path, capsys):
    out = tmp_path/'routers.jsonl'
    command = ['--smoke', '--out', str(out), '--part', '2/4']
    routers.main(command)
    first = lines(out)
    assert [r['name'] for r in first] == ['stories-space-0.25-0', 'stories-threshold-0.25-0']
    for row in first:
        assert row['command'] == 'python nbs/experiments/routers.py --smoke'
        assert {'commit', 'data', 'device', 'date', 'torch'} <= row.keys()
        assert len(row['curve']) == 2 and row['end']['facts']['n'] > 0
    capsys.readouterr()
    routers.main(command)                                         # what is done is not done again
    assert capsys.readouterr().out == '' and lines(out) == first
    out.write_text(json.dumps(first[0]) + '\n')                   # stopped after the first of the two
    routers.main(command)
    assert timeless(lines(out)) == timeless(first)

def test_designs_run_and_go_on(designs, tmp_path, capsys):
    out = tmp_path/'designs.jsonl'
    command = ['--smoke', '--out', str(out), '--optimizer', 'soap', '--only', 'prior, carry', 'two states, fast router']
    designs.main(command)
    first = lines(out)
    assert [r['design'] for r in first] == ['prior, carry', 'two states, fast router']
    for row in first:
        assert row['command'].startswith('python nbs/experiments/designs.py --smoke --optimizer soap --only')
        assert {'commit', 'data', 'device', 'date', 'torch'} <= row.keys()
        assert row['steps'] == 2 and row['flops'] >= row['budget']
    capsys.readouterr()
    designs.main(command)
    assert capsys.readouterr().out == '' and lines(out) == first
    out.write_text(json.dumps(first[1]) + '\n')
    designs.main(command)
    assert timeless(lines(out)) == timeless(first)

def test_deviations_run(designs, tmp_path):
    designs.main(['--smoke', '--out', str(tmp_path/'designs.jsonl'), '--deviate', '--only', 'gated carry, space'])
    row, = lines(tmp_path/'designs.jsonl')
    assert row['deviations']['dropped']['n'] > 100 and not (tmp_path/'deviations.jsonl').exists()

def test_a_corpus_needs_its_folder(designs, routers, capsys):
    for main, args in (designs.main, ['--corpus', 'english']), (routers.main, ['--stage', 'text']):
        with pytest.raises(SystemExit): main(args)
        assert '--data DIR' in capsys.readouterr().err

# --- what they build

def test_they_build_what_they_built(designs, routers):
    for asked, fields in BEFORE['21_routers'].items():
        name, capacity = ast.literal_eval(asked)
        built = routers.Cell('stories', name, capacity, 0).config, designs.Design('', '', name, capacity).config
        assert built == (PicoConfig.from_dict(fields),) * 2, asked
    assert BEFORE['21_designs'] == BEFORE['21_routers']

def test_every_design_is_built_and_says_why(designs):
    torch.manual_seed(0)
    few = Corpus.from_bytes(b'Once there was a little owl. ' * 200)
    for name, design in designs.DESIGNS.items():
        model = design.build(few).train()
        x = torch.randint(256, (2, 40))
        model.loss(x, x[...,None].expand(-1, -1, 4)).total.backward()
        assert name == design.name and design.why.endswith('?')
        assert not design.config.latent_carry                     # what is counted leaves carrying out
        assert (model.latent.carry is not None) == ('carry' in name)

def test_a_plain_share_stays_plain(designs):
    few = Corpus.from_bytes(b'Once there was a little owl. ' * 200)
    for name, learns in ('carry, space', False), ('gated carry, space', True):
        assert designs.DESIGNS[name].build(few).latent.gate.requires_grad == learns

def test_a_new_design_is_one_small_class(designs):
    @router('of this test')
    class Vowels(Router):
        def begin(self, corpus): self.asked = corpus.size
        def forward(self, x, values, before, position, train=False):
            return Route(torch.isin(values, torch.tensor(list(b'aeiou'))))
    vowels = designs.Design('vowels', 'Does it matter which?', 'of this test', model=designs.Carrying)
    designs.DESIGNS['vowels'] = vowels
    row = designs.run(designs.Trial('vowels', budget=5e9), scored=2000)
    assert row['name'] == 'stories-vowels-0-0.005' and .2 < row['routed'] < .4
    assert designs.DESIGNS.pop('vowels').build(Corpus.from_bytes(b'owl')).latent.router.asked == 5     # and two marks

def test_a_router_of_a_script_is_a_choice_of_the_configuration(designs):
    assert designs.Design('', '', 'prior').config.router == 'prior'

def test_a_long_model_that_was_stopped_goes_on(designs, tmp_path):
    trial, few = designs.Trial('pairs, gated carry', budget=6e10, optimizer='soap'), Corpus.from_bytes(b'Owl. ' * 900)
    whole, spent = designs.train(trial, few)
    class Power(Exception): "is cut"
    def cut(model, step):
        if step == 9: raise Power
    for _ in range(2):
        with pytest.raises(Power): designs.train(trial, few, cut, tmp_path, every=4)
    again, same = designs.train(trial, few, folder=tmp_path, every=4)
    assert spent['steps'] == same['steps'] > 12 and spent['flops'] == same['flops']
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))

def test_the_choice_is_followed(designs):
    row = designs.follow(designs.Trial('topk 3/16', budget=3e10), every=4)
    assert [p['step'] for p in row['curve']][:3] == [0, 4, 5] and row['curve'][-1]['step'] == row['steps']
    assert all(0 <= p['f1'] <= 1 for p in row['curve'])

def test_the_table_has_every_kind_on_every_text(designs):
    names = [t.name for t in designs.answer()]
    assert len(set(names)) == len(names) == 3 * len(designs.TABLE) * 5
    assert names[0] == 'stories-pairs-gated-carry-5-2.8-soap-last'

def test_chunks_hand_their_change_to_all_their_bytes(designs):
    torch.manual_seed(0)
    few = Corpus.from_bytes(b'Once there was a little owl. ' * 200)
    model = designs.DESIGNS['chunking'].build(few).double().eval()
    for p in model.latent.parameters(): torch.nn.init.normal_(p, std=.3)
    x = torch.randint(256, (2, 40))
    h = model.fb_in(model.embedding(x))
    y, route = model.latent(h, x)
    assert route.chosen[:,0].all() and 0 < route.chosen.double().mean() < 1
    change = (y - h).detach()
    for b, t in (~route.chosen).nonzero().tolist(): torch.testing.assert_close(change[b, t], change[b, t-1])
    other = x.clone()
    other[:,30:] = 7
    torch.testing.assert_close(model.latent(model.fb_in(model.embedding(other)), other)[0][:,:30], y[:,:30])

def test_deviating_changes_nothing_where_nothing_is_turned(designs):
    torch.manual_seed(1)
    model, x = Pico(designs.Design('', '', 'topk').config).eval(), torch.randint(256, (2, 64))
    h, route = model.states(x)
    model.latent.router = turn = designs.Deviating(model.latent.router)
    turn.turned = torch.zeros_like(route.chosen)
    assert torch.equal(h, model.states(x)[0])
    turn.turned[:,7] = True
    assert (model.states(x)[1].chosen ^ route.chosen).nonzero()[:,1].tolist() == [7, 7]

def test_counted_entropy_by_hand(designs):
    values = torch.tensor([*b'abacabacabac']).numpy()
    keys, bits = designs.counted_entropy(values, 1, few=2)
    assert (keys - 1).tolist() == [*b'abc']                       # a is followed by b and c alike, they by a alone
    torch.testing.assert_close(bits, torch.tensor([1., 0, 0]))

# --- what they have found

def test_a_line_has_the_name_that_its_model_would_get(designs, routers):
    for r in found('routers'):
        assert routers.Cell(r['corpus'], r['router'], r['capacity'], r['seed']).name == r['name']
    for r in found('designs'):
        budget = r.get('budget', round(r['flops'], -11))          # older lines say what was spent, not what was allowed
        trial = designs.Trial(r['design'], r['corpus'], r['seed'], budget, r.get('optimizer', 'adamw'),
                              r.get('last', False))
        assert trial.name == r['name']

def test_what_is_no_longer_code_is_in_the_log(designs):
    log = (EXPERIMENTS/'LOG.md').read_text()
    logged = set(re.findall(r'^\| `([^`]+)` \|', log, re.M))
    for r in found('designs'): assert r['design'] in logged | set(designs.DESIGNS), r['design']
