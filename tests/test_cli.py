"The commands as a user meets them: one line and status 2 for a mistake, nothing lost."
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
import pytest
import torch
from conftest import CATS, TINY, call, refused
from pico.checkpoint import read_json, write_json
from pico.cli import eval_command, generate_command, show_stream, train_command
from pico.core import InputError
from pico.model import Pico, PicoConfig
from pico.router import ROUTERS
from pico.show import Generated, write_page
from pico.sources import load_corpus
from pico.train import TrainConfig, train
from pico.writing import Step

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    d = tmp_path_factory.mktemp('run')/'r'
    text = d.parent/'t.txt'
    text.write_text(CATS * 200)
    assert call(train_command, d, text, *TINY, '--max_steps', 4) == 0
    return d

def tree(d): return {p: p.read_bytes() for p in sorted(Path(d).rglob('*')) if p.is_file()}

def test_run_directory(run):
    expected = {'config.json', 'model.safetensors', 'train.json', 'metrics.jsonl', 'checkpoints', 'loss.png'}
    assert expected <= {p.name for p in run.iterdir()}
    assert [json.loads(l)['step'] for l in (run/'metrics.jsonl').read_text().splitlines()] == [1, 2, 3, 4]

@pytest.mark.parametrize('args, words', [
    (['nothing.txt'], 'nothing.txt'),
    (['stories', '--preset', 'huge'], 'nano, xs, 10m, 100m, original'),
    (['stories', '--wings', '2'], 'wings'),
    (['stories', '--att_q_heads', '4', '--att_kv_heads', '3'], 'att_kv_heads=3'),
    (['stories', '--learning_rate', 'fast'], 'fast'),
    (['stories', '--optimizer', 'magic'], 'magic'),
    (['stories', '--batch_size', '0'], 'batch_size=0'),
    (['stories', '--device', 'abacus'], 'abacus'),
    (['stories', '--limit', '0'], 'limit=0'),
    (['stories', '--validation_bytes', '1'], 'validation_bytes=1'),
    (['stories', '--max_minutes', '0'], 'more than 0'),
    (['stories', '--epochs', '0'], 'more than 0'),
    (['stories', '--latent_att_window_size', '100000000'], 'less than 1048576'),
])
def test_bad_arguments(tmp_path, capsys, args, words):
    refused(capsys, train_command, tmp_path/'new', *args, words=words)
    assert not (tmp_path/'new').exists()

def test_empty_short_and_columnless_data(tmp_path, capsys):
    (tmp_path/'empty.txt').write_text('')
    (tmp_path/'short.txt').write_text('hello')
    (tmp_path/'rows.jsonl').write_text('{"body": "a"}\n{"body": "b"}\n')
    for name, words in (('empty.txt', 'empty'), ('short.txt', 'context'), ('rows.jsonl', 'body')):
        refused(capsys, train_command, tmp_path/'new', tmp_path/name, *TINY, words=words)
    assert not (tmp_path/'new').exists()

def test_a_run_is_not_called_as_the_model_that_comes_along(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    refused(capsys, train_command, 'stories', 'stories', *TINY, words='runs/mine')
    assert not Path('stories').exists()

@pytest.mark.parametrize('data', [None, [], {'limit': '1000'}, {'streaming': 1}], ids=str)
def test_a_config_that_was_edited_wrongly(run, tmp_path, capsys, data):
    asked = json.loads((run/'train.json').read_text()) | {'data': data}
    (tmp_path/'asked.json').write_text(json.dumps(asked))
    refused(capsys, train_command, tmp_path/'new', '--config', tmp_path/'asked.json', words='asked.json')

def test_unknown_hub_id_without_network(tmp_path):
    env = os.environ | {'HF_HUB_OFFLINE': '1', 'HF_DATASETS_OFFLINE': '1'}
    r = subprocess.run([sys.executable, '-m', 'pico.cli', 'train', tmp_path/'new', 'somebody/nothing'], env=env,
                       capture_output=True, text=True, timeout=120)
    assert r.returncode == 2 and r.stderr.strip().count('\n') == 0 and 'somebody/nothing' in r.stderr, r.stderr

def test_out_that_holds_something_else(tmp_path, capsys):
    (tmp_path/'diary.txt').write_text('dear diary')
    before = tree(tmp_path)
    refused(capsys, train_command, tmp_path, 'stories', *TINY, words='something else')
    assert tree(tmp_path) == before

def test_a_broken_config_loses_nothing(run, capsys):
    good = (run/'config.json').read_bytes()
    try:
        (run/'config.json').write_text('{"dim": ')
        before = tree(run)
        refused(capsys, train_command, run, words='config.json')
        refused(capsys, generate_command, run, words='config.json')
        refused(capsys, eval_command, run, words='config.json')
        assert tree(run) == before
    finally: (run/'config.json').write_bytes(good)

@pytest.mark.parametrize('flag', ['--dim=48', '--seed=3', '--batch-size=4', '--warmup_steps=7'])
def test_a_flag_that_contradicts_the_run(run, capsys, flag):
    before = tree(run)
    refused(capsys, train_command, run, flag, words='contradicts')
    assert tree(run) == before

def test_resuming_with_more_steps_equals_one_go(run, tmp_path):
    text = run.parent/'t.txt'
    steady = *TINY, '--schedule', 'constant'
    assert call(train_command, tmp_path/'one', text, *steady, '--max-steps', 6) == 0
    for n in (3, 6): assert call(train_command, tmp_path/'two', text, *steady, '--max-steps', n) == 0
    assert (tmp_path/'one/model.safetensors').read_bytes() == (tmp_path/'two/model.safetensors').read_bytes()
    assert call(train_command, tmp_path/'two') == 0                # finished: nothing changes
    assert (tmp_path/'one/model.safetensors').read_bytes() == (tmp_path/'two/model.safetensors').read_bytes()

def test_a_streamed_run_goes_on_and_is_evaluated(tmp_path, capsys):
    rows = (json.dumps({'text': f'Story {i}. {CATS}'}) + '\n' for i in range(2000))
    (tmp_path/'a.jsonl').write_text(''.join(rows))
    assert call(train_command, tmp_path/'r', tmp_path/'a.jsonl', '--streaming', *TINY, '--max_steps', 2) == 0
    assert call(train_command, tmp_path/'r', '--max_steps', 3) == 0
    assert call(eval_command, tmp_path/'r', '--max_bytes', 300) == 0
    refused(capsys, train_command, tmp_path/'n', tmp_path/'a.jsonl', '--streaming', '--epochs', 1, words='nobody knows')

def test_a_limit_that_is_not_said_again_is_as_it_was(tmp_path):
    assert call(train_command, tmp_path/'l', 'stories', '--limit', 20000, *TINY, '--max_steps', 1) == 0
    for source in ([], ['stories']): assert call(train_command, tmp_path/'l', *source, '--max_steps', 2) == 0

def test_generate_and_eval(run, capsys, tmp_path):
    assert call(generate_command, run, '--prompt', 'Mia', '--max_bytes', 12, '--mark', '') == 0
    assert capsys.readouterr().out.startswith('Mia')
    assert call(generate_command, run, '--prompt', 'Mia', '--max_bytes', 12, '--html', tmp_path/'a.html') == 0
    assert '<' in (tmp_path/'a.html').read_text()
    capsys.readouterr()
    assert call(eval_command, run) == 0 and 'bits per byte' in capsys.readouterr().out
    refused(capsys, generate_command, run, '--temperature', '-1', words='temperature')
    refused(capsys, generate_command, tmp_path/'nowhere', words='nowhere')

@pytest.mark.parametrize('name', ['pico-train', 'pico-generate', 'pico-eval', 'pico-page'])
def test_installed_commands_explain_themselves(name):
    r = subprocess.run([Path(sys.executable).parent/name, '--help'], capture_output=True, text=True, timeout=120)
    assert r.returncode == 0 and 'OUT' in r.stdout

def test_heads_are_chained_unless_others_are_asked_for(run, tmp_path, capsys):
    def heads(d):
        config = json.loads((d/'config.json').read_text())
        return config['heads'], config['heads_every']
    assert heads(run) == ('chained', 32)
    text = run.parent/'t.txt'
    assert call(train_command, tmp_path/'old', text, *TINY, '--max_steps', 1, '--heads', 'linear') == 0
    assert heads(tmp_path/'old') == ('linear', 1)
    for d in (run, tmp_path/'old'):                               # goes on, whatever its heads
        assert call(train_command, d, '--preset', 'nano', '--dim', 24, '--latent_num_blocks', 1) == 0
    refused(capsys, train_command, run, '--heads', 'linear', words='contradicts')

def test_the_router_is_the_learned_one_unless_another_is_asked_for():
    def asked(**fields):
        design = PicoConfig.preset('nano', **fields)
        return design.router, design.latent_carry
    assert asked() == ('rising', True)
    for router in ('space', 'tuned', 'whitespace', 'words'): assert asked(router=router) == (router, True)
    assert asked(latent_carry=False) == ('rising', False)
    assert asked(router='topk') == ('topk', False)
    assert asked(router='topk', latent_carry=True) == ('topk', True)

def script(name): return Path(sys.executable).parent/name

@pytest.mark.parametrize('start', [
    [script('pico-train')],
    [script('pico-eval')],
    [script('pico-generate')],
    [sys.executable, '-m', 'pico'],
    [sys.executable, '-m', 'pico.cli'],
    [sys.executable, '-m', 'pico', 'train'],
], ids=lambda a: ' '.join(map(str, a[-2:])).split('/')[-1])
def test_version_and_help(start):
    import pico
    def run(flag): return subprocess.run([*start, flag], capture_output=True, text=True, timeout=120)
    assert run('--version').stdout == f'pico {pico.__version__}\n'
    help = run('--help')
    assert help.returncode == 0 and 'examples:' in help.stdout and not help.stderr

def test_help_names_every_field_with_its_default_and_choices(capsys):
    assert call(train_command, '--help') == 0
    text = ' '.join(capsys.readouterr().out.split())
    for cls in (PicoConfig, TrainConfig):
        for f in dataclasses.fields(cls): assert f'--{f.name} ' in text, f.name
    assert text.count('(default: ') >= len(dataclasses.fields(PicoConfig)) + len(dataclasses.fields(TrainConfig))
    for group in ('data:', 'model:', 'training:', 'running:'): assert group in text
    assert '{' + ','.join(ROUTERS) + '}' in text and '(default: 6144; nano: 512)' in text and '(default: soap)' in text

NOT_THERE = ['xpu', 'meta', 'gpu', 'cuda:99'] + ([] if torch.backends.mps.is_available() else ['mps'])

@pytest.mark.parametrize('device', NOT_THERE)
def test_a_device_that_is_not_there_is_named(run, tmp_path, capsys, device):
    for f, args in ((train_command, [tmp_path/'new', 'stories', *TINY]), (eval_command, [run]),
                    (generate_command, [run])):
        refused(capsys, f, *args, '--device', device, words=f'device={device!r}')
    assert not (tmp_path/'new').exists()

@pytest.mark.parametrize('prompt', ['-- see well-known bug', '- item', '--', '---', '-5', '--max_bytes', '--no-latent'])
def test_a_value_is_never_altered(run, capsys, prompt):
    assert call(generate_command, run, '--prompt', prompt, '--max-bytes', 3, '--mark', '') == 0
    assert capsys.readouterr().out.startswith(prompt)

def test_a_number_that_is_two_dashes_is_refused(run, capsys):
    refused(capsys, generate_command, run, '--max_bytes', '--', words='--max_bytes')

def test_own_text_takes_the_small_preset_and_says_what_will_happen(tmp_path, capsys):
    text = tmp_path/'my text.txt'
    text.write_text('The quick brown fox jumps over it. ' * 400)
    assert call(train_command, tmp_path/'r', text, '--max_steps', 1, '--validation_bytes', 300) == 0
    out, err = capsys.readouterr()
    first = err.splitlines()
    assert first[0] == '12,600 bytes of text to train on, 1,400 held out'
    assert first[1].startswith('nano: 623,661 parameters') and '2,048 bytes per step' in first[1]
    assert 'GB of memory' in first[2]
    assert "--prompt 'The quick brown fox'" in out and 'Once upon' not in out

def test_a_long_run_is_told_beforehand(tmp_path, capsys):
    (tmp_path/'t.txt').write_text('The quick brown fox jumps over it. ' * 4000)
    out = subprocess.Popen([script('pico-train'), tmp_path/'r', tmp_path/'t.txt', '--max_steps', '10000000'],
                           stderr=subprocess.PIPE, text=True)
    try: lines = [out.stderr.readline() for _ in range(5)]
    finally: out.kill()
    assert '--preset nano --max_minutes 10' in lines[3] and 'step 1,' in lines[4], lines

def test_a_small_step_leaves_no_trace():
    from pico.costs import small_step
    torch.manual_seed(0)
    model = Pico(PicoConfig.preset('nano', dim=24, latent_num_blocks=1, router='threshold')).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    seconds, kept = small_step(model, torch.arange(64)[None] % 128)
    assert seconds > 0 and kept > 64 * 24 * 4
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert all(not t.any() for t in model.latent.router.counted())

def test_the_library_takes_what_the_command_takes(tmp_path):
    (tmp_path/'t.txt').write_text('The quick brown fox jumps over it. ' * 400)
    from pico.train import as_asked, train
    config, settings = as_asked(tmp_path/'r', None, None)
    assert (config, settings) == (PicoConfig.preset('nano'), TrainConfig.preset('nano'))
    small = dict(validation_bytes=300, max_steps=1)
    a = train(tmp_path/'a', tmp_path/'t.txt', settings=TrainConfig.preset('nano', **small), progress=False)
    assert call(train_command, tmp_path/'b', tmp_path/'t.txt', '--max_steps', 1, '--validation_bytes', 300) == 0
    a_weights, b_weights = ((tmp_path/d/'model.safetensors').read_bytes() for d in 'ab')
    assert a_weights == b_weights and a.config == config
    train(tmp_path/'a', tmp_path/'t.txt', progress=False)         # a run that is there goes on as it was begun

def test_places_where_no_run_can_be(run, capsys):
    for out in (run/'config.json'/'below', '/proc/pico', 'x' * 300, '~nosuchuser/x'):
        if str(out).startswith('~'): continue                     # for train that is an ordinary name
        refused(capsys, train_command, out, 'stories', *TINY, '--max_steps', 1)
    refused(capsys, train_command, run/'config.json', 'stories', *TINY, words='is a file: give a directory')
    refused(capsys, generate_command, '~nosuchuser/x', words='no such user')
    for command in (generate_command, eval_command): refused(capsys, command, '', words="'' is no model")

@pytest.mark.parametrize('name', ['config.json', 'model.safetensors'])
def test_a_file_that_may_not_be_read_is_not_called_damaged(run, capsys, monkeypatch, name):
    import builtins
    real = builtins.open
    def locked(file, *args, **kwargs):
        if Path(file).parts[-2:] == ('r', name): raise PermissionError(13, 'Permission denied', str(file))
        return real(file, *args, **kwargs)
    monkeypatch.setattr(builtins, 'open', locked)
    monkeypatch.setattr(Path, 'open', locked)                     # what Path.read_text uses, in every Python
    capsys.readouterr()
    assert call(generate_command, run) == 2
    err = capsys.readouterr().err
    assert 'may not be read (Permission denied)' in err and 'damaged' not in err and err.count('\n') == 1

def test_a_full_disk_at_the_picture_spoils_no_run(tmp_path, capsys, monkeypatch):
    import pico.cli
    def full(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(pico.cli, 'plot_run', full)
    (tmp_path/'t.txt').write_text('The quick brown fox jumps over it. ' * 100)
    assert call(train_command, tmp_path/'r', tmp_path/'t.txt', *TINY, '--max_steps', 1) == 0
    assert 'could not be drawn (No space left on device)' in capsys.readouterr().err

@pytest.mark.skipif(not Path('/dev/full').exists(), reason='needs a device that is always full')
def test_output_that_cannot_be_written(run):
    for end, words in (('> /dev/full', 'No space left'), ('>&-', 'is closed')):
        typed = f'"{script("pico-generate")}" "{run}" --max_bytes 30 {end}'
        r = subprocess.run(typed, shell=True, capture_output=True, text=True, timeout=120)
        assert r.returncode == 2 and words in r.stderr and r.stderr.count('\n') == 1, r.stderr

@pytest.mark.parametrize('encoding', ['ascii', 'latin-1', 'cp1252'])
def test_a_terminal_that_cannot_show_everything(run, encoding):
    env = os.environ | {'PYTHONIOENCODING': encoding}
    for prompt in ('h\u00e9llo \u4f60', b'broken \xff'):            # the second arrives as a lone surrogate
        r = subprocess.run([script('pico-generate'), run, '--max_bytes', '20', '--prompt', prompt], env=env,
                           capture_output=True, timeout=120)
        assert r.returncode == 0 and not r.stderr, r.stderr

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs a child with other rights')
def test_a_finished_run_that_may_only_be_read_is_evaluated():
    "By a user without rights, whose home does not exist either."
    import processes
    import tempfile
    with tempfile.TemporaryDirectory() as d:
        os.chmod(d, 0o755)
        (Path(d)/'t.txt').write_text(CATS * 200)
        assert call(train_command, Path(d)/'r', Path(d)/'t.txt', *TINY, '--max_steps', 2) == 0
        def work():
            for f in Path(d).rglob('*'): f.chmod(0o555 if f.is_dir() else 0o444)
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os.environ['HOME'] = '/nonexistent'
            eval_command([str(Path(d)/'r'), '--max_bytes', '300'])
            generate_command([str(Path(d)/'r'), '--max_bytes', '10'])
        assert processes.wait(processes.start(work)) == 0
        for f in Path(d).rglob('*'): f.chmod(0o755)

def test_a_run_without_its_checkpoints_does_not_begin_over_its_model(run, tmp_path, capsys):
    mine = tmp_path/'mine'
    shutil.copytree(run, mine)
    shutil.rmtree(mine/'checkpoints')
    before = (mine/'model.safetensors').read_bytes()
    assert call(train_command, mine, '--max_steps', 6) == 2 and f'--from {mine}' in capsys.readouterr().err
    assert (mine/'model.safetensors').read_bytes() == before
    assert call(train_command, tmp_path/'new', run.parent/'t.txt', '--from', mine, *TINY[8:], '--max_steps', 1) == 0

def test_what_took_no_step_may_be_asked_for_otherwise(tmp_path, monkeypatch, capsys):
    "As the sentence about too little memory advises."
    text = tmp_path/'t.txt'
    text.write_text(CATS * 200)
    def short(*args, **kw): raise MemoryError
    with monkeypatch.context() as m:
        m.setattr('pico.train.loop', short)
        assert call(train_command, tmp_path/'r', text, *TINY, '--max_steps', 2) == 2
        assert 'smaller --batch_size' in capsys.readouterr().err
    assert call(train_command, tmp_path/'r', '--batch_size', 1, '--max_steps', 2) == 0
    refused(capsys, train_command, tmp_path/'r', '--batch_size', 2, words='batch_size=2 contradicts')

def test_what_took_no_step_leaves_nothing_to_a_whole_new_request(tmp_path, monkeypatch, capsys):
    "Neither its settings nor its untrained weights; alone, the directory still stands for all that was asked."
    rows, text, out = tmp_path/'rows.jsonl', tmp_path/'t.txt', tmp_path/'r'
    rows.write_text(''.join(json.dumps(dict(body=CATS, n=i)) + '\n' for i in range(300)))
    text.write_text(CATS * 200)
    first = out, rows, *TINY, '--column', 'body', '--limit', 9000, '--max_steps', 2
    def short(*args, **kw): raise MemoryError
    with monkeypatch.context() as m:
        m.setattr('pico.train.loop', short)
        assert call(train_command, *first) == 2
        Pico(PicoConfig.preset('nano')).save_pretrained(out)      # as it is left by a stop before the first step
        assert call(train_command, out) == 2                      # goes on as it was asked
        asked = read_json(out/'train.json')
        assert asked['data']['column'] == 'body' and asked['data']['limit'] == 9000
        assert not (out/'model.safetensors').exists() and not (out/'README.md').exists()
        assert call(train_command, out, text, '--preset', 'nano', '--max_steps', 2) == 2
    asked = read_json(out/'train.json')
    new = TrainConfig.preset('nano', max_steps=2)
    assert TrainConfig.from_dict(asked['settings']) == new and asked['data']['limit'] is None
    assert PicoConfig.from_dict(asked['config']) == PicoConfig.preset('nano') and asked['data']['column'] == 'text'

def test_a_limit_that_contradicts_the_run_is_named(run, capsys):
    refused(capsys, train_command, run, '--limit', 2000, '--max_steps', 5, words='data limit=2000 contradicts')

def test_a_run_from_a_corpus_goes_on_by_command(tmp_path, capsys):
    rows, out = tmp_path/'rows.jsonl', tmp_path/'r'
    rows.write_text(''.join(json.dumps(dict(body=CATS, n=i)) + '\n' for i in range(300)))
    how = dict(context_len=32, batch_size=2, warmup_steps=1, schedule='constant')
    shape = PicoConfig.preset('nano', dim=24, latent_num_blocks=1)
    train(out, load_corpus(rows, column='body', limit=5000), shape, TrainConfig(**how, max_steps=1), progress=False)
    assert call(train_command, out, '--max_steps', 2) == 0
    assert call(eval_command, out, '--max_bytes', 300) == 0
    again = load_corpus(rows, column='body', limit=5000)
    train(out, again, shape, TrainConfig(**how, max_steps=3), progress=False)

def test_what_a_stream_leaves_out_is_said(tmp_path, capsys):
    rows = [json.dumps(dict(text=f'Story {i}. {CATS}')) for i in range(400)]
    rows[250:250] = ['{"text": 7}', 'no row']
    (tmp_path/'a.jsonl').write_text('\n'.join(rows))
    size = 400 * (len(CATS) + 12)
    assert call(train_command, tmp_path/'r', tmp_path/'a.jsonl', '--streaming', *TINY, '--max_steps', size // 100) == 0
    assert 'rows that cannot be read (2: line 251' in capsys.readouterr().err

@pytest.mark.parametrize('source', ['stories', 'python'])
def test_what_is_built_in_needs_no_streaming(source, tmp_path, capsys):
    refused(capsys, train_command, tmp_path/'r', source, '--streaming', '--max_steps', 1, words='is built in')

def test_a_setting_that_is_newer_than_the_run_cannot_be_changed(run, tmp_path, capsys):
    old = tmp_path/'old'
    shutil.copytree(run, old)
    asked = read_json(old/'train.json', sealed=True)
    del asked['settings']['average'], asked['settings']['repeats']
    write_json(old/'train.json', asked)
    refused(capsys, train_command, old, '--repeats', .5, words='repeats=0.5 contradicts')

def test_home_is_home_for_a_run_too(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('USERPROFILE', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path/'r')
    assert call(train_command, '~/r', '--max_steps', 5) == 0 and not (tmp_path/'~').exists()
    assert call(eval_command, '~/r') == 0
    assert 't.txt, validation' in capsys.readouterr().out

def test_what_was_streamed_is_scored_as_it_was_streamed(tmp_path, capsys):
    text = tmp_path/'t.jsonl'
    text.write_text(''.join(json.dumps(dict(text=f'{CATS} {i}')) + '\n' for i in range(600)))
    assert call(train_command, tmp_path/'r', text, *TINY, '--streaming', '--max_steps', 2) == 0
    found = []
    for source in [], [text]:
        capsys.readouterr()
        assert call(eval_command, tmp_path/'r', *source) == 0
        found.append(capsys.readouterr().out.split('bits per byte')[0].split('): ')[1])
    assert found[0] == found[1]
    refused(capsys, eval_command, tmp_path/'r', '--split', 'train', words="only 'validation'")
    capsys.readouterr()
    assert call(eval_command, tmp_path/'r', '--max_bytes', 100) == 0
    assert 50 < int(capsys.readouterr().out.split(' bytes,')[0].split()[-1]) <= 100

def test_processes_join_on_the_device_of_the_run(run, monkeypatch, capsys):
    devices = []
    monkeypatch.setattr('pico.cli.join_group', lambda device: devices.append(device) or (0, 1))
    assert call(train_command, run, '--device', 'cpu') == 0
    assert call(train_command, run) == 0
    assert devices == ['cpu', 'cpu']

def test_a_text_that_cannot_be_kept_is_shown_first(tmp_path, capsys):
    assert call(generate_command, '--max_bytes', 9, '--prompt', 'Once', '--html', tmp_path/'none'/'page.html') == 2
    said = capsys.readouterr()
    assert said.out.startswith('Once') and 'another folder' in said.err

def test_what_ends_a_run_is_what_makes_it_longer(run, tmp_path, capsys):
    for flags, words in ((['--epochs', .01], 'larger --epochs'), (['--max_minutes', .01], 'larger --max_minutes'),
                         (['--max_steps', 1, '--epochs', 9], 'larger --max_steps and --epochs')):
        out = tmp_path/words[-8:]
        assert call(train_command, out, run.parent/'t.txt', *TINY, *flags) == 0
        assert words in capsys.readouterr().out

# what a user found by trying

def test_a_place_may_stand_after_a_flag(tmp_path, run, capsys):
    text = run.parent/'t.txt'
    assert call(train_command, tmp_path/'r', *TINY, '--max_steps', 1, text) == 0
    assert call(eval_command, '--max_bytes', 300, run, text) == 0
    refused(capsys, train_command, tmp_path/'r', '--no_such_flag', 3, words='--no_such_flag')

def test_csv_with_commas_in_its_text_is_refused(tmp_path, capsys):
    (tmp_path/'t.csv').write_text('text\n' + 'On that day the fox ran, and the dog slept.\n' * 99)
    for more in (), ('--streaming', '--max_steps', 1):
        refused(capsys, train_command, tmp_path/'r', tmp_path/'t.csv', *TINY, *more, words='2 fields in its first row')

def test_json_that_begins_with_null_is_read(tmp_path):
    (tmp_path/'t.json').write_text(json.dumps([None] + [dict(text=CATS)] * 200))
    assert call(train_command, tmp_path/'r', tmp_path/'t.json', *TINY, '--max_steps', 1) == 0

def test_a_held_out_text_that_is_gone_loses_no_steps(tmp_path, monkeypatch, capsys):
    text = tmp_path/'t.txt'
    text.write_text(CATS * 200)
    def gone(*args, **kw): raise InputError(f'{text} can no longer be read')
    with monkeypatch.context() as m:
        m.setattr('pico.train.bits_per_byte', gone)
        assert call(train_command, tmp_path/'r', text, *TINY, '--max_steps', 4, '--validation_interval', 3) == 2
    assert 'can no longer be read; everything up to step 3 is saved' in capsys.readouterr().err
    assert call(train_command, tmp_path/'r') == 0

def test_a_page_is_written_whole_or_the_old_one_stays(tmp_path, run, monkeypatch, capsys):
    page = tmp_path/'a.html'
    page.write_text('the old one')
    real = Path.write_text
    def full(self, text, **kw):
        real(self, text[:len(text)//2], **kw)
        raise OSError(28, 'No space left on device')
    with monkeypatch.context() as m:
        m.setattr('pathlib.Path.write_text', full)
        assert call(generate_command, run, '--max_bytes', 5, '--html', page) == 2
    assert 'No space left' in capsys.readouterr().err and page.read_text() == 'the old one'

@pytest.mark.skipif(sys.platform == 'win32', reason='links need rights there')
def test_a_page_that_is_a_link_stays_one(tmp_path):
    "As /dev/stdout is."
    (tmp_path/'link.html').symlink_to(tmp_path/'a.html')
    for text in 'one', 'two': write_page(tmp_path/'link.html', text)
    assert (tmp_path/'link.html').is_symlink() and (tmp_path/'a.html').read_text() == 'two'

@pytest.mark.skipif(sys.platform != 'linux', reason='names are bytes on Linux only')
def test_a_run_whose_name_is_not_utf8_is_refused_before_it_trains(tmp_path, run, capsys):
    out = os.fsdecode(os.fsencode(tmp_path) + b'/ru\xe9')
    refused(capsys, train_command, out, run.parent/'t.txt', *TINY, '--max_steps', 1, words='no name in UTF-8')
    assert not os.path.exists(out)

def test_what_another_run_read_stays_with_its_text(tmp_path, run):
    text = tmp_path/'t.txt'
    text.write_text(CATS * 300)
    assert call(train_command, tmp_path/'a', text, *TINY, '--max_steps', 1, '--limit', 2000) == 0
    assert call(train_command, tmp_path/'b', run.parent/'t.txt', '--config', tmp_path/'a') == 0
    assert read_json(tmp_path/'b/train.json', sealed=True)['data']['limit'] is None
    assert call(train_command, tmp_path/'c', '--config', tmp_path/'a') == 0
    assert read_json(tmp_path/'c/train.json', sealed=True)['data']['limit'] == 2000

def test_a_text_that_has_changed_since_is_said_to_have_when_it_is_scored(tmp_path, capsys):
    text = tmp_path/'t.txt'
    text.write_text(CATS * 200)
    assert call(train_command, tmp_path/'r', text, *TINY, '--max_steps', 1) == 0
    assert call(eval_command, tmp_path/'r', '--max_bytes', 300) == 0 and 'has changed' not in capsys.readouterr().err
    for split in ('train', 'all'):
        assert call(eval_command, tmp_path/'r', '--max_bytes', 300, '--split', split) == 0
        assert 'has changed' not in capsys.readouterr().err
    text.write_text(CATS * 100)
    assert call(eval_command, tmp_path/'r', '--max_bytes', 300) == 0 and 'has changed' in capsys.readouterr().err

def test_the_next_commands_can_be_copied(tmp_path, run, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(train_command, 'my runs/a', run.parent/'t.txt', *TINY, '--max_steps', 1) == 0
    assert "pico-eval 'my runs/a'\n" in capsys.readouterr().out

@pytest.mark.parametrize('name', ['x' * 300, 'x' * 300 + '/train.json'])
def test_names_that_are_too_long_are_one_sentence(name, tmp_path, run, capsys):
    refused(capsys, train_command, tmp_path/'r', name, '--streaming', '--max_steps', 1, words='cannot be loaded')
    refused(capsys, train_command, tmp_path/'r', run.parent/'t.txt', '--config', name, words='not readable')

def test_both_ways_to_show_a_text_mark_alike():
    "One mark for each routed byte, behind its character, also behind one that is cut off."
    data = 'кот é'.encode()[:-1]
    routed = [True, True, False, True, False, False, True, True]
    out = io.StringIO()
    show_stream([Step(b, r) for b, r in zip(data, routed, strict=True)], out=out)
    assert out.getvalue() == Generated(b'', data, routed, [None] * 8, 1, []).marked() + '\n' == 'к__о_т _\ufffd_\n'

def test_stories_have_an_end(run, capsys):
    refused(capsys, eval_command, run, 'stories', '--max_bytes', 10**11, words='at most 1,000,000,000 bytes')

@pytest.mark.parametrize('command, args', [(generate_command, ['--prompt', 'Once', '--max_bytes', 5]),
                                           (eval_command, ['--max_bytes', 300])])
def test_without_a_directory_it_is_the_model_that_comes_along(command, args, capsys):
    "Which has the default design."
    assert call(command, *args) == 0
    out, err = capsys.readouterr()
    assert out and err == "no model was named: this is 'stories', which comes with the package\n"
    assert Pico.from_pretrained('stories').config == PicoConfig.preset('nano')
