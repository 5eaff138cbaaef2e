"""Checkpoints and everything else that is read back: damaged, half deleted, on a full disk.

Always one sentence, never a traceback, and the run goes on."""
import ast
import errno
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
import pico.train
import processes
from pico.checkpoint import all_steps, flush, load, latest, run_lock, read_json
from pico.checkpoint import save, find_damage, take_apart, write_json, atomic_write
from conftest import CATS, ROOT, TINY
from pico.cli import pico_train
from pico.core import InputError
from pico.model import Pico, read_config
from pico.record import cut_metrics, read_metrics
from test_train import everything, go

RUN = [*TINY, '--validation_interval', '0', '--checkpoint_interval', '2', '--max_steps', '6']

@pytest.fixture(autouse=True)
def nobody_stays_behind():
    yield
    processes.clean()

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A finished run with checkpoints 2, 4 and 6, and a copy to be hurt."
    d = tmp_path_factory.mktemp('run')
    (d/'t.txt').write_text(CATS * 200)
    def make():
        os.chdir(d)
        pico_train([str(d/'whole'), str(d/'t.txt'), *RUN])
    assert processes.run(make) == 0 and all_steps(d/'whole/checkpoints') == [2, 4, 6]
    return d/'whole'

@pytest.fixture
def hurt(whole):
    shutil.rmtree(whole.parent/'hurt', ignore_errors=True)
    return Path(shutil.copytree(whole, whole.parent/'hurt'))

def flip(f):
    data = bytearray(f.read_bytes())
    data[len(data)//2] ^= 4
    f.write_bytes(data)
def half(f): os.truncate(f, f.stat().st_size // 2)
def longer(f): f.write_bytes(f.read_bytes() + b'\0')
def empty(f): f.write_bytes(b'')

@pytest.mark.parametrize('harm', [flip, half, longer, empty, os.remove])
@pytest.mark.parametrize('name', ['model.safetensors', 'state.safetensors', 'state.json', 'manifest.json'])
def test_a_damaged_checkpoint_is_named_and_passed_over(hurt, name, harm):
    harm(hurt/'checkpoints/00000006'/name)
    said = []
    assert latest(hurt/'checkpoints', said.append).name == '00000004'
    assert len(said) == 1 and 'checkpoint 6 is damaged' in said[0] and name in said[0] and '\n' not in said[0]

def test_a_run_with_damaged_checkpoints_arrives_at_the_same_place(whole, hurt):
    half(hurt/'checkpoints/00000006/state.safetensors')
    shutil.rmtree(hurt/'checkpoints/00000004')
    (hurt/'checkpoints/00000004').mkdir()
    def resume(): pico_train([str(hurt)])
    assert processes.run(resume) == 0
    assert everything(hurt) == everything(whole)
    for step in all_steps(hurt/'checkpoints'): half(hurt/f'checkpoints/{step:08d}/model.safetensors')
    assert processes.run(resume, hurt/'said') == 2 and 'no checkpoint' in (hurt/'said').read_text()

@pytest.mark.parametrize('where', ['torch.nn.Module.load_state_dict', 'pico.checkpoint.load_file'])
@pytest.mark.parametrize('error', [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_too_little_memory_is_no_damage(hurt, where, error, monkeypatch):
    def short(*args, **kw): raise error
    monkeypatch.setattr(where, short)
    assert processes.run(lambda: pico_train([str(hurt), '--max_steps', '8']), hurt/'said') == 2
    said = (hurt/'said').read_text()
    assert 'more memory' in said and 'delete' not in said and 'Traceback' not in said
    assert all_steps(hurt/'checkpoints') == [2, 4, 6]

def test_what_cannot_be_read_now_is_not_called_damaged(hurt, monkeypatch):
    "A network file system that has lost its handle will find it again."
    def stale(file, *args): raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), file)
    monkeypatch.setattr('pico.checkpoint.open', stale, raising=False)
    for f in (lambda: latest(hurt/'checkpoints', pytest.fail), lambda: load(hurt/'checkpoints/00000006')):
        with pytest.raises(InputError, match='cannot be read .*start again'): f()

def test_a_newer_model_stays_until_its_steps_are_taken_again(hurt, whole, monkeypatch):
    "Its checkpoint is damaged, so the run goes on from the one before. What a crash has left is cleared away."
    flip(hurt/'checkpoints/00000006/state.safetensors')
    left = hurt/'.model.safetensors.12345.tmp'
    left.write_bytes(b'half')
    with monkeypatch.context() as m:
        def short(*args, **kw): raise MemoryError
        m.setattr('pico.train.loop', short)
        assert processes.run(lambda: pico_train([str(hurt)])) == 2
    assert (hurt/'model.safetensors').read_bytes() == (whole/'model.safetensors').read_bytes() and not left.exists()
    (hurt/'model.safetensors').write_bytes(b'no model')
    assert processes.run(lambda: pico_train([str(hurt)])) == 0 and everything(hurt) == everything(whole)

def test_a_checkpoint_under_another_step_is_noticed(hurt):
    os.rename(hurt/'checkpoints/00000006', hurt/'checkpoints/00000009')
    assert 'step 6' in find_damage(hurt/'checkpoints/00000009')

# any damage at all

values = st.recursive(st.none() | st.booleans() | st.integers(-10**25, 10**25) | st.floats() | st.text(max_size=5),
                      lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3),
                      max_leaves=6)

@st.composite
def damage(draw, data):
    "Other content: bytes changed, lost or added, a number made huge, nested without end, or something else altogether."
    kind = draw(st.sampled_from(['flip', 'cut', 'insert', 'digit', 'value', 'bytes', 'deep', 'field']))
    at = draw(st.integers(0, max(0, len(data) - 1)))
    if kind == 'flip': return data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at+1:]
    if kind == 'cut': return data[:at]
    if kind == 'insert': return data[:at] + draw(st.binary(min_size=1, max_size=20)) + data[at:]
    if kind == 'digit':
        digits = [i for i,b in enumerate(data[:4000]) if chr(b).isdigit()]
        i = draw(st.sampled_from(digits)) if digits else 0
        number = draw(st.sampled_from([b'9' * 7, b'9' * 30, b'9' * 5000, b'-1', b'1e400', b'NaN', b'null']))
        return data[:i] + number + data[i+1:]
    if kind == 'value': return json.dumps(draw(values)).encode()
    if kind == 'deep': return draw(st.sampled_from([b'[', b'{"a":'])) * draw(st.sampled_from([100, 100_000]))
    if kind == 'field':
        try: d = json.loads(data)
        except ValueError: return b'{}'
        if not isinstance(d, dict) or not d: return b'[]'
        k = draw(st.sampled_from(sorted(d)))
        return json.dumps(d | {k: draw(values)}).encode()
    return draw(st.binary(max_size=100))

def read(f):
    "What a file says, or that it cannot be read."
    try: return f()
    except InputError as e:
        assert str(e) and len(str(e)) < 1000 and '\n' not in str(e)
        return 'refused'

READERS = {
    'config.json': lambda d: Pico.from_pretrained(d).config,
    'model.safetensors': lambda d: [t.tolist() for t in Pico.from_pretrained(d).state_dict().values()] and None,
    'train.json': lambda d: read_json(d/'train.json', sealed=True),
    'metrics.jsonl': lambda d: (read_metrics(d), cut_metrics(d, 3)) and None,
    'checkpoints/00000006/manifest.json': lambda d: latest(d/'checkpoints', lambda line: None).name,
    'checkpoints/00000006/state.json': lambda d: load(d/'checkpoints/00000006') and None,
    'checkpoints/00000006/state.safetensors': lambda d: load(d/'checkpoints/00000006') and None,
    'checkpoints/00000006/model.safetensors': lambda d: load(d/'checkpoints/00000006') and None,
}

def most_memory():
    "In kB; macOS counts in bytes."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == 'darwin' else 1)

def fuzz(whole, name, examples):
    good, original = READERS[name], (whole/name).read_bytes()
    folder = whole.parent/'fuzz'
    @settings(max_examples=examples, deadline=5000, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))
    @given(damage(original))
    def check(data):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        (folder/name).write_bytes(data)
        before = most_memory()
        # one read: Hypothesis itself keeps the damaged files of all examples in memory
        said = read(lambda: good(folder))
        assert most_memory() - before < 300_000, 'a third of a gigabyte for a damaged file'
        # the seal lets nothing else through
        if name == 'train.json' and said != 'refused': assert said == read_json(whole/name, sealed=True)
        if name == 'config.json' and said != 'refused':
            # the others shape no weight
            assert all(getattr(said, f) == getattr(read_config(whole/name), f)
                       for f in ('dim', 'next_tokens', 'fb_num_blocks', 'latent_num_blocks'))
        if name.endswith('manifest.json'): assert said in ('00000006', '00000004')
    check()

@pytest.mark.parametrize('name', READERS)
def test_damage_of_any_kind_is_one_sentence(whole, name): fuzz(whole, name, 25)

@pytest.mark.slow
@pytest.mark.parametrize('name', READERS)
def test_much_damage_of_any_kind_is_one_sentence(whole, name): fuzz(whole, name, 500)

@pytest.mark.parametrize('name', ['config.json', 'train.json', 'metrics.jsonl', 'checkpoints/00000006/state.json',
                                  'checkpoints/00000006/model.safetensors', 'model.safetensors'])
def test_the_command_meets_damage(whole, name):
    "It refuses with one sentence, or goes on and ends with the weights that the run has anyway."
    original, weights = (whole/name).read_bytes(), (whole/'model.safetensors').read_bytes()
    folder = whole.parent/'fuzz'
    @settings(max_examples=4, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(damage(original))
    def check(data):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        (folder/name).write_bytes(data)
        before = (folder/'train.json').read_bytes()
        if read(lambda: pico_train([str(folder)])) == 'refused': assert (folder/'train.json').read_bytes() == before
        else:
            assert (folder/'model.safetensors').read_bytes() == weights
            checkpoints = folder/'checkpoints'
            assert all(find_damage(checkpoints/f'{s:08d}') is None for s in all_steps(checkpoints))
    check()

def test_a_header_that_promises_the_moon(hurt):
    "Safetensors begin with the length of their header, which may lie, as may the shapes in it."
    f = hurt/'model.safetensors'
    data = f.read_bytes()
    n = int.from_bytes(data[:8], 'little')
    header = json.loads(data[8:8+n])
    k = next(k for k in header if k != '__metadata__')
    lies = [(2**63 - 1).to_bytes(8, 'little') + data[8:], (10**9).to_bytes(8, 'little') + data[8:]]
    for change in (dict(shape=[2**40, 2**20]), dict(data_offsets=[0, 2**50]), dict(dtype='F1024'), dict(shape=[-1])):
        h = json.dumps(header | {k: header[k] | change}).encode()
        lies.append(len(h).to_bytes(8, 'little') + h + data[8+n:])
    for lie in lies:
        f.write_bytes(lie)
        with pytest.raises(InputError, match='damaged'): Pico.from_pretrained(hurt)

@pytest.mark.parametrize('field', ['dim', 'latent_num_blocks', 'fb_num_blocks', 'next_tokens'])
def test_a_shape_that_the_weights_cannot_have_costs_no_memory(hurt, field):
    before = most_memory()
    d = json.loads((hurt/'config.json').read_text())
    (hurt/'config.json').write_text(json.dumps(d | {field: 2_000_000_000}))
    with pytest.raises(InputError, match='shape'): Pico.from_pretrained(hurt)
    assert most_memory() - before < 100_000

# a full disk

def test_a_full_disk_stops_the_run_and_leaves_the_old_checkpoint(tmp_path):
    "No file may grow beyond 20 kB: as on a full disk, the write fails in the middle."
    how = dict(validation=None, checkpoint_interval=2)
    assert processes.run(lambda: go(tmp_path/'a', max_steps=4, **how)) == 0
    assert processes.run(lambda: go(tmp_path/'b', max_steps=10, **how)) == 0
    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        go(tmp_path/'a', max_steps=10, **how)
    assert processes.run(full, tmp_path/'said') == 2
    said = (tmp_path/'said').read_text()
    assert 'could not be written' in said and 'free some space' in said and '\n' not in said
    assert all_steps(tmp_path/'a/checkpoints')[-1] == 4 and latest(tmp_path/'a/checkpoints').name == '00000004'
    assert not list((tmp_path/'a').rglob('*.tmp'))
    Pico.from_pretrained(tmp_path/'a')
    assert processes.run(lambda: go(tmp_path/'a', max_steps=10, **how)) == 0
    assert read_metrics(tmp_path/'a')[-1]['step'] == 10 and latest(tmp_path/'a/checkpoints').name == '00000010'

def test_metrics_on_a_full_disk(tmp_path):
    def full():
        real = pico.train.added
        def added(*a):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
            return real(*a)
        pico.train.added = added
        go(tmp_path/'a', max_steps=20, validation=None, checkpoint_interval=100)
    assert processes.run(full, tmp_path/'said') == 2
    assert 'metrics.jsonl could not be written' in (tmp_path/'said').read_text()
    assert processes.run(lambda: go(tmp_path/'a', max_steps=20, validation=None)) == 0
    assert len(read_metrics(tmp_path/'a')) == 20

# what a file system cannot do, and what it will not let us do

def answers(code, only=lambda *a: True, real=None):
    "A stand-in for a call to the system that answers with an error number, for some arguments."
    def f(*a, **k):
        if only(*a): raise OSError(code, os.strerror(code))
        return real(*a, **k)
    return f

@pytest.mark.parametrize('code', [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_warned_of_and_written_to(tmp_path, monkeypatch, capsys, code):
    fcntl = pytest.importorskip('fcntl')
    monkeypatch.setattr(fcntl, 'flock', answers(code))
    said = []
    with run_lock(tmp_path/'run', said.append):
        with run_lock(tmp_path/'run', said.append): pass       # nobody is kept out
    assert len(said) == 2 and 'cannot be locked' in said[0] and os.strerror(code) in said[0] and '\n' not in said[0]
    with run_lock(tmp_path/'run'): pass
    assert 'cannot be locked' in capsys.readouterr().err

@pytest.mark.parametrize('code', [errno.EWOULDBLOCK, errno.EACCES])
def test_a_lock_that_is_held_is_not_one_that_cannot_be_had(tmp_path, monkeypatch, code):
    fcntl = pytest.importorskip('fcntl')
    monkeypatch.setattr(fcntl, 'flock', answers(code))
    with pytest.raises(InputError, match='another process'), run_lock(tmp_path, pytest.fail): pytest.fail('let in')

def test_a_run_on_a_file_system_without_locks_trains(tmp_path, monkeypatch):
    fcntl = pytest.importorskip('fcntl')
    monkeypatch.setattr(fcntl, 'flock', answers(errno.ENOLCK))
    assert processes.run(lambda: go(tmp_path/'a', max_steps=2, validation=None)) == 0
    assert all_steps(tmp_path/'a/checkpoints') == [2]

def test_the_lock_ends_with_the_process_however_it_ends(tmp_path):
    def hold():
        with run_lock(tmp_path):
            (tmp_path/'held').touch()
            time.sleep(60)
    child = processes.start(hold)
    processes.until((tmp_path/'held').exists)
    with pytest.raises(InputError, match='another process'), run_lock(tmp_path): pass
    os.kill(child, signal.SIGKILL)
    processes.reap(child)
    with run_lock(tmp_path): pass
    with run_lock(tmp_path): pass                              # and with the context

@pytest.mark.parametrize('code', [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF])
def test_what_cannot_be_flushed_is_written_all_the_same(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, 'fsync', answers(code))
    save(tmp_path/'checkpoints', 7, {'w': torch.ones(3)}, {'step': 7})
    atomic_write(tmp_path/'file', lambda p: p.write_text('text'))
    assert latest(tmp_path/'checkpoints', pytest.fail).name == '00000007' and (tmp_path/'file').read_text() == 'text'

def test_a_system_like_windows(tmp_path, monkeypatch):
    "A folder cannot be opened, and only what is open for writing can be flushed."
    flushed, real, sync, ways = [], os.open, os.fsync, {}
    def opened(path, flags, *a, **k):
        if os.path.isdir(path): raise PermissionError(errno.EACCES, 'Permission denied')
        if flags & os.O_RDWR and not os.stat(path).st_mode & 0o200:
            raise PermissionError(errno.EACCES, 'Permission denied')
        fd = real(path, flags, *a, **k)
        ways[fd] = flags & os.O_RDWR, Path(path).name
        return fd
    def fsync(fd):
        if not ways[fd][0]: raise OSError(errno.EBADF, 'Bad file descriptor')
        flushed.append(ways[fd][1])
        sync(fd)
    monkeypatch.setattr(os, 'open', opened)
    monkeypatch.setattr(os, 'fsync', fsync)
    for path in (tmp_path, tmp_path/'file', tmp_path/'read_only'):
        if path != tmp_path: path.write_text('text')
        if path.name == 'read_only': path.chmod(0o444)
        flush(path)
    assert flushed == ['file']
    with pytest.raises(FileNotFoundError): flush(tmp_path/'nothing')
    save(tmp_path/'checkpoints', 7, {'w': torch.ones(3)}, {'step': 7})
    assert find_damage(tmp_path/'checkpoints/00000007') is None and 'model.safetensors' in flushed

@pytest.mark.parametrize('code', [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_broken_disk_is_no_system_that_cannot_flush(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, 'fsync', answers(code))
    with pytest.raises(InputError, match='could not be written'):
        atomic_write(tmp_path/'file', lambda p: p.write_text('text'))
    with pytest.raises(InputError, match='earlier checkpoints are intact'):
        save(tmp_path, 7, {'w': torch.ones(3)}, {})
    assert not all_steps(tmp_path) and not list(tmp_path.glob('.*tmp'))

def no_place(tmp_path):
    "Paths at which nobody can write, and what the sentence says of each."
    (tmp_path/'file').write_text('text')
    places = {tmp_path/'file'/'run': 'a part of this one is a file', tmp_path/'file': 'a part of this one is a file',
              tmp_path/('x'*300): 'shorter name', tmp_path/('x'*300)/'run': 'shorter name',
              tmp_path/'loop'/'run': 'in a circle'}
    (tmp_path/'loop').symlink_to('loop')
    if os.path.isdir('/proc/self'): places[Path('/proc/pico-run')] = 'nothing can be made in this one'
    if os.path.isdir('/sys/kernel'): places[Path('/sys/pico-run')] = 'where you may write'
    return places.items()

def test_places_where_no_run_can_be_are_one_sentence_each(tmp_path):
    tries = [lambda p: run_lock(p).__enter__(), lambda p: write_json(p/'config.json', {}),
             lambda p: save(p/'checkpoints', 1, {'w': torch.ones(3)}, {})]
    for place, says in no_place(tmp_path):
        for f in tries:
            with pytest.raises(InputError) as e: f(place)
            said = str(e.value)
            assert str(place) in said and '\n' not in said and 'free some space' not in said
            made = 'No such file' not in said                     # not every try makes the folder above
            assert says in said or not made and 'nothing can be made' in said

def nobody(f):
    "f(), called by a user without rights; the exit status of a child."
    def child():
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        f()
    return child

@pytest.fixture
def public():
    "A run with two checkpoints in a folder that everybody may enter (pytest's own is private)."
    with tempfile.TemporaryDirectory() as d:
        os.chmod(d, 0o777)
        run = Path(d)/'run'
        for step in (1, 2): save(run/'checkpoints', step, {'w': torch.full((3,), float(step))}, {'step': step})
        write_json(run/'train.json', {'a': 1})
        yield run

@pytest.mark.parametrize('name', ['manifest.json', 'state.json', 'state.safetensors', 'model.safetensors', '.', '..'])
def test_what_may_not_be_read_is_not_called_damaged(public, name):
    "Nor is it passed over: an older checkpoint would undo steps that are safe."
    os.chmod(public/'checkpoints/00000002'/name, 0)
    try: assert processes.run(nobody(lambda: latest(public/'checkpoints', pytest.fail)), public.parent/'said') == 2
    finally: os.chmod(public/'checkpoints/00000002'/name, 0o755)
    said = (public.parent/'said').read_text()
    assert 'may not be read' in said and 'damaged' not in said and '\n' not in said
    assert name.strip('.') in said and latest(public/'checkpoints').name == '00000002'

@pytest.mark.parametrize('name', ['state.json', 'state.safetensors', 'model.safetensors'])
def test_loading_what_may_not_be_read(public, name):
    os.chmod(public/'checkpoints/00000002'/name, 0)
    assert processes.run(nobody(lambda: load(public/'checkpoints/00000002')), public.parent/'said') == 2
    said = (public.parent/'said').read_text()
    assert f'{name} may not be read' in said and 'delete' not in said

def test_a_description_that_may_not_be_read(public):
    os.chmod(public/'train.json', 0)
    assert processes.run(nobody(lambda: read_json(public/'train.json', sealed=True)), public.parent/'said') == 2
    said = (public.parent/'said').read_text()
    assert 'may not be read' in said and 'restore' not in said

def test_a_place_that_may_not_be_written(public):
    for f in (lambda: run_lock(public/'below').__enter__(), lambda: write_json(public/'config.json', {}),
              lambda: save(public/'checkpoints', 3, {'w': torch.ones(3)}, {})):
        assert processes.run(nobody(f), public.parent/'said') == 2
        said = (public.parent/'said').read_text()
        assert 'where you may write' in said and 'free some space' not in said and '\n' not in said
    assert all_steps(public/'checkpoints') == [1, 2]

def test_state_is_not_copied_again_to_be_written_and_may_share_memory(tmp_path):
    a = torch.arange(6.)
    _, tensors = take_apart(dict(a=a))
    assert tensors['t0'].data_ptr() == a.data_ptr()
    save(tmp_path, 1, dict(w=a), dict(a=a, again=a, part=a[2:4], across=a.view(2, 3).T))
    _, state = load(latest(tmp_path))
    assert state['again'].tolist() == a.tolist() and state['part'].tolist() == [2, 3]
    assert state['across'].tolist() == a.view(2, 3).T.tolist()

def test_nothing_in_the_package_unpickles():
    "Invariant 6: no file that is read can run code."
    for file in (ROOT/'pico').glob('*.py'):
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            imported = [n.name for n in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom): imported = [node.module or '']
            assert not {'pickle', 'dill', 'joblib', 'marshal', 'shelve'} & {n.split('.')[0] for n in imported}, file
            if not isinstance(node, ast.Call): continue
            assert ast.unparse(node.func) not in ('torch.load', 'eval', 'exec'), file
            assert not any(k.arg == 'allow_pickle' for k in node.keywords), file
