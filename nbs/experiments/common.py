"""What the experiments share: the model that is measured, texts, a training step, and files of results.

    python nbs/experiments/common.py INTO.jsonl FROM.jsonl …      # take in what another machine has found

An experiment is a script of this folder. Its results are the lines of `results/NAME.jsonl`, one JSON object for each
thing measured, in order of their names. What has a line is done and is not measured again.
"""
import argparse
import functools
import hashlib
import json
import marshal
import platform
import shlex
import subprocess
import sys
import sysconfig
import tempfile
import time
from datetime import date
from pathlib import Path

import torch
from filelock import FileLock

from pico.checkpoint import atomic_write, sha256
from pico.data import Corpus
from pico.model import PicoConfig
from pico.sources import load_corpus
from pico.stories import story
from pico.train import backward

HERE = Path(__file__).resolve().parent
RESULTS = HERE/'results'
ROWS, LENGTH = 4, 512                # of a batch: 2,048 bytes a step

# --- the model that is measured

# written out here, so that results keep their meaning whatever the presets of the library become
DESIGN = dict(router='topk', latent_capacity_factor=.25, latent_carry='no', heads='linear', heads_every=1)
SHAPES = {
    'nano': dict(dim=96, next_tokens=4, att_q_heads=6, att_kv_heads=2, fb_num_blocks=1, fb_att_window_size=16,
                 latent_num_blocks=3, latent_att_window_size=256),
    'xs':   dict(dim=128, next_tokens=8, att_q_heads=9, att_kv_heads=3, fb_num_blocks=2, fb_att_window_size=16,
                 latent_num_blocks=12, latent_att_window_size=512),
    '10m':  dict(dim=372, next_tokens=8, att_q_heads=9, att_kv_heads=3, fb_num_blocks=2, fb_att_window_size=32,
                 latent_num_blocks=8, latent_att_window_size=512),
    '100m': dict(dim=1024, next_tokens=8, att_q_heads=16, att_kv_heads=4, fb_num_blocks=2, fb_att_window_size=32,
                 latent_num_blocks=11, latent_att_window_size=512),
}

# the default router and what belongs to it, on top
LEARNED = dict(router='rising', latent_capacity_factor=3/16, latent_carry='yes', heads='chained')

# `nano` as choices.py made it: its design, and how it is trained
NANO = SHAPES['nano'] | LEARNED | dict(fb_num_blocks=2, latent_num_blocks=2, positions='relative', heads_every=32)
NANO_TRAINING = dict(context_len=512, batch_size=4, learning_rate=8e-3, min_lr_ratio=0., warmup_steps=50, average=.97)

def config(shape='nano', **changes):
    "One of `SHAPES` with `DESIGN`, and some changes."
    return PicoConfig.from_dict(SHAPES[shape] | DESIGN | changes)

def train_step(model, optimizer, x, y, lr, autocast=None, clock=time.thread_time):
    """One step at a learning rate, times a group's `lr_factor` where it has one. Returns what `backward` does and the
    seconds that the optimizer took, by default those of the processor."""
    for group in optimizer.param_groups: group['lr'] = lr * group.get('lr_factor', 1)
    out = backward(model, [(x, y)], autocast)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
    start = clock()
    optimizer.step()
    seconds = clock() - start
    for p in model.parameters(): p.grad = None
    model.router_state_step()
    return out, seconds

@torch.no_grad()
def average_weights(average, model, step):
    "Take a step's weights into a running average of about the last tenth of all steps; at step 0 it is a copy."
    for mean, t in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if t.is_floating_point(): mean.lerp_(t, 9 / (step + 9))
        else: mean.copy_(t)                                       # what a router has counted

@torch.no_grad()
def follow(average, weights, decay, step):
    "Take a step's weights into the running average of `pico-train`."
    torch._foreach_lerp_(average, weights, 1 - min(decay, (1 + step) / (10 + step)))

# --- texts

CORPORA = { # name: (file in the folder of --data, public source)
    'stories': (None, 'the built-in stories'),
    'english': ('war_and_peace.txt', 'War and Peace, English, public domain'),
    'russian': ('tinystories_ru.txt', 'MichaelMonashev/TinyStories-ru, Apache-2.0'),
    'python':  ('python_algorithms.txt', 'TheAlgorithms/Python, MIT'),
    'chinese': ('chinese_novels.txt', 'three classical Chinese novels, public domain, as in hexhero/book-txt'),
}

def text(name, split='train', data=None, limit=None):
    "A corpus by its name in `CORPORA`, or `compiled`."
    if name == 'compiled': return compiled(split)
    return load_corpus('stories' if name == 'stories' else str(Path(data)/CORPORA[name][0]), split, limit=limit)

def compiled(split='train'):
    "No text at all: the modules of the standard library, as this Python compiles them. The last tenth is held out."
    files = sorted(Path(sysconfig.get_path('stdlib')).glob('*.py'))
    documents = [marshal.dumps(compile(f.read_bytes(), f.name, 'exec')) for f in files]
    cut = len(documents) * 9 // 10
    return Corpus.from_bytes(documents[:cut] if split == 'train' else documents[cut:], name='compiled')

def before_last(corpus, limit=None):
    """A training split in two: what to train on, and what to choose by: the ninth before the held-out text, or so many
    bytes of it. Nothing is tuned on held-out text."""
    values, _ = corpus.read(0, corpus.size)
    cut = corpus.size * 8 // 9
    return (Corpus.from_bytes(part.tobytes()) for part in (values[:cut], values[cut:][:limit]))

def new_stories(n, seed):
    "Stories that no model was trained on: those of another seed than 0."
    return Corpus.from_bytes([story(i, seed=seed).text.encode() for i in range(n)])

def source(name, data=None, held_out=None):
    "Where a text comes from, and its sha256: the file's, or that of the first hundred of the built-in stories."
    if name == 'compiled':
        return dict(source=f'the standard library of Python {platform.python_version()}, compiled', sha256=None)
    file, public = CORPORA[name]
    if held_out: public += f'; held out: {held_out}'
    return dict(source=public, sha256=sha256(Path(data)/file) if file else stories_sha256())

@functools.cache
def stories_sha256(): return hashlib.sha256(''.join(story(i, seed=0).text for i in range(100)).encode()).hexdigest()

# --- results

class Results:
    "The lines of an experiment's file. Several processes may add to it at once."
    def __init__(self, file): self.file = Path(file)

    def rows(self):
        if not self.file.exists(): return []
        with open(self.file, encoding='utf-8') as f: return [json.loads(line) for line in f]

    def find(self, name):
        "The line of this name, or None: then it is still to be measured."
        return next((r for r in self.rows() if r['name'] == name), None)

    def add(self, *new):
        "Add lines; one of the same name gives way."
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.file.with_suffix('.lock')):
            rows = {r['name']: r for r in (*self.rows(), *new)}
            content = ''.join(json.dumps(rows[name]) + '\n' for name in sorted(rows))
            atomic_write(self.file, lambda p: p.write_text(content, encoding='utf-8'))

    def merge(self, file):
        "Take in the lines of another file; `ValueError` if both measured the same thing with different results."
        new = Results(file).rows()
        for row in new:
            if (self.find(row['name']) or row) != row: raise ValueError(f"{row['name']}: both files hold a result")
        self.add(*new)

# --- how a result was made

def stamp(command, data=None, threads=1):
    "What every line says beside its numbers."
    head = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, cwd=HERE)
    return dict(command=command, commit=head.stdout.strip(), data=data, device=device(threads),
                date=date.today().isoformat(), torch=torch.__version__)

def device(threads=1): return f"{processor()}, {threads} thread{'' if threads == 1 else 's'}"

def processor():
    "What the processor calls itself, where the system says so."
    try: return next(l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name'))
    except (OSError, StopIteration): return f'{platform.machine()} processor'

# --- commands

def parser(doc):
    "The options that all experiments have."
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter,
                                allow_abbrev=False)
    p.add_argument('--out', type=Path, metavar='FILE', help='where results go, instead of nbs/experiments/results')
    p.add_argument('--smoke', action='store_true', help='a few steps, to see that it runs; results are thrown away')
    return p

def parse(p, script, args=None, results=None):
    "Options of a script, with its `command` and its `results` (those of its own name). Times are those of one thread."
    args = sys.argv[1:] if args is None else args
    a, name = p.parse_args(args), Path(script).stem
    a.command = typed(name, args)
    if a.smoke and not a.out: a.out = Path(tempfile.mkdtemp(prefix='pico-'))/'smoke.jsonl'
    a.results = Results(a.out or RESULTS/f'{results or name}.jsonl')
    torch.set_num_threads(1)
    return a

PATHS = {'--text': 'FILE', '--public': 'FILE', '--runs': 'RUNS',
         **dict.fromkeys(('--data', '--original', '--nanogpt', '--megabyte'), 'DIR')}

def typed(name, args):
    "What to type for the same again, without what only this machine knows."
    words, rest = ['python', f'nbs/experiments/{name}.py'], iter(args)
    for word in rest:
        flag, is_one, _ = word.partition('=')
        if flag in ('--out', '--part', *PATHS):
            if not is_one: next(rest)
            if flag in PATHS: words += [flag, PATHS[flag]]
        else: words.append(shlex.quote(word))
    return ' '.join(words)

def part(cells, share):
    "Of a list of things to measure, those of share 'i/n': every n-th from the i-th, for several processes or machines."
    i, n = map(int, share.split('/'))
    return cells[i % n::n]

def main(args=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('into', type=Path, metavar='INTO.jsonl', help='the file of results that grows')
    p.add_argument('others', type=Path, nargs='+', metavar='FROM.jsonl', help='what it takes in')
    a = p.parse_args(args)
    for other in a.others: Results(a.into).merge(other)

if __name__ == '__main__': main()
