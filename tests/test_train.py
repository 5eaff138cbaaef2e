"Training: exact resume after real kills, pure batches over processes, numbers that mean something, refusals."
import dataclasses
import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
import pytest
import torch
import pico.costs
import pico.record
import pico.train
import processes
from conftest import CATS, SHORT, TINY, steps_of, tiny_config, weights
from pico.core import InputError
from pico.data import Corpus
from pico.batches import batch
from pico.router import ROUTERS
from pico.model import Pico, PicoConfig
from pico.checkpoint import all_steps, latest, read_json
from pico.run import OPTIMIZERS, TrainConfig
from pico.cli import asked, train_parser
from pico.parallel import Stop, in_contact
from pico.record import Progress, read_metrics, span
from pico.train import backward, train

CONFIG = tiny_config()
TEXT = Corpus.from_bytes([f'Story {i}: Mia has {i} cats. '.encode() for i in range(300)])
def go(out, config=CONFIG, validation=TEXT, source=TEXT, **changes):
    return train(out, source, config, dataclasses.replace(SHORT, **changes), validation, progress=False)

def plain(out):
    clocks = 'seconds', 'bytes_per_second'
    return [{k: v for k, v in m.items() if k not in clocks} for m in read_metrics(out)]

def in_order(t):
    "A saved tree with the names of every dictionary in one order: which was set first is no part of the state."
    if isinstance(t, dict) and 'dict' in t:
        return {'dict': sorted(([in_order(k), in_order(v)] for k, v in t['dict']), key=repr)}
    return [in_order(v) for v in t] if isinstance(t, list) else t

def everything(out):
    "The newest checkpoint: hashes of its weights and its state, the rest without times; the metrics without times."
    def digest(data): return hashlib.sha256(data).hexdigest()
    c = latest(Path(out)/'checkpoints')
    saved = [digest((c/f).read_bytes()) for f in ('model.safetensors', 'state.safetensors')]
    rest = [in_order(pair) for pair in read_json(c/'state.json')['dict'] if pair[0] != 'elapsed']
    return c.name, saved, digest(weights(out)), rest, plain(out)

def kill_often(folder, times, rng, **how):
    "One run without a break, one killed at `times` random moments of its training; returns what both left."
    assert processes.run(lambda: go(folder/'a', **how)) == 0
    def some_time_after(step):
        pause = processes.after(rng.random() * .05)
        return lambda: steps_of(folder/'b') >= step and pause()
    # anywhere: it may still be reading its checkpoint, or repeat steps
    for _ in range(times):
        when = some_time_after(rng.randrange(how['max_steps'] - 1))
        assert processes.killed(lambda: go(folder/'b', **how), when), 'it ended before it could be killed'
    assert processes.run(lambda: go(folder/'b', **how)) == 0
    return everything(folder/'a'), everything(folder/'b')

def test_a_setting_that_may_be_none_is_a_number_otherwise():
    assert TrainConfig().max_steps is None and TrainConfig(max_steps=3).max_steps == 3
    for name, kind in (('max_steps', 'int'), ('max_minutes', 'float'), ('epochs', 'float')):
        with pytest.raises(InputError, match=f"{name}='ten' should be {kind}, not str"): TrainConfig(**{name: 'ten'})

def test_killed_at_five_random_moments_equals_uninterrupted(tmp_path):
    "Invariant 5, across validation, accumulation and checkpoint boundaries, in one run that is killed again and again."
    seed = random.randrange(10**6)
    print('seed', seed)                                           # to repeat what fails
    a, b = kill_often(tmp_path, 5, random.Random(seed), config=dataclasses.replace(CONFIG, router='threshold'),
                      max_steps=100, grad_accumulation_steps=2, validation_interval=4, checkpoint_interval=5,
                      repeats=.5)
    assert a == b

def test_todays_design_killed_at_two_random_moments_equals_uninterrupted(tmp_path):
    "What users get: SOAP, an average, chained heads, summaries and shifted keys."
    today = PicoConfig.preset('nano', dim=24, latent_num_blocks=1)
    a, b = kill_often(tmp_path, 2, random.Random(1), config=today, optimizer='soap', average=.97, max_steps=60,
                      validation_interval=4, checkpoint_interval=5, repeats=.3)
    assert a == b

DESIGNS = itertools.cycle(itertools.product(ROUTERS, OPTIMIZERS))

@pytest.mark.slow
@pytest.mark.parametrize('seed, router, optimizer', [(i, *next(DESIGNS)) for i in range(30)])
def test_killed_with_every_router_and_optimizer(tmp_path, seed, router, optimizer):
    rng = random.Random(seed)
    a, b = kill_often(tmp_path, 2, rng, config=dataclasses.replace(CONFIG, router=router), optimizer=optimizer,
                      max_steps=80, grad_accumulation_steps=rng.choice([1, 2, 3]),
                      validation_interval=rng.choice([2, 3, 7]), checkpoint_interval=rng.choice([2, 5, 7]))
    assert a == b

def slowly(f):
    "Saving with a pause at every flush, so that a kill finds it at work."
    def run():
        real = pico.checkpoint.flush
        def flush(path):
            time.sleep(.01)
            real(path)
        pico.checkpoint.flush = flush
        f()
    return run

def test_killed_in_the_middle_of_a_save(tmp_path):
    how = dict(max_steps=12, checkpoint_interval=2, validation=None)
    assert processes.run(lambda: go(tmp_path/'a', **how)) == 0
    folder = tmp_path/'b'/'checkpoints'
    def half_written(step): return any((folder/f'.{step:08d}.tmp').glob('*.safetensors'))
    for step in (2, 6, 10):
        assert processes.killed(slowly(lambda: go(tmp_path/'b', **how)), partial(half_written, step))
        assert step not in all_steps(folder)
    # while model.safetensors is being replaced
    assert processes.killed(slowly(lambda: go(tmp_path/'b', **how)), lambda: (folder/'00000012').exists())
    assert processes.run(lambda: go(tmp_path/'b', **how)) == 0
    assert everything(tmp_path/'a') == everything(tmp_path/'b')
    assert not list(folder.glob('.*.tmp'))

def with_budget(f, budget):
    "Run with another idea of how much of the budget is spent."
    def run():
        pico.record.fraction_done = budget
        f()
    return run

def test_raising_max_steps_equals_raising_it_without_a_break(tmp_path):
    real = pico.record.fraction_done
    def stops_at_5(s, step, *rest):
        if step == 5: os.kill(os.getpid(), signal.SIGTERM)
        return real(s, step, *rest)
    assert processes.run(with_budget(lambda: go(tmp_path/'a', max_steps=8), stops_at_5)) == 0
    assert len(read_metrics(tmp_path/'a')) == 5
    assert processes.run(lambda: go(tmp_path/'a', max_steps=16)) == 0
    def raised_at_5(s, step, *rest): return step / (8 if step < 5 else 16)
    assert processes.run(with_budget(lambda: go(tmp_path/'b', max_steps=16), raised_at_5)) == 0
    assert everything(tmp_path/'a') == everything(tmp_path/'b')
    # finished, then raised
    for most in (8, 16): assert processes.run(partial(go, tmp_path/'c', max_steps=most)) == 0
    def raised_at_8(s, step, *rest): return step / (8 if step < 8 else 16)
    assert processes.run(with_budget(lambda: go(tmp_path/'d', max_steps=16), raised_at_8)) == 0
    assert everything(tmp_path/'c') == everything(tmp_path/'d')

def test_a_time_budget_replays_what_was_recorded(tmp_path):
    """Killed three times, also while it repeats steps.

    No step ever gets another share of the schedule, and the weights follow from the record."""
    go(tmp_path/'pace', max_steps=20, validation=None)
    # a busy machine gets the time that a hundred and more steps need there
    step = read_metrics(tmp_path/'pace')[-1]['seconds'] / 20
    how = dict(max_steps=None, max_minutes=max(.04, 120*step/60), checkpoint_interval=25, validation=None)
    seen = {}
    def taken(steps): return steps_of(tmp_path/'a') >= steps
    for kill_at in (40, 30, 45):
        if not processes.killed(lambda: go(tmp_path/'a', **how), partial(taken, kill_at)): break
        for l in read_metrics(tmp_path/'a'): assert seen.setdefault(l['step'], l['progress']) == l['progress']
    assert processes.run(lambda: go(tmp_path/'a', **how)) == 0
    done = {l['step']: l['progress'] for l in read_metrics(tmp_path/'a')}
    assert len(seen) >= 40 and all(done[k] == v for k, v in seen.items())
    assert list(done.values()) == sorted(done.values())
    assert not (tmp_path/'a'/'replay.jsonl').exists()
    def as_recorded(s, step, *rest): return done.get(step + 1, 1.)
    assert processes.run(with_budget(lambda: go(tmp_path/'b', **how), as_recorded)) == 0
    assert everything(tmp_path/'a')[1:3] == everything(tmp_path/'b')[1:3]

def test_time_budget_is_kept(tmp_path):
    go(tmp_path/'a', max_steps=None, max_minutes=.05, validation=None)
    m = read_metrics(tmp_path/'a')
    assert 2.5 < m[-1]['seconds'] < 5 and m[-1]['learning_rate'] < .2 * 3e-3

@pytest.mark.parametrize('router', ['topk', 'threshold', 'predictor', 'space'])
def test_accumulation_equals_one_large_batch(router):
    "4 × 2 rows, 8 × 1 and 1 × 8 in float64: gradients and what the router has counted."
    torch.manual_seed(0)
    m = Pico(dataclasses.replace(CONFIG, router=router)).double()
    x, y = batch(TEXT, 3, 8, 64, 4)
    grads, counted, losses = [], [], []
    for size in (8, 2, 1):
        m.zero_grad()
        for t in m.latent.router.counted(): t.zero_()
        losses.append(backward(m, list(zip(x.split(size), y.split(size), strict=True))))
        grads.append([None if p.grad is None else p.grad.clone() for p in m.parameters()])
        counted.append([t.clone() for t in m.latent.router.counted()])
    for g, c, l in zip(grads[1:], counted[1:], losses[1:], strict=True):
        torch.testing.assert_close(g, grads[0])
        assert all(torch.equal(a, b) for a, b in zip(c, counted[0], strict=True))
        for k in ('total', 'per_head'): assert l[k] == pytest.approx(losses[0][k], rel=1e-12)
    assert len(counted[0]) == (router in ('threshold', 'predictor')) and all(c.sum() == 8*64 for c in counted[0])

def test_not_a_number_stops_before_weights_change(tmp_path):
    go(tmp_path/'a', max_steps=3)
    before = weights(tmp_path/'a')
    real = Pico.loss
    def bad(self, *a, **k):
        l = real(self, *a, **k)
        l.total = l.total * float('nan')
        return l
    Pico.loss = bad
    try:
        with pytest.raises(InputError, match='step 4 .batches 3 to 3.'): go(tmp_path/'a', max_steps=6)
    finally: Pico.loss = real
    assert weights(tmp_path/'a') == before and latest(tmp_path/'a/checkpoints').name == '00000003'
    go(tmp_path/'a', max_steps=6, learning_rate=1e-3, clip=.5)     # what the message advises
    m = read_metrics(tmp_path/'a')
    assert [l['step'] for l in m] == list(range(1, 7)) and m[-1]['learning_rate'] <= 1e-3

def test_the_best_checkpoint_is_kept(tmp_path, monkeypatch):
    scores = iter([5., 3., 4., 6., 7., 8., 9.])
    monkeypatch.setattr(pico.train, 'bits_per_byte', lambda *a, **k: type('S', (), dict(bpb=next(scores), bytes=500)))
    go(tmp_path/'a', max_steps=12, checkpoint_interval=2, validation_interval=2, keep=2)
    assert all_steps(tmp_path/'a/checkpoints') == [4, 10, 12]

def test_an_average_of_the_weights(tmp_path):
    "It is the model that is validated and published; the run itself goes on as without it, and survives kills."
    how = dict(average=.9, validation_interval=4, max_steps=14, checkpoint_interval=5)
    assert processes.run(lambda: go(tmp_path/'a', **how)) == 0
    def taken(steps): return steps_of(tmp_path/'b') >= steps
    for n in (4, 8): assert processes.killed(lambda: go(tmp_path/'b', **how), partial(taken, n))
    assert processes.run(lambda: go(tmp_path/'b', **how)) == 0
    assert everything(tmp_path/'a') == everything(tmp_path/'b')
    assert processes.run(lambda: go(tmp_path/'c', **(how | dict(average=0.)))) == 0
    assert losses(tmp_path/'c') == losses(tmp_path/'a') and weights(tmp_path/'c') != weights(tmp_path/'a')
    from pico.checkpoint import load
    _, state = load(latest(tmp_path/'a/checkpoints'))
    plain = Pico.from_pretrained(tmp_path/'c')
    assert all(torch.equal(p, state['trained'][k]) for k,p in plain.named_parameters())
    with pytest.raises(InputError, match='average=1'): TrainConfig(average=1.)

def test_refusals(tmp_path):
    go(tmp_path/'a')
    for change in (dict(seed=1), dict(batch_size=8), dict(context_len=32)):
        with pytest.raises(InputError, match='contradicts'): go(tmp_path/'a', **change)
    with pytest.raises(InputError, match='contradicts'): go(tmp_path/'a', dataclasses.replace(CONFIG, dim=30))
    with pytest.raises(InputError, match='contradicts'):
        train(tmp_path/'a', Corpus.from_bytes(b'other text '*500), CONFIG, SHORT, progress=False)
    with pytest.raises(InputError, match='context'):
        train(tmp_path/'b', Corpus.from_bytes(b'short'), CONFIG, SHORT, progress=False)
    with pytest.raises(InputError, match='could not be made'): go(tmp_path/'b', dataclasses.replace(CONFIG, dim=2**30))
    assert not (tmp_path/'b').exists()

def test_the_second_of_two_processes_is_refused_and_changes_nothing(tmp_path):
    "Also when it asks for something that it might: the files are the first one's."
    m, said = tmp_path/'a'/'metrics.jsonl', tmp_path/'said'
    pid = processes.start(lambda: go(tmp_path/'a', max_steps=100_000, validation=None))
    processes.until(lambda: m.exists() and m.stat().st_size)
    before = (tmp_path/'a/train.json').read_bytes()
    assert processes.run(lambda: go(tmp_path/'a', max_steps=5, validation=None),
                         said) == 2 and 'another process' in said.read_text()
    assert (tmp_path/'a/train.json').read_bytes() == before
    os.kill(pid, signal.SIGTERM)
    assert processes.wait(pid) == 0
    assert [l['step'] for l in read_metrics(tmp_path/'a')] == list(range(1, len(read_metrics(tmp_path/'a')) + 1))

def test_a_signal_that_was_ignored_stays_ignored(tmp_path):
    "As under nohup: the terminal closes and the run goes on to its end."
    def work():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        train(tmp_path/'a', TEXT, CONFIG, dataclasses.replace(SHORT, max_steps=30), None, progress=False)
    pid, m = processes.start(work), tmp_path/'a'/'metrics.jsonl'
    processes.until(lambda: m.exists() and len(m.read_text().splitlines()) > 3)
    os.kill(pid, signal.SIGHUP)
    assert processes.wait(pid) == 0 and len(read_metrics(tmp_path/'a')) == 30

def test_a_terminal_that_is_gone_ends_no_run(tmp_path):
    "Writing to it fails; the run is finished and saved all the same."
    class Gone:
        def write(self, text): raise OSError(5, 'Input/output error')
        def flush(self): raise OSError(5, 'Input/output error')
        def isatty(self): return False
    old, sys.stderr = sys.stderr, Gone()
    try: train(tmp_path/'a', TEXT, CONFIG, SHORT, None)
    finally: sys.stderr = old
    assert len(read_metrics(tmp_path/'a')) == SHORT.max_steps

@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_stopped_run_saves_and_says_how_to_go_on(tmp_path, number):
    def run():
        if number != signal.SIGINT: signal.signal(number, signal.SIG_DFL)       # nohup ignores SIGHUP, and it stays so
        sys.stderr = open(tmp_path/'err', 'w', buffering=1)
        train(tmp_path/'a', TEXT, CONFIG, dataclasses.replace(SHORT, max_steps=100_000, checkpoint_interval=100_000),
              None)
    pid, m = processes.start(run), tmp_path/'a'/'metrics.jsonl'
    processes.until(lambda: m.exists() and len(m.read_text().splitlines()) > 5)
    os.kill(pid, number)
    assert processes.wait(pid) == 0
    err = (tmp_path/'err').read_text()
    for said in (f'go on with: pico-train {tmp_path}/a', 'parameters', 'MFLOP per byte', 'bytes per step',
                 'a step takes about'):
        assert said in err
    step, = all_steps(tmp_path/'a/checkpoints')
    assert step == read_metrics(tmp_path/'a')[-1]['step']
    Pico.from_pretrained(tmp_path/'a')

def test_a_second_interrupt_leaves_at_once(tmp_path):
    "A step that takes for ever; the last checkpoint stays."
    def run():
        real = Pico.loss
        def endless(self, *a, **k):
            if (tmp_path/'now').exists():
                (tmp_path/'hangs').touch()
                time.sleep(600)
            return real(self, *a, **k)
        Pico.loss = endless
        try: go(tmp_path/'a', max_steps=100_000, validation=None)
        except KeyboardInterrupt: os._exit(130)
    pid, m = processes.start(run), tmp_path/'a'/'metrics.jsonl'
    processes.until(lambda: m.exists() and len(m.read_text().splitlines()) > 5)
    (tmp_path/'now').touch()
    processes.until(lambda: (tmp_path/'hangs').exists())
    os.kill(pid, signal.SIGINT)
    time.sleep(1.2)
    os.kill(pid, signal.SIGINT)
    assert processes.wait(pid, 20) == 130 and latest(tmp_path/'a/checkpoints') is not None

def test_ctrl_c_leaves_after_another_signal_too():
    stop = Stop()
    stop.note(signal.SIGTERM, None)
    stop.note(signal.SIGINT, None)                                # at once: perhaps the same wish
    stop.when -= 2
    with pytest.raises(KeyboardInterrupt): stop.note(signal.SIGINT, None)

def failing(monkeypatch, name, call):
    "A function of pico.train that is killed in one of its calls."
    real, calls = getattr(pico.train, name), itertools.count(1)
    def f(*args, **kw):
        if next(calls) == call: raise Killed
        return real(*args, **kw)
    monkeypatch.setattr(pico.train, name, f)

class Killed(Exception): pass

def test_steps_before_the_first_checkpoint_count_however_often_it_was_killed(tmp_path, monkeypatch):
    how = dict(max_steps=8, checkpoint_interval=9, validation=None)
    for name, call in ('optimizer_step', 4), ('outlook', 1):
        with monkeypatch.context() as m:
            failing(m, name, call)
            with pytest.raises(Killed): go(tmp_path/'a', **how)
    assert (tmp_path/'a/metrics.jsonl').stat().st_size == 0
    with pytest.raises(InputError, match='seed=9 contradicts'): go(tmp_path/'a', seed=9, **how)
    for name in 'ab': go(tmp_path/name, **how)
    assert losses(tmp_path/'a') == losses(tmp_path/'b')

def test_what_was_stopped_before_its_first_step_may_be_asked_for_otherwise(tmp_path, monkeypatch):
    real = pico.train.outlook
    def stopped(*args, **kw):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kw)
    with monkeypatch.context() as m:
        m.setattr(pico.train, 'outlook', stopped)
        go(tmp_path/'a', max_steps=4, validation=None)
    assert steps_of(tmp_path/'a') == 0
    go(tmp_path/'a', max_steps=4, seed=9, validation=None)
    go(tmp_path/'b', max_steps=4, seed=9, validation=None)
    assert losses(tmp_path/'a') == losses(tmp_path/'b')

def test_a_line_of_the_record_is_whole_or_an_error(tmp_path):
    class Full:
        def write(self, line): return len(line) - 1
    record = pico.record.Recorder(tmp_path, 0)
    record.log = Full()
    with pytest.raises(InputError, match='free some space'): record.write(dict(step=1))

# several processes

def many(n, out, folder, steps, said=None, source=TEXT, config=CONFIG, **how):
    pids = processes.group(n, lambda rank: go(out, config, source=source() if callable(source) else source,
                                              max_steps=steps, **how), folder, said)
    return [processes.wait(p, 240) for p in pids]

def losses(out): return [m['loss'] for m in read_metrics(out)]

def norms(out):
    "The first gradients: Adam hardly sees a constant factor, such as a mean in the place of a sum."
    return [m['grad_norm'] for m in read_metrics(out)][:5]

def test_rows_are_repeated_in_the_first_part_only(tmp_path, monkeypatch):
    seen, real = [], pico.train.repeated
    def watched(x, y, rows, seed):
        seen.append(list(rows))
        return real(x, y, rows, seed)
    monkeypatch.setattr(pico.train, 'repeated', watched)
    go(tmp_path/'a', max_steps=8, repeats=.5, validation=None)
    assert seen == [[SHORT.batch_size*s + i for i in range(SHORT.batch_size)] for s in range(4)]

def test_one_two_and_four_processes_learn_the_same(tmp_path):
    """Fifty steps of two micro-steps each, with a router that keeps a running state.

    Then other numbers of processes go on."""
    config = dataclasses.replace(CONFIG, router='threshold')
    how = dict(grad_accumulation_steps=2, validation=None, checkpoint_interval=25, context_len=32, repeats=.5)
    assert processes.run(lambda: go(tmp_path/'1', config, max_steps=50, **how)) == 0
    for n in (2, 4):
        assert many(n, tmp_path/str(n), tmp_path, 50, config=config, **how) == [0] * n
        assert losses(tmp_path/str(n)) == pytest.approx(losses(tmp_path/'1'), rel=1e-4)
        assert norms(tmp_path/str(n)) == pytest.approx(norms(tmp_path/'1'), rel=1e-3)
    assert many(4, tmp_path/'2', tmp_path, 56, config=config, **how) == [0] * 4
    assert processes.run(lambda: go(tmp_path/'4', config, max_steps=56, **how)) == 0
    assert processes.run(lambda: go(tmp_path/'1', config, max_steps=56, **how)) == 0
    for n in (2, 4):
        assert losses(tmp_path/str(n)) == pytest.approx(losses(tmp_path/'1'), rel=1e-4)
        assert (latest(tmp_path/str(n)/'checkpoints')/'state.safetensors').exists()

def test_rows_without_a_routed_byte(tmp_path):
    """One process routes nothing in its rows, the other does.

    Latent blocks have gradients in one only, and the runs must agree all the same."""
    text = Corpus.from_bytes(b'x' * 4000 + b'a b c d ' * 500, marks='none')
    config = dataclasses.replace(CONFIG, router='space', marks='none')
    assert processes.run(lambda: go(tmp_path/'1', config, source=text, max_steps=12, validation=None)) == 0
    assert many(2, tmp_path/'2', tmp_path, 12, source=text, config=config, validation=None) == [0, 0]
    assert losses(tmp_path/'2') == pytest.approx(losses(tmp_path/'1'), rel=1e-5)
    assert norms(tmp_path/'2') == pytest.approx(norms(tmp_path/'1'), rel=1e-3)
    # latent blocks that nobody ever uses keep their weights
    none = dataclasses.replace(CONFIG, router='none')
    assert many(2, tmp_path/'3', tmp_path, 3, config=none, validation=None) == [0, 0]
    torch.manual_seed(0)
    fresh = Pico(none)
    trained = Pico.from_pretrained(tmp_path/'3')
    for a, b in zip(fresh.latent.parameters(), trained.latent.parameters(), strict=True): assert torch.equal(a, b)

def test_all_processes_go_on_with_what_the_first_one_sees(tmp_path):
    "On other machines there is no run directory."
    go(tmp_path/'0', max_steps=2, seed=3, validation=None)
    def look(rank):
        found = pico.train.as_asked(tmp_path/str(rank), None, None)
        a = train_parser().parse_args([str(tmp_path/str(rank))])
        (tmp_path/f'asked{rank}').write_text(repr((found, asked(a))))
    assert [processes.wait(p) for p in processes.group(2, look, tmp_path)] == [0, 0]
    assert 'seed=3' in (tmp_path/'asked0').read_text() == (tmp_path/'asked1').read_text()

def test_too_little_memory_in_one_of_several_processes_is_no_lost_contact(monkeypatch):
    monkeypatch.setattr('pico.parallel.world', lambda: (0, 2))
    with pytest.raises(RuntimeError, match='allocate'), in_contact():
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] can't allocate memory")
    with pytest.raises(InputError, match='lost contact'), in_contact(): raise RuntimeError('Connection closed by peer')

def test_two_processes_resume_bit_for_bit(tmp_path):
    assert many(2, tmp_path/'a', tmp_path, 40) == [0, 0]
    pids = processes.group(2, lambda rank: go(tmp_path/'b', max_steps=40), tmp_path)
    m = tmp_path/'b'/'metrics.jsonl'
    processes.until(lambda: m.exists() and len(m.read_text().splitlines()) >= 5)
    for p in pids: os.kill(p, signal.SIGKILL)
    assert [processes.wait(p) for p in pids] == [-9, -9]
    assert many(2, tmp_path/'b', tmp_path, 40) == [0, 0]
    assert everything(tmp_path/'a') == everything(tmp_path/'b')

@pytest.mark.parametrize('victim', [0, 2])
def test_a_process_that_dies_ends_all_within_seconds(tmp_path, victim):
    pids = processes.group(3, lambda rank: go(tmp_path/'a', max_steps=100_000, validation=None, batch_size=6), tmp_path,
                           tmp_path/'said')
    m = tmp_path/'a'/'metrics.jsonl'
    processes.until(lambda: m.exists() and len(m.read_text().splitlines()) >= 5)
    os.kill(pids[victim], signal.SIGKILL)
    start = time.monotonic()
    assert [processes.wait(p, 30) for p in pids] == [-9 if r == victim else 2 for r in range(3)]
    assert time.monotonic() - start < 20
    for r in range(3):
        if r != victim: assert 'lost contact' in (tmp_path/f'said{r}').read_text()
    assert many(2, tmp_path/'a', tmp_path, read_metrics(tmp_path/'a')[-1]['step'] + 3, validation=None,
                batch_size=6) == [0, 0]

@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='counts threads in /proc')
def test_the_threads_of_a_group_end_with_it(tmp_path):
    "One that is left calls Python while the interpreter ends, and aborts a run that went well."
    from pico.parallel import leave_group
    def f(rank):
        go(tmp_path/'a', max_steps=2, validation=None)
        leave_group()
        names = [p.read_text().strip() for p in Path('/proc/self/task').glob('*/comm')]
        (tmp_path/f'threads{rank}').write_text(' '.join(names))
    assert [processes.wait(p, 120) for p in processes.group(2, f, tmp_path)] == [0, 0]
    for r in range(2): assert 'gloo' not in (tmp_path/f'threads{r}').read_text()

def test_a_mistake_of_one_is_everybodys(tmp_path):
    (tmp_path/'a').mkdir()
    (tmp_path/'a/diary.txt').write_text('dear diary')
    assert many(2, tmp_path/'a', tmp_path, 5, said=tmp_path/'said') == [2, 2]
    for r in range(2): assert 'something else' in (tmp_path/f'said{r}').read_text()

def test_torchrun(tmp_path):
    "The command of the book, two processes, equal to one."
    (tmp_path/'t.txt').write_text(CATS * 200)
    tiny = [*TINY, '--max_steps', '3']
    env = os.environ | {'OMP_NUM_THREADS': '1'}
    r = subprocess.run([Path(sys.executable).parent/'torchrun', '--standalone', '--nproc_per_node', '2', '-m',
                        'pico.cli', 'train', tmp_path/'a', tmp_path/'t.txt', *tiny], env=env, capture_output=True,
                        text=True, timeout=120)
    assert r.returncode == 0 and r.stdout.count('next: pico-generate') == 1 and '2 processes' in r.stderr, r.stderr
    from pico.cli import pico_train
    pico_train([str(tmp_path/'b'), str(tmp_path/'t.txt'), *tiny])
    assert losses(tmp_path/'a') == pytest.approx(losses(tmp_path/'b'), rel=1e-5)

# streams

def shards(folder, n=3, each=60):
    Path(folder).mkdir(exist_ok=True)
    for s in range(n):
        Path(folder, f'{s}.jsonl').write_text(
            '\n'.join(json.dumps({'text': f'Shard {s}, story {i}: Mia has {i} cats. '}) for i in range(each)) + '\n')
    return folder

def test_a_streamed_run_is_killed_resumed_and_shared_exactly(tmp_path):
    from pico.streaming import Stream
    shards(tmp_path/'d')
    def stream(): return Stream(str(tmp_path/'d'))
    how = dict(batch_size=6, grad_accumulation_steps=2, max_steps=30, validation=None, checkpoint_interval=4,
               schedule='constant')
    assert processes.run(lambda: go(tmp_path/'a', source=stream(), **how)) == 0
    def taken(steps): return steps_of(tmp_path/'b') >= steps
    for n in (7, 19): assert processes.killed(lambda: go(tmp_path/'b', source=stream(), **how), partial(taken, n))
    assert processes.run(lambda: go(tmp_path/'b', source=stream(), **how)) == 0
    assert everything(tmp_path/'a') == everything(tmp_path/'b')
    del how['max_steps']
    for n, steps in ((2, 9), (1, 17), (3, 30)):
        assert many(n, tmp_path/'c', tmp_path, steps, source=stream, **how) == [0] * n
    shared, alone = ([m['bpb'] for m in read_metrics(tmp_path/run)][:9] for run in 'ca')
    assert shared == pytest.approx(alone, rel=1e-4)

def test_a_stream_that_fails_half_way_is_saved_and_goes_on_when_it_is_mended(tmp_path):
    from pico.streaming import Lane, Stream
    how = dict(batch_size=6, max_steps=40, validation=None, checkpoint_interval=100)
    def stream(): return Stream(str(shards(tmp_path/'d')))
    def broken():
        raise OSError('the connection is gone')
        yield
    def fails():
        real, calls = Lane.fill, [0]
        def fill(self, size):
            calls[0] += 1
            if calls[0] > 30 and self.rows is not None: self.rows = broken()
            real(self, size)
        Lane.fill = fill
        go(tmp_path/'b', source=stream(), **how)
    assert processes.run(fails, tmp_path/'said') == 2
    said, step = (tmp_path/'said').read_text(), read_metrics(tmp_path/'b')[-1]['step']
    assert 'the connection is gone' in said and f'up to step {step} is saved' in said and 5 < step < 40
    assert all_steps(tmp_path/'b/checkpoints') == [step]
    assert processes.run(lambda: go(tmp_path/'b', source=stream(), **how)) == 0
    assert processes.run(lambda: go(tmp_path/'a', source=stream(), **how)) == 0
    assert weights(tmp_path/'a') == weights(tmp_path/'b') and plain(tmp_path/'a') == plain(tmp_path/'b')

# what is shown, and what may be missing

def test_span():
    assert [span(s) for s in (0, 59.9, 61, 3700, 90_000)] == ['0 s', '59 s', '1 min 1 s', '1 h 1 min', '1 d 1 h']
    assert span(float('inf')).endswith(' h')

def test_a_bar_in_a_terminal_and_lines_in_a_file(tmp_path):
    import fcntl
    import pty
    import struct
    import termios
    m = dict(step=1, loss=1., bpb=2., bytes_per_second=3.)
    def show():
        p = Progress()
        p.say('begins')
        for i in range(1000): p.update(m | dict(step=i), i/1000, 60.)
        p.close()
    pid, fd = pty.fork()
    if not pid:
        fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 120, 0, 0))
        sys.stderr = os.fdopen(2, 'w')
        show()
        os._exit(0)
    seen = b''
    try:
        while piece := os.read(fd, 10_000): seen += piece
    except OSError: pass                                          # the terminal is gone with the child
    os.waitpid(pid, 0)
    assert b'begins' in seen and b'\r' in seen and b'bits per byte' in seen and seen.count(b'bits per byte') < 20
    def into_a_file():
        sys.stderr = open(tmp_path/'log', 'w')
        show()
        sys.stderr.close()
    assert processes.run(into_a_file) == 0
    log = (tmp_path/'log').read_text()
    assert '\r' not in log and log.splitlines()[0] == 'begins'
    assert 1 <= log.count('bits per byte') <= 3 and '1 min 0 s left' in log

def test_a_bar_in_a_notebook():
    "A real kernel: one line that is written over, no widget that a reader may lack."
    import nbformat
    from nbclient import NotebookClient
    code = """from pico.train import Progress
p = Progress()
p.say('begins')
for i in range(1000): p.update(dict(step=i, loss=1., bpb=2., bytes_per_second=3.), i/1000, 60.)
p.close()
print('done')"""
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(nb, timeout=120, kernel_name='python3').execute()
    outputs = nb.cells[0].outputs
    assert all(o.output_type == 'stream' for o in outputs)
    seen = ''.join(o.text for o in outputs)
    assert 'begins' in seen and 'done' in seen and '\r' in seen and 1 <= seen.count('bits per byte') < 20

def test_compiling_takes_few_graphs_and_is_decided_once(tmp_path, monkeypatch):
    "The blocks are traced, not translated, which would take a minute: rows of any count make no graph of their own."
    import torch._dynamo.utils
    from functools import partial
    monkeypatch.setattr(torch, 'compile', partial(torch.compile, backend='eager'))
    monkeypatch.setattr('pico.costs.PAYS_BACK', dict(cpu=0))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    config = PicoConfig.preset('nano', dim=24, latent_num_blocks=1)
    said = dataclasses.replace(SHORT, max_steps=4, compile='auto')
    model = train(tmp_path/'a', TEXT, config, said, TEXT, progress=False)
    # a copy of a compiled stack would compute with the weights of the first
    assert not any('whole' in vars(stack) for stack in (model.fb_in, model.latent, model.fb_out))
    assert model.latent.multiple == 1
    counted = torch._dynamo.utils.counters
    assert not counted['graph_break'] and 0 < counted['stats']['unique_graphs'] <= 3
    train(tmp_path/'b', TEXT, config, dataclasses.replace(said, compile='no'), TEXT, progress=False)
    scored = [[m['validation_bpb'] for m in read_metrics(tmp_path/d) if 'validation_bpb' in m] for d in 'ab']
    assert scored[0] == pytest.approx(scored[1], abs=2e-3) and scored[0]
    both = (torch.cat([p.flatten() for p in Pico.from_pretrained(tmp_path/d).parameters()]) for d in 'ab')
    torch.testing.assert_close(*both, rtol=1e-3, atol=1e-4)
    # a run that began plain stays plain, though it would pay by now
    torch._dynamo.utils.counters.clear()
    train(tmp_path/'b', TEXT, config, dataclasses.replace(said, max_steps=6), None, progress=False)
    assert not counted['stats']['unique_graphs']
    torch._dynamo.reset()

@pytest.mark.parametrize('how', ['auto', 'yes'])
def test_compiling_without_a_compiler(tmp_path, how):
    def run():
        os.environ.update(PATH=str(tmp_path), TORCHINDUCTOR_CACHE_DIR=str(tmp_path/'cache'),
                          TORCHINDUCTOR_COMPILE_THREADS='1')
        os.environ.pop('CXX', None)
        pico.costs.PAYS_BACK = dict(cpu=0)                        # so that `auto` tries
        sys.stderr = open(tmp_path/'err', 'w', buffering=1)
        train(tmp_path/'a', TEXT, CONFIG, dataclasses.replace(SHORT, compile=how, max_steps=2), None)
    status = processes.run(run, tmp_path/'said')
    if how == 'yes': assert status == 2 and 'C++ compiler' in (tmp_path/'said').read_text()
    else:
        said = (tmp_path/'err').read_text()
        assert status == 0 and 'compiled first' in said and 'since that does not work here' in said
        assert len(read_metrics(tmp_path/'a')) == 2
        assert processes.run(lambda: go(tmp_path/'b', max_steps=2, validation=None)) == 0
        assert weights(tmp_path/'a') == weights(tmp_path/'b')

def learned_alike(a, b):
    "Every loss, and by how much it fell."
    fell = [losses(d)[0] - losses(d)[-1] for d in (a, b)]
    return losses(a) == pytest.approx(losses(b), rel=.02) and fell[0] == pytest.approx(fell[1], rel=.2)

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_a_gpu_trains_in_bfloat16_and_resumes(tmp_path):
    go(tmp_path/'a', device='cuda', max_steps=4)
    go(tmp_path/'a', device='cuda', max_steps=8)
    go(tmp_path/'b', device='cpu')
    assert learned_alike(tmp_path/'a', tmp_path/'b')

def test_bfloat16_learns_as_float32_does(tmp_path):
    "What every run on a GPU does, here on a processor, with the design of the presets."
    today = PicoConfig.preset('nano', dim=24, latent_num_blocks=1)
    for d in ('float32', 'bfloat16'): go(tmp_path/d, today, dtype=d, max_steps=4)
    assert learned_alike(tmp_path/'bfloat16', tmp_path/'float32')

def test_killed_while_it_says_what_was_asked(tmp_path):
    go(tmp_path/'a', max_steps=2)
    (tmp_path/'a'/'config.json').unlink()                         # train.json is written first
    go(tmp_path/'a', max_steps=4)
    assert (tmp_path/'a'/'config.json').exists() and len(read_metrics(tmp_path/'a')) == 4

def test_tracker(tmp_path):
    pytest.importorskip('tensorboard', reason="needs the extra 'tracker'")
    go(tmp_path/'a', tracker='tensorboard', max_steps=3)
    assert list((tmp_path/'a/tensorboard').iterdir())

def test_one_text_however_its_path_is_spelled(tmp_path, monkeypatch):
    (tmp_path/'corpus.txt').write_bytes(bytes(range(32, 127)) * 60)
    monkeypatch.chdir(tmp_path)
    def go(source, steps):
        train(tmp_path/'run', source, CONFIG, dataclasses.replace(SHORT, max_steps=steps), progress=False)
    for steps, spelled in ((2, 'corpus.txt'), (3, './corpus.txt'), (4, tmp_path/'corpus.txt')): go(spelled, steps)
    (tmp_path/'below').mkdir()
    monkeypatch.chdir(tmp_path/'below')
    go('../corpus.txt', 5)
    assert [m['step'] for m in read_metrics(tmp_path/'run')] == [1, 2, 3, 4, 5]
    with open(tmp_path/'corpus.txt', 'ab') as f: f.write(b'more of it' * 10)
    with pytest.raises(InputError, match='has changed, from 5,130 to 5,2[0-9][0-9] bytes'): go('../corpus.txt', 6)

def test_a_text_cut_short_loses_no_step(tmp_path):
    "Noticed between two steps: what was learned is saved, and the sentence comes after."
    file = tmp_path/'corpus.txt'
    file.write_bytes(bytes(range(32, 127)) * 400)
    def work():
        long = dataclasses.replace(SHORT, max_steps=10**6, validation_interval=0, checkpoint_interval=10**6)
        train(tmp_path/'run', file, CONFIG, long, progress=False)
    pid, m = processes.start(work, tmp_path/'said'), tmp_path/'run'/'metrics.jsonl'
    processes.until(lambda: m.exists() and len(m.read_text().splitlines()) > 3)
    os.truncate(file, 500)
    assert processes.wait(pid) == 2
    said, saved = (tmp_path/'said').read_text(), sorted((tmp_path/'run'/'checkpoints').iterdir())
    assert 'corpus.txt' in said and saved and int(saved[-1].name) == read_metrics(tmp_path/'run')[-1]['step']

def test_a_text_is_read_as_the_run_has_it(tmp_path):
    "What is not said is as before; what cannot be meant is refused."
    rows = tmp_path/'rows.jsonl'
    rows.write_text(''.join(json.dumps(dict(story=CATS * 9)) + '\n' for _ in range(40)))
    how = dataclasses.replace(SHORT, max_steps=2)
    train(tmp_path/'a', rows, CONFIG, how, progress=False, column='story')
    train(tmp_path/'a', rows, progress=False)
    with pytest.raises(InputError, match='cut this corpus where it is loaded'):
        train(tmp_path/'b', TEXT, CONFIG, how, progress=False, limit=1000)
    with pytest.raises(InputError, match="load the text with marks='tags', not 'bytes'"):
        train(tmp_path/'b', TEXT, tiny_config(marks='tags'), how, progress=False)
    assert not (tmp_path/'b').exists()

def test_a_smaller_budget_holds_for_steps_that_are_taken_again():
    run = SimpleNamespace(settings=TrainConfig(max_steps=22), step=22, seconds=lambda: 1.)
    again = {step: dict(progress=step / 100, seconds=1.) for step in range(21, 29)}
    budget = pico.record.Budget(run, again)
    assert budget.spent() == 1
    run.step = 20
    assert budget.spent() == .21
