"""What does it save to begin from a trained model, on a text of one's own?

    python nbs/experiments/starting.py --data DIR

The model that comes with the package, which knows nothing but its stories, goes on with another text; a model of the
same shape begins with random weights. Both read the same batches, by `pico.train.train`, with a constant rate, so that
every point of the curves is a model that could have gone on. They are scored on the tenth of the text before its
held-out tenth. Chapter 11 draws the curves.
"""
import tempfile
from pathlib import Path

from common import CORPORA, before_last, parse, parser, source, stamp, text

from pico.model import trained_model
from pico.record import read_metrics
from pico.train import TrainConfig, train

STEPS, EVERY = 1000, 50
WAY = dict(context_len=512, batch_size=4, learning_rate=8e-3, warmup_steps=50, schedule='constant',
           validation_bytes=20_000)

def curve(corpus, held_out, start, seed, steps, every):
    "Bits per byte on held-out text, every so many steps: (step, bits per byte)."
    s = TrainConfig(optimizer='soap', **WAY, max_steps=steps, validation_interval=every, seed=seed)
    with tempfile.TemporaryDirectory() as d:
        train(Path(d)/'run', corpus, trained_model('stories').config, s, held_out, progress=False, start=start)
        return [(m['step'], m['validation_bpb']) for m in read_metrics(Path(d)/'run') if 'validation_bpb' in m]

def main(args=None):
    p = parser(__doc__)
    p.add_argument('--data', metavar='DIR', help='folder that holds the corpora')
    p.add_argument('--corpora', nargs='*', choices=CORPORA, default=['english', 'russian'])
    p.add_argument('--seeds', type=int, nargs='*', default=[0, 1])
    a = parse(p, __file__, args)
    steps, every = (4, 2) if a.smoke else (STEPS, EVERY)
    if a.smoke: a.corpora, a.seeds = ['stories'], [0]
    elif not a.data: p.error('these texts need --data DIR')
    for corpus in a.corpora:
        for seed in a.seeds:
            for start in ('stories', None):
                name = f"{corpus}-from-{start or 'nothing'}-{seed}"
                if a.results.find(name): continue
                training, held_out = before_last(text(corpus, 'train', a.data), 20_000)
                points = curve(training, held_out, start, seed, steps, every)
                row = dict(name=name, corpus=corpus, start=start, seed=seed, curve=points)
                a.results.add(row | stamp(a.command, source(corpus, a.data, 'the tenth before the last')))
                print(f'{name}: {points[-1][1]:.4f} bits per byte after {points[-1][0]} steps', flush=True)

if __name__ == '__main__': main()
