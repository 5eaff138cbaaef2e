"Models as files: cards, headers, fewer bits, the Hub, and runs that begin from a trained model."
import json
import os
import subprocess
import sys
from pathlib import Path
import pytest
import torch
from conftest import CATS, TINY, call, refused
from hub import TOKEN, hub
from safetensors.torch import load_file, save_file
from pico.cli import train_command
from pico.core import InputError
from pico.evaluate import bits_per_byte
from pico.model import Pico, PicoConfig
from pico.pretrained import STORED, card, facts_of, header
from pico.run import TrainConfig, what_was_asked
from pico.train import train

SMALL = dict(dim=48, latent_num_blocks=1)

@pytest.fixture
def model():
    torch.manual_seed(0)
    m = Pico(PicoConfig.preset('nano', **SMALL)).eval()
    m.about = dict(data='cats', bpb=1.25, license='mit', command='pico-eval x')
    m.latent.router.pairs[:, ::5] = True                          # as if it had counted
    return m

def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

# --- files

def test_a_model_that_was_there_stays_until_the_new_one_is_whole(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path)
    other = Pico(PicoConfig.preset('nano', dim=24, latent_num_blocks=1)).eval()
    def full(*_): raise OSError(28, 'No space left on device')
    with monkeypatch.context() as m:
        m.setattr(os, 'replace', full)
        with pytest.raises(OSError): other.save_pretrained(tmp_path)
    assert equal(Pico.from_pretrained(tmp_path), model)
    other.save_pretrained(tmp_path)
    assert equal(Pico.from_pretrained(tmp_path), other) and not list(tmp_path.glob('.*'))

def test_one_file_is_enough(model, tmp_path):
    model.save_pretrained(tmp_path/'m')
    file = (tmp_path/'m'/'model.safetensors').rename(tmp_path/'alone.safetensors')
    again = Pico.from_pretrained(file)
    assert equal(again, model) and again.config == model.config and again.about == model.about
    assert not [k for k, v in header(file).items() if k == 'about' and 'stored' in v]
    (tmp_path/'m'/'config.json').unlink()
    file.rename(tmp_path/'m'/'model.safetensors')
    assert equal(Pico.from_pretrained(tmp_path/'m'), model)            # a directory without config.json

def test_a_readme_that_somebody_wrote_stays(model, tmp_path):
    (tmp_path/'README.md').write_text('mine')
    model.save_pretrained(tmp_path)
    assert (tmp_path/'README.md').read_text() == 'mine' and equal(Pico.from_pretrained(tmp_path), model)

def test_equal_models_give_equal_files(model, tmp_path):
    for d in 'ab': model.save_pretrained(tmp_path/d)
    for f in (tmp_path/'a').iterdir(): assert f.read_bytes() == (tmp_path/'b'/f.name).read_bytes()

@pytest.mark.parametrize('dtype', STORED)
def test_fewer_bits(model, tmp_path, dtype):
    model.save_pretrained(tmp_path, dtype)
    again = Pico.from_pretrained(tmp_path)
    tables = [k for k, t in model.state_dict().items() if not t.is_floating_point()]
    assert tables and all(torch.equal(model.state_dict()[k], again.state_dict()[k]) for k in tables)
    assert all(p.dtype == torch.float32 for p in again.parameters())
    size = (tmp_path/'model.safetensors').stat().st_size / model.num_parameters()
    assert dict(float32=4, bfloat16=2, int8=1)[dtype] < size < dict(float32=5.5, bfloat16=3.5, int8=2.5)[dtype]
    change = abs(bits_per_byte(again, CATS.encode()[:400]).bpb - bits_per_byte(model, CATS.encode()[:400]).bpb)
    assert change == 0 if dtype == 'float32' else change < .02
    assert f'| stored as | {dtype} |' in (tmp_path/'README.md').read_text()

def test_an_unknown_way_to_store_leaves_nothing(model, tmp_path):
    with pytest.raises(InputError, match='bfloat16, int8'): model.save_pretrained(tmp_path/'m', 'int4')
    assert not (tmp_path/'m').exists()

@pytest.mark.parametrize('harm', ['no matrix', 'wide scale', 'no scale', 'whole numbers', 'floats for a table'])
def test_damaged_scales_are_one_sentence(model, tmp_path, harm):
    model.save_pretrained(tmp_path, 'int8')
    file = tmp_path/'model.safetensors'
    w, name = load_file(file), 'embedding.weight'
    if harm == 'no matrix': del w[name]
    if harm == 'wide scale': w[name + ':scale'] = torch.ones(256, 48)
    if harm == 'no scale': del w[name + ':scale']
    if harm == 'whole numbers': w['norm.weight'] = w['norm.weight'].to(torch.int32)
    if harm == 'floats for a table': w['latent.router.pairs'] = w['latent.router.pairs'].float()
    save_file(w, file)
    with pytest.raises(InputError) as e: Pico.from_pretrained(tmp_path)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('said', ['nonsense', '[]', '{"about": 3}', '{"about": {"data": [1], "x": 2}}',
                                  '{"about": null}', '[' * 100_000])
def test_a_header_that_lies_does_no_harm(model, tmp_path, said):
    model.save_pretrained(tmp_path)
    save_file(model.state_dict(), tmp_path/'model.safetensors', dict(pico=said))
    try: about = facts_of(tmp_path/'model.safetensors')
    except InputError: about = {}
    assert about == {}
    (tmp_path/'config.json').unlink()
    with pytest.raises(InputError) as e: Pico.from_pretrained(tmp_path)
    assert '\n' not in str(e.value) and len(str(e.value)) < 500

def test_a_card_says_what_is_known_and_cannot_be_broken(model, tmp_path):
    model.save_pretrained(tmp_path)
    said = (tmp_path/'README.md').read_text()
    assert 'license: mit' in said and '| trained on | cats |' in said and f'{model.num_parameters():,}' in said
    assert 'model-index' in said and 'from_pretrained' in said
    hostile = card('', dict(data='a\n---\n<script>|`', bpb=2.))
    assert hostile.count('\n---\n') == 1 and '<script' not in hostile.partition('\n---\n')[2]

# --- the Hub

SCRIPT = """
import json, sys
from pathlib import Path
from pico.model import Pico
from pico.core import InputError
here, what, token = Path(sys.argv[1]), sys.argv[2], sys.argv[3] or None
if what == 'push':
    m = Pico.from_pretrained(here/'m')
    m.push_to_hub('me/small', token=token, private=True)
else:
    try:
        m = Pico.from_pretrained('me/small', revision='main', cache_dir=here/sys.argv[4], token=token,
                                 local_files_only=what == 'offline')
        m.save_pretrained(here/what)
        print(json.dumps(m.about))
    except InputError as e: sys.exit(f'refused: {e}')
"""

def test_sent_to_the_hub_and_fetched(model, tmp_path):
    "`push_to_hub`, then `from_pretrained` with the arguments that the Hub's libraries share, over HTTP."
    model.save_pretrained(tmp_path/'m')
    with hub() as h:
        env = os.environ | dict(HF_ENDPOINT=h.endpoint, HF_HOME=str(tmp_path/'home'), HF_HUB_DISABLE_TELEMETRY='1')
        for name in ('HF_HUB_OFFLINE', 'HF_TOKEN'): env.pop(name, None)
        def run(what, token=TOKEN, cache='cache'):
            return subprocess.run([sys.executable, '-c', SCRIPT, tmp_path, what, token, cache], env=env,
                                  capture_output=True, text=True, timeout=120)
        r = run('push')
        assert r.returncode == 0, r.stderr
        assert set(h.files) == {'config.json', 'model.safetensors', 'README.md'}
        assert all(h.files[n] == (tmp_path/'m'/n).read_bytes() for n in h.files)
        h.files['training.log'] = b'not wanted'
        r = run('fetched')
        assert r.returncode == 0 and json.loads(r.stdout) == model.about, r.stderr
        assert equal(Pico.from_pretrained(tmp_path/'fetched'), model)
        assert not [p for m, p in h.asked if 'training.log' in p and 'resolve' in p]
        r = run('stranger', token='', cache='theirs')
        assert r.returncode and 'refused' in r.stderr and not (tmp_path/'stranger').exists()
    r = run('offline', token='')                                           # the server is gone
    assert r.returncode == 0, r.stderr
    assert equal(Pico.from_pretrained(tmp_path/'offline'), model)

# --- runs that begin from a model, or from another run's settings

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "A text, another one, and a run on the first."
    d = tmp_path_factory.mktemp('runs')
    (d/'cats.txt').write_text(CATS * 200)
    (d/'dogs.txt').write_text(CATS.replace('cat', 'dog') * 200)
    assert call(train_command, d/'cats', d/'cats.txt', *TINY, '--max_steps', 4, '--router', 'rising') == 0
    return d

def weights(run): return load_file(run/'model.safetensors')

def test_a_run_is_a_model_with_a_card(runs):
    m = Pico.from_pretrained(runs/'cats')
    assert m.about['data'] == 'cats.txt' and m.about['steps'] == 4 and 'held-out' in m.about['command']
    last = json.loads((runs/'cats'/'metrics.jsonl').read_text().splitlines()[-1])
    assert m.about['bpb'] == pytest.approx(last['validation_bpb'], abs=1e-4)

def test_a_run_from_a_model(runs):
    "It begins with the model's weights and table, counts nothing, and its optimizer is new."
    go = (train_command, runs/'dogs', runs/'dogs.txt', '--from', runs/'cats', '--preset', 'nano', '--context_len', 64,
          '--batch_size', 2, '--validation_bytes', 300, '--learning_rate', 1e-9, '--weight_decay', 0)
    assert call(*go, '--max_steps', 1) == 0
    before, after = weights(runs/'cats'), weights(runs/'dogs')
    assert before.keys() == after.keys()
    for k in before: torch.testing.assert_close(after[k], before[k], atol=1e-6, rtol=0)
    assert what_was_asked(runs/'dogs')['config'] == what_was_asked(runs/'cats')['config']
    assert call(*go, '--max_steps', 2) == 0                                # the same command again goes on
    assert call(train_command, runs/'dogs', '--max_steps', 3) == 0         # and without naming it
    settings = TrainConfig.from_dict(what_was_asked(runs/'dogs')['settings'] | {'max_steps': 4})
    train(runs/'dogs', runs/'dogs.txt', settings=settings, start=runs/'cats', progress=False)       # a path will do
    asked = what_was_asked(runs/'dogs')
    assert (asked['data']['start'], asked['settings']['max_steps']) == (str(runs/'cats'), 4)

def test_a_shape_that_differs_is_refused_by_name(runs, capsys):
    for flag, value, words in (('--dim', 48, 'dim=48'), ('--router', 'space', 'router=space'),
                               ('--latent_num_blocks', 2, 'latent_num_blocks=2')):
        refused(capsys, train_command, runs/'new', runs/'dogs.txt', '--from', runs/'cats', '--context_len', 64, flag,
                value, words=words)
    refused(capsys, train_command, runs/'cats', '--from', 'stories', words='start=stories')
    assert call(train_command, runs/'wide', runs/'dogs.txt', '--from', runs/'cats', '--context_len', 64,
                '--batch_size', 2, '--validation_bytes', 300, '--max_steps', 1, '--latent_att_window_size', 8) == 0

def test_settings_of_another_run(runs, capsys):
    "`--config` makes a run like that one but for the flags; a changed copy of the file will do."
    old = what_was_asked(runs/'cats')
    assert call(train_command, runs/'like', '--config', runs/'cats'/'train.json', '--seed', 5) == 0
    new = what_was_asked(runs/'like')
    assert new['config'] == old['config'] and new['settings'] == old['settings'] | dict(seed=5)
    assert new['data'] == old['data']
    mine = json.loads((runs/'cats'/'train.json').read_text())
    mine['settings']['learning_rate'] = .002
    (runs/'mine.json').write_text(json.dumps(mine))
    assert call(train_command, runs/'other', runs/'dogs.txt', '--config', runs/'mine.json') == 0
    assert what_was_asked(runs/'other')['settings']['learning_rate'] == .002
    assert Path(what_was_asked(runs/'other')['data']['source']).name == 'dogs.txt'
    (runs/'bad.json').write_text('{"settings": 3}')
    for wrong, words in (('bad.json', 'does not describe a run'), ('nowhere.json', 'nowhere.json')):
        refused(capsys, train_command, runs/'new', '--config', runs/wrong, words=words)
    refused(capsys, train_command, runs/'new', '--config', runs/'mine.json', '--preset', 'xs', words='give one of them')
    assert not (runs/'new').exists()
