"""Runs of November 2026 load, are scored, write and go on, whatever has changed since. Those of runs.tar.xz were made
at commit 7511483, the one of runs_memory.tar.xz, in the design with memory, at commit 01ccec8."""
import json
import math
import shutil
import tarfile
from pathlib import Path
import pytest
from pico.cli import train_command
from pico.sources import load_corpus
from pico.evaluate import bits_per_byte
from pico.generate import generate
from pico.model import Pico
from pico.record import read_metrics

RUNS = 'topk-linear-adamw', 'space-chained-soap', 'words-linear-soap', 'rising-memory-soap'

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    d = tmp_path_factory.mktemp('fixtures')
    for file in 'runs', 'runs_memory':
        with tarfile.open(Path(__file__).parent/'fixtures'/f'{file}.tar.xz') as t: t.extractall(d, filter='data')
    return d/'runs'

@pytest.fixture(scope='module')
def expected(runs):
    found = (json.loads((runs/f'{file}.json').read_text()) for file in ('expected', 'expected-memory'))
    return {name: said for some in found for name, said in some.items()}

@pytest.mark.parametrize('name', RUNS)
def test_an_old_run_loads_and_says_the_same(runs, expected, name):
    expected = expected[name]
    model = Pico.from_pretrained(runs/name)
    score = bits_per_byte(model, load_corpus('stories', 'validation', limit=3000), 2000)
    assert score.bpb == pytest.approx(expected['bpb'], abs=1e-4)
    written = generate(model, 'Once', max_bytes=40, temperature=0, speculative=False).bytes
    # an argmax among near ties may fall otherwise on another processor, never at once
    assert written[:8] == bytes.fromhex(expected['greedy'])[:8]

@pytest.mark.parametrize('name', RUNS)
def test_an_old_run_goes_on(runs, expected, name, tmp_path):
    expected = expected[name]
    shutil.copytree(runs/name, tmp_path/name)
    try: train_command([str(tmp_path/name), '--max_steps', '6'])
    except SystemExit as e: assert e.code in (0, None)
    losses = [m['loss'] for m in read_metrics(tmp_path/name)]
    assert len(losses) == 6 and all(map(math.isfinite, losses))
    assert losses == pytest.approx(expected['losses'], abs=1e-3)
