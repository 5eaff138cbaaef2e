"Other systems: what only Unix has is hidden, line endings are turned, the environment is odd. The core goes on."
import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path
import pytest
import torch
import torch.distributed as dist
import check_sync
from nbdev_command import nbdev
import pico
from pico.core import InputError
from pico.parallel import join_group

ROOT = check_sync.ROOT
MODULES = {'fcntl', 'grp', 'pwd', 'resource', 'termios', 'tty', 'pty', 'syslog', 'curses', 'readline'}
OS = {'fork', 'forkpty', 'kill', 'killpg', 'getuid', 'geteuid', 'getgid', 'getegid', 'setsid', 'getpgid', 'nice',
      'mkfifo', 'pread', 'fchmod', 'sched_getaffinity'}
SIGNAL = {'SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGALRM', 'SIGKILL', 'SIGCHLD', 'SIGPIPE', 'SIGQUIT', 'alarm', 'setitimer',
          'pthread_sigmask', 'sigwait'}
# Not hidden, since the Linux builds of NumPy and PyTorch themselves ask for them: os.uname, os.sysconf and
# os.register_at_fork.

HIDE = f'''
import importlib.abc, os, signal, sys
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in {MODULES!r}: raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
for name in {MODULES!r}: sys.modules.pop(name, None)
sys.meta_path.insert(0, Hidden())
for module, names in ((os, {OS!r}), (signal, {SIGNAL!r})):
    for name in names:
        if hasattr(module, name): delattr(module, name)
'''
CORE = '''
import importlib, pkgutil, sys
from pathlib import Path
import pico
for m in pkgutil.iter_modules(pico.__path__): importlib.import_module(f'pico.{m.name}')
print('imported')
from pico.checkpoint import all_steps, latest
from pico.evaluate import bits_per_byte, router_report
from pico.generate import generate
from pico.model import Pico, PicoConfig
from pico.train import TrainConfig, train
from pico.record import read_metrics
folder = Path(sys.argv[1])
(folder/'text.txt').write_text('Mia has a red cat. ' * 300)
config = PicoConfig(dim=24, next_tokens=2, att_q_heads=3, att_kv_heads=1, fb_num_blocks=1, fb_att_window_size=8,
                    latent_capacity_factor=.25, latent_num_blocks=1, latent_att_window_size=8, router='topk',
                    latent_carry='no', marks='bytes', heads='linear', heads_every=1)
def go(steps):
    s = TrainConfig(context_len=64, batch_size=2, validation_bytes=300, max_steps=steps, device='cpu')
    return train(folder/'run', folder/'text.txt', config, s, progress=False)
go(3)
assert [m['step'] for m in read_metrics(folder/'run')] == [1, 2, 3]
print('trained')
assert latest(folder/'run/checkpoints').name == '00000003'
print('saved')
go(5)
assert all_steps(folder/'run/checkpoints')[-1] == 5
assert [m['step'] for m in read_metrics(folder/'run')] == [1, 2, 3, 4, 5]
print('resumed')
model = Pico.from_pretrained(folder/'run')
assert len(generate(model, 'Mia', max_bytes=20, ignore_end=True).bytes) == 20
print('generated')
assert 0 < bits_per_byte(model, b'Mia has a red cat.').bpb < 20 and router_report(model, b'Mia has a red cat. ' * 20)
print('evaluated')
'''

@pytest.fixture(scope='module')
def said(tmp_path_factory):
    "What the core says in a process without anything that only Unix has."
    command = [sys.executable, '-c', HIDE + CORE, str(tmp_path_factory.mktemp('elsewhere'))]
    env = os.environ | {'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, cwd=ROOT)
    return done.stdout.split(), done.stderr

@pytest.mark.parametrize('stage', ['imported', 'trained', 'saved', 'resumed', 'generated', 'evaluated'])
def test_the_core_needs_nothing_that_only_unix_has(said, stage):
    stages, error = said
    assert stage in stages, error[-2000:]

def test_nobody_is_kept_out_there_and_that_is_said(said):
    assert 'cannot be locked here' in said[1]

def unix_names(file):
    "What of a module's source is only there on Unix; a name asked for by `getattr` is allowed."
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level: names = [node.module]
        yield from (n for n in names if n.split('.')[0] in MODULES)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in dict(os=OS, signal=SIGNAL).get(node.value.id, ()): yield f'{node.value.id}.{node.attr}'

def test_no_module_names_what_only_unix_has(tmp_path):
    for file in sorted((ROOT/'pico').glob('*.py')): assert not list(unix_names(file)), file.name
    (tmp_path/'a.py').write_text('import fcntl\ndef f(): return os.fork(), signal.SIGHUP, signal.SIGTERM\n')
    assert sorted(unix_names(tmp_path/'a.py')) == ['fcntl', 'os.fork', 'signal.SIGHUP']

# line endings

@pytest.fixture
def git(tmp_path):
    "A function that runs git in a folder, with settings of its own."
    if not shutil.which('git'): pytest.skip('git is not installed')
    own = {'HOME': str(tmp_path), 'XDG_CONFIG_HOME': str(tmp_path), 'GIT_CONFIG_NOSYSTEM': '1'}
    env = {k: v for k,v in os.environ.items() if not k.startswith('GIT_')} | own
    def run(folder, *args):
        name = ['-c', 'user.name=test', '-c', 'user.email=test@example.org', '-c', 'core.autocrlf=true']
        done = subprocess.run(['git', *name, *args], cwd=folder, env=env, check=True, capture_output=True, text=True)
        return done.stdout
    return run

@pytest.fixture
def clone(git, tmp_path):
    "A clone of the notebooks and the package with automatic line endings."
    origin, copy = tmp_path/'origin', tmp_path/'clone'
    (origin/'nbs').mkdir(parents=True)
    for f in (ROOT/'nbs').glob('*.ipynb'): shutil.copy(f, origin/'nbs')
    shutil.copytree(ROOT/'pico', origin/'pico', ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('.gitattributes', '.gitignore', *check_sync.SETTINGS): shutil.copy(ROOT/name, origin)
    git(origin, 'init', '-q')
    git(origin, 'add', '.')
    git(origin, 'commit', '-q', '-m', 'all')
    git(tmp_path, 'clone', '-q', '-c', 'core.autocrlf=true', str(origin), str(copy))
    return copy

def test_a_clone_with_automatic_line_endings_is_in_step(clone, git):
    assert '.gitattributes' in git(clone, 'ls-files')
    assert not [f for f in clone.rglob('*') if f.suffix in ('.py', '.ipynb', '.ini') and b'\r\n' in f.read_bytes()]
    assert check_sync.differences(clone) == []

def test_other_line_endings_are_no_difference_but_other_code_is(tmp_path):
    leave_out = shutil.ignore_patterns('results', 'images', '__pycache__')
    for name in ('nbs', 'pico'): shutil.copytree(ROOT/name, tmp_path/name, ignore=leave_out)
    for name in check_sync.SETTINGS: shutil.copy(ROOT/name, tmp_path)
    for f in (tmp_path/'pico').glob('*.py'): f.write_bytes(f.read_bytes().replace(b'\n', b'\r\n'))
    with open(tmp_path/'pico'/'alibi.py', 'ab') as f: f.write(b'x = 1\r\n')
    assert check_sync.differences(tmp_path) == ['pico/alibi.py differs from its notebook']

def test_nbdev_installs_its_hooks_and_changes_little_here(clone, git, tmp_path):
    command, env = nbdev('install_hooks'), os.environ | {'HOME': str(tmp_path/'home')}
    (tmp_path/'home').mkdir()
    for _ in range(2):
        done = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True)
        assert done.returncode == 0 and 'Hooks are installed' in done.stdout and not done.stderr
    three = Path(command[0]).stem == 'nbdev-install-hooks'        # nbdev 3 has another driver, and writes it down
    assert git(clone, 'status', '--short') == (' M .gitattributes\n' if three else '')
    driver = git(clone, 'check-attr', 'merge', 'nbs/07_model.ipynb').split()[-1]
    assert driver == ('jupyternotebook' if three else 'nbdev-merge')
    assert 'nbdev' in git(clone, 'config', f'merge.{driver}.driver')

# an odd environment

@pytest.mark.parametrize('text', ['', ' ', 'two', '-1', '0', '1.5', '4 processes'])
def test_a_number_of_processes_that_is_none_is_one_sentence(monkeypatch, text):
    monkeypatch.setenv('WORLD_SIZE', text)
    with pytest.raises(InputError) as e: join_group()
    assert f'WORLD_SIZE={text!r}' in str(e.value) and 'at least 1' in str(e.value) and '\n' not in str(e.value)

def test_one_process_or_none_named_is_alone(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '1')
    assert join_group() == (0, 1)
    monkeypatch.delenv('WORLD_SIZE')
    assert join_group() == (0, 1)

def test_processes_on_a_machine_with_a_gpu(monkeypatch):
    "Two for one GPU are refused, unless they compute on the processor; GPUs need NCCL."
    groups = []
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setattr(dist, 'is_nccl_available', lambda: True)
    monkeypatch.setattr(dist, 'init_process_group', lambda backend, **how: groups.append(backend))
    join_group('cpu')
    assert groups == ['gloo']
    with pytest.raises(InputError, match='2 processes were started on a machine with 1 GPUs'): join_group()
    monkeypatch.setattr(dist, 'is_nccl_available', lambda: False)
    with pytest.raises(InputError, match='NCCL'): join_group('cuda')
    assert groups == ['gloo']

@pytest.mark.parametrize('others, given, after', [
    (0, {}, {'GOMP_SPINCOUNT': '10000'}), (99, {}, {'OMP_WAIT_POLICY': 'PASSIVE'}),
    (99, {'GOMP_SPINCOUNT': '5'}, {'GOMP_SPINCOUNT': '5'}),
    (0, {'OMP_WAIT_POLICY': 'ACTIVE'}, {'OMP_WAIT_POLICY': 'ACTIVE'})])
def test_threads_spin_on_a_quiet_machine_and_what_the_user_set_stands(monkeypatch, others, given, after):
    "Chapter 13: twice the speed on a quiet machine."
    names = 'GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'
    for name in names:
        monkeypatch.setenv(name, '')                              # noted, so that it is as before afterwards
        monkeypatch.delenv(name)
    for name, value in given.items(): monkeypatch.setenv(name, value)
    monkeypatch.setattr(pico, 'other_tasks', lambda: others)
    pico.wait_briefly()
    assert {name: os.environ[name] for name in names if name in os.environ} == after

def test_importing_the_commands_sets_how_threads_wait_and_loads_nothing_slow():
    code = ("import os, sys, pico.cli; print(sorted({'GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'} & os.environ.keys()), "
            "sorted({'datasets', 'matplotlib', 'pandas', 'IPython'} & sys.modules.keys()))")
    env = {k: v for k, v in os.environ.items() if k not in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')}
    out = subprocess.run([sys.executable, '-c', code], env=env, cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0 and out.stdout.strip() in ("['GOMP_SPINCOUNT'] []", "['OMP_WAIT_POLICY'] []"), out
