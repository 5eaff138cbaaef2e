"Training: exact resume after a real kill, pure batches over processes, refusals."
import dataclasses, json, os, signal, subprocess, sys, time
from pathlib import Path
import pytest, torch
from pico.data import Corpus, InputError
from pico.model import Pico, PicoConfig
from pico.train import TrainConfig, backward, read_metrics, train

CONFIG = PicoConfig.preset('nano', dim=24, latent_num_blocks=1)
TEXT = Corpus.from_bytes([f'Story {i}: Mia has {i} cats. '.encode() for i in range(300)])
SET = TrainConfig(context_len=64, batch_size=4, learning_rate=3e-3, warmup_steps=2, checkpoint_interval=3, validation_interval=4, validation_bytes=300, max_steps=8)

def weights(out): return (Path(out)/'model.safetensors').read_bytes()
def go(out, config=CONFIG, validation=TEXT, **changes): return train(out, TEXT, config, dataclasses.replace(SET, **changes), validation, progress=False)
def plain(out): return [{k: v for k,v in m.items() if k not in ('seconds', 'bytes_per_second')} for m in read_metrics(out)]

@pytest.mark.parametrize('router', ['topk', 'space', 'random'])
def test_killed_and_continued_equals_uninterrupted(tmp_path, router):
    "Invariant 5: SIGKILL while it runs, continue, as often as it takes; the same bits."
    config = dataclasses.replace(CONFIG, router=router)
    go(tmp_path/'a', config, max_steps=30)
    text = tmp_path/'t.txt'
    code = f"""
import dataclasses, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_train as t
t.go({str(tmp_path/'b')!r}, dataclasses.replace(t.CONFIG, router={router!r}), max_steps=30)
"""
    env = os.environ | {'OMP_NUM_THREADS': str(torch.get_num_threads())}
    for kill_at in (7, 19, None):
        p = subprocess.Popen([sys.executable, '-c', code], env=env)
        m = tmp_path/'b'/'metrics.jsonl'
        while kill_at and p.poll() is None and not (m.exists() and len(m.read_text().splitlines()) >= kill_at): time.sleep(.002)
        if kill_at: p.send_signal(signal.SIGKILL)
        p.wait(120)
    assert p.returncode == 0
    assert weights(tmp_path/'a') == weights(tmp_path/'b')
    assert plain(tmp_path/'a') == plain(tmp_path/'b')

def test_accumulation_equals_one_large_batch():
    torch.manual_seed(0); m = Pico(CONFIG).double()
    from pico.data import batch
    x, y = batch(TEXT, 3, 8, 64, 4)
    grads = []
    for size in (8, 2, 1):
        m.zero_grad(); backward(m, list(zip(x.split(size), y.split(size)))); grads.append([p.grad.clone() for p in m.parameters()])
    for g in grads[1:]: torch.testing.assert_close(g, grads[0])

def test_time_budget_is_kept(tmp_path):
    go(tmp_path/'a', max_steps=None, max_minutes=.05, validation=None)
    m = read_metrics(tmp_path/'a')
    assert 2.5 < m[-1]['seconds'] < 5 and m[-1]['learning_rate'] < .2 * 3e-3

def test_not_a_number_stops_before_weights_change(tmp_path):
    go(tmp_path/'a', max_steps=3); before = weights(tmp_path/'a')
    real = Pico.loss
    def bad(self, *a, **k):
        l = real(self, *a, **k); l.total = l.total * float('nan'); return l
    Pico.loss = bad
    try:
        with pytest.raises(InputError, match='step 4'): go(tmp_path/'a', max_steps=6)
    finally: Pico.loss = real
    assert weights(tmp_path/'a') == before
    go(tmp_path/'a', max_steps=6)
    assert read_metrics(tmp_path/'a')[-1]['step'] == 6

def test_refusals(tmp_path):
    go(tmp_path/'a')
    for change in (dict(seed=1), dict(batch_size=8), dict(learning_rate=1e-4)):
        with pytest.raises(InputError, match='contradicts'): go(tmp_path/'a', **change)
    with pytest.raises(InputError, match='contradicts'): go(tmp_path/'a', dataclasses.replace(CONFIG, dim=30))
    with pytest.raises(InputError, match='contradicts'): train(tmp_path/'a', Corpus.from_bytes(b'other text '*500), CONFIG, SET, progress=False)
    with pytest.raises(InputError, match='context'): train(tmp_path/'b', Corpus.from_bytes(b'short'), CONFIG, SET, progress=False)
    assert not (tmp_path/'b').exists()

def test_a_terminated_run_says_how_to_go_on(tmp_path):
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_train as t; t.train({str(tmp_path/'a')!r}, t.TEXT, t.CONFIG, t.dataclasses.replace(t.SET, max_steps=100000, checkpoint_interval=100000), None)
"""
    p = subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.PIPE, text=True)
    m = tmp_path/'a'/'metrics.jsonl'
    while p.poll() is None and not (m.exists() and len(m.read_text().splitlines()) > 5): time.sleep(.01)
    p.send_signal(signal.SIGTERM); err = p.communicate(timeout=60)[1]
    assert p.returncode == 0 and 'go on with: pico-train' in err
    assert len(list((tmp_path/'a/checkpoints').iterdir())) == 1
    Pico.from_pretrained(tmp_path/'a')

def _worker(rank, world, folder):
    import torch.distributed as dist
    dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=world)
    train(f'{folder}/many', TEXT, CONFIG, SET, TEXT, progress=False)
    dist.destroy_process_group()

def test_two_processes_equal_one(tmp_path):
    import torch.multiprocessing as mp
    go(tmp_path/'one'); mp.spawn(_worker, (2, str(tmp_path)), nprocs=2)
    a, b = ([m['loss'] for m in read_metrics(tmp_path/d)] for d in ('one', 'many'))
    assert a == pytest.approx(b, abs=1e-5)
