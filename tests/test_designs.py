"""Experiments write their designs out, so that committed results keep their meaning. What they build is compared with
`fixtures/designs.json`, which holds the configurations of commit 7511483, when presets were shapes alone."""
import ast
import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT/'nbs'/'experiments'
SCRIPTS = sorted(p for p in HERE.glob('*.py') if p.stem != 'common')
BEFORE = json.loads((ROOT/'tests'/'fixtures'/'designs.json').read_text())
# by the names that scripts had then; those of chapter 21 are compared in test_experiments_21.py
ASKED = [(name, asked) for name in BEFORE if name[0].isdigit() and not name.startswith('21_') for asked in BEFORE[name]]

@pytest.fixture
def common(monkeypatch):
    "What the experiments share."
    monkeypatch.syspath_prepend(str(HERE))
    yield importlib.import_module('common')
    sys.modules.pop('common')

@pytest.mark.parametrize('name, asked', ASKED, ids=map(str, range(len(ASKED))))
def test_an_experiment_builds_what_it_built(common, name, asked):
    fields, given = BEFORE[name][asked], ast.literal_eval(asked)
    changes = given[1] if len(given) > 1 else {}
    built = common.config(*given[:1], **changes).to_dict()
    assert {k: built[k] for k in fields} == fields

def calls(tree, name): # of a function or method, wherever it stands
    return [n for n in ast.walk(tree) if isinstance(n, ast.Call)
            and getattr(n.func, 'attr', getattr(n.func, 'id', '')) == name]

# `bundle` takes the design of the day: it makes the model that comes with the package
@pytest.mark.parametrize('script', [p for p in SCRIPTS if p.stem != 'bundle'], ids=lambda p: p.stem)
def test_scripts_lean_on_no_default(script):
    tree = ast.parse(script.read_text())
    for call in calls(tree, 'preset'):
        assert any(k.arg is None for k in call.keywords), f'line {call.lineno}: the design is missing'
    for call in calls(tree, 'TrainConfig'):
        assert 'optimizer' in [k.arg for k in call.keywords], f'line {call.lineno}: the optimizer is missing'
