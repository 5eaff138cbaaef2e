"""Scripts write their designs out, so that committed results keep their meaning: what they build is compared with
`fixtures/designs.json`, which holds the configurations of commit 7511483, when presets were shapes alone."""
import ast
import importlib

import pytest

from conftest import BEFORE, EXPERIMENTS

from pico.model import PicoConfig

# the names that experiments had then; those of chapter 21 are in test_experiments_21.py
SCRIPTS = {'10a_ddp': 'ddp', '11_average': 'averages', '11_cost': 'train_costs', '22_optimizers': 'optimizers',
           '23_writing': 'head_costs'}

@pytest.mark.parametrize('name', SCRIPTS)
def test_a_script_builds_what_it_built(name, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    build = importlib.import_module(SCRIPTS[name]).config
    for text, fields in BEFORE[name].items():
        asked = ast.literal_eval(text)
        changes = asked[1] if len(asked) > 1 else {}
        assert build(*asked[:1], **changes) == PicoConfig.from_dict(fields), asked

def calls(tree, name): # of a function or method, wherever it stands
    return [n for n in ast.walk(tree) if isinstance(n, ast.Call)
            and getattr(n.func, 'attr', getattr(n.func, 'id', '')) == name]

# bundle and demo take the design of the day: the model that comes with the package, and what `make demo` trains
@pytest.mark.parametrize('script', sorted(p for p in EXPERIMENTS.glob('*.py') if p.stem not in ('bundle', 'demo')),
                         ids=lambda p: p.stem)
def test_scripts_lean_on_no_default(script):
    tree = ast.parse(script.read_text())
    for call in calls(tree, 'preset'):
        assert any(k.arg is None for k in call.keywords), f'line {call.lineno}: the design is missing'
    for call in calls(tree, 'TrainConfig'):
        assert 'optimizer' in [k.arg for k in call.keywords], f'line {call.lineno}: the optimizer is missing'
