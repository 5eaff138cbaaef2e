"""Long measurements of chapter 23: writing several bytes at a time. Each result is one small JSON file; what is done is skipped.

    python nbs/23_writing.py models --data DIR        # trains the models that are measured, resumable; weights go to runs/writing
"""
import argparse
from pathlib import Path
import torch
from pico.data import load_corpus
from pico.model import PicoConfig
from pico.train import TrainConfig, train

RUNS = Path(__file__).parent.parent/'runs'/'writing'
CORPORA = { # name: (file in --data, public source)
    'english': ('war_and_peace.txt', 'War and Peace, English, public domain'),
    'russian': ('tinystories_ru.txt', 'MichaelMonashev/TinyStories-ru, Apache-2.0'),
    'python':  ('python_algorithms.txt', 'TheAlgorithms/Python, MIT'),
}
MODELS = { # name: (corpus, preset, changes, steps)
    'stories-nano': ('stories', 'nano', dict(router='topk'), 2500),
    'python-nano':  ('python', 'nano', dict(router='topk'), 2500),
    'russian-nano': ('russian', 'nano', dict(router='space'), 2500),
    'stories-xs':   ('stories', 'xs', dict(dim=144, router='topk'), 2500),
    'english-nano': ('english', 'nano', dict(router='topk'), 2500),
}

def text(name, data, split, marks='bytes'):
    return load_corpus('stories' if name == 'stories' else str(Path(data)/CORPORA[name][0]), split, marks=marks)

def models(a):
    "Trunks with one head each: what heads are then trained on."
    for name, (corpus, preset, changes, steps) in MODELS.items():
        settings = TrainConfig(context_len=512, batch_size=4, learning_rate=8e-3 if preset == 'nano' else 4e-3, warmup_steps=50, max_steps=steps,
                               validation_interval=500, validation_bytes=20_000, checkpoint_interval=250)
        train(RUNS/name, text(corpus, a.data, 'train'), PicoConfig.preset(preset, next_tokens=1, **changes), settings, text(corpus, a.data, 'validation'))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('stage', choices=['models']); p.add_argument('--data', help='folder that holds the corpora')
    a = p.parse_args()
    torch.set_num_threads(1)
    globals()[a.stage](a)

if __name__ == '__main__': main()
