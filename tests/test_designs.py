"""Scripts write their designs out, so that committed results keep their meaning: what they build is compared with
`fixtures/designs.json`, which holds the configurations of commit 7511483, when presets were shapes alone."""
import ast
import importlib.util
import json
from pathlib import Path
import pytest
from pico.model import PicoConfig

ROOT = Path(__file__).resolve().parent.parent
BEFORE = json.loads((ROOT/'tests'/'fixtures'/'designs.json').read_text())
SCRIPTS = [name for name in BEFORE if name[0].isdigit()]

@pytest.fixture(autouse=True)
def own_routers():
    "Scripts register routers of their own; other tests go through all that there are."
    from pico.router import ROUTERS
    before = dict(ROUTERS)
    yield
    for name in ROUTERS.keys() - before: del ROUTERS[name]

def module(name):
    spec = importlib.util.spec_from_file_location('script_' + name, ROOT/'nbs'/f'{name}.py')
    m = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(m)
    return m

@pytest.mark.parametrize('name', SCRIPTS)
def test_a_script_builds_what_it_built(name):
    build = module(name).config
    for asked, fields in BEFORE[name].items():
        assert build(*ast.literal_eval(asked)) == PicoConfig.from_dict(fields), asked

def calls(tree, name): # of a function or method, wherever it stands
    return [n for n in ast.walk(tree) if isinstance(n, ast.Call)
            and getattr(n.func, 'attr', getattr(n.func, 'id', '')) == name]

# 13_bundle takes the design of the day: it makes the model that comes with the package
@pytest.mark.parametrize('script', sorted(p for p in (ROOT/'nbs').glob('*.py') if p.stem != '13_bundle'),
                         ids=lambda p: p.stem)
def test_scripts_lean_on_no_default(script):
    tree = ast.parse(script.read_text())
    for call in calls(tree, 'preset'):
        assert any(k.arg is None for k in call.keywords), f'line {call.lineno}: the design is missing'
    for call in calls(tree, 'TrainConfig'):
        assert 'optimizer' in [k.arg for k in call.keywords], f'line {call.lineno}: the optimizer is missing'

def test_a_router_of_a_script_is_a_choice_of_the_configuration():
    assert module('21_designs').config('benefit', .25).router == 'benefit'
