"What several test files need: a tiny model, a tiny text, a command called as a user would, and the experiments."
import json
import os
from pathlib import Path
import pytest
import processes
from pico.model import PicoConfig
from pico.run import TrainConfig

# these files end and begin processes in ways that only Unix has
collect_ignore = [] if hasattr(os, 'fork') else ['test_train.py', 'test_checkpoint.py', 'test_rising.py']

# the original's design, written out: presets may change, these tests may not
ORIGINAL = dict(router='topk', positions='alibi', latent_carry=False, latent_summary=False, latent_shift=False,
                heads='linear', heads_every=1)

# flags of `pico-train` for a run of a second
TINY = ['--preset', 'nano', '--dim', '24', '--latent_num_blocks', '1', '--batch_size', '2', '--context_len', '64',
        '--validation_bytes', '300']

# how such a run is trained from Python
SHORT = TrainConfig(context_len=64, batch_size=4, learning_rate=3e-3, warmup_steps=2, checkpoint_interval=3,
                    validation_interval=4, validation_bytes=300, max_steps=8)

CATS = 'Mia has a red cat. Tom has a blue hat. '

def tiny_config(**fields):
    "The shape of a model that is made in a moment."
    return PicoConfig.preset('nano', **dict(dim=24, latent_num_blocks=1) | ORIGINAL | fields)

@pytest.fixture(autouse=True)
def nobody_stays_behind():
    "Child processes of a test that failed end with it."
    yield
    processes.clean()

def weights(out):
    "The published weights of a run, as bytes."
    return (Path(out)/'model.safetensors').read_bytes()

def steps_of(out):
    "How many steps a run has recorded so far."
    file = Path(out)/'metrics.jsonl'
    return len(file.read_bytes().splitlines()) if file.exists() else 0

def call(command, *args):
    "The exit status of a command."
    try: command([str(a) for a in args])
    except SystemExit as e: return e.code
    return 0

def refused(capsys, command, *args, words=''):
    "The command ends with status 2 and one line that holds the words."
    capsys.readouterr()
    assert call(command, *args) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and words in err and 'Traceback' not in err, err

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ROOT/'nbs'/'experiments'
# configurations that scripts and commands built at commit 7511483
BEFORE = json.loads((ROOT/'tests'/'fixtures'/'designs.json').read_text())

def lines(file):
    "The lines of a file of results."
    return [json.loads(line) for line in file.read_text().splitlines()]
