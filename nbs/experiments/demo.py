"""What `make demo` reaches with the learned router, and what SpaceByte's rule reaches in the same three minutes.

    python nbs/experiments/demo.py             # twice three minutes, on all cores; nothing else may run
    python nbs/experiments/demo.py --tell      # the line that the demo prints, from the results

Both have the preset `nano` and are trained as `make demo` trains, one after the other, and scored on the same held-out
stories. Rows are long and stretches of them stand twice in the first half of the run (chapter 01a), which is what it
takes to learn to remember in so short a time.
"""
import argparse
import os
import sys
import tempfile
from pathlib import Path

import pico                                                       # before torch: it sets how threads wait
from common import RESULTS, Results, processor, source, stamp, typed

from pico.evaluate import bits_per_byte, recall, router_report
from pico.model import PicoConfig
from pico.record import read_metrics
from pico.run import TrainConfig
from pico.sources import load_corpus
from pico.stories import story
from pico.train import train

ROUTERS = 'rising', 'space'
HOW = dict(max_minutes=3, context_len=2048, batch_size=1, repeats=.45)                   # the flags of `make demo`

def reached(router, folder, minutes=HOW['max_minutes'], scored=50_000, asked=24):
    "A model trained for so many minutes, and where it goes deep."
    settings = TrainConfig.preset('nano', **HOW | dict(max_minutes=minutes))
    model = train(folder, 'stories', PicoConfig.preset('nano', router=router), settings, progress=False)
    held_out = load_corpus('stories', 'validation', limit=scored)                     # as `pico-eval` does
    score, report = bits_per_byte(model, held_out), router_report(model, held_out, 20_000)
    told = recall(model, [story(i, seed=1) for i in range(asked)], far=200)
    return dict(name=router, minutes=minutes, steps=read_metrics(folder)[-1]['step'], bpb=score.bpb, bytes=score.bytes,
                floor=held_out.floor, routed=score.routed_fraction, f1=report.f1, random_f1=report.random_f1,
                bpb_off=report.bpb_off, recall=told.accuracy, recall_error=told.error, facts=told.n,
                chance=told.chance)

def tell(results):
    "One line about both."
    learned, rule = (results.find(r) for r in ROUTERS)
    if not learned or not rule: return 'nothing measured yet: python nbs/experiments/demo.py'
    where, minutes = learned['device'].split(',')[0], f"{learned['minutes']:g} minutes"
    return (f"Where both were measured ({where}), this router reached {learned['bpb']:.3f} bits per byte in {minutes}, "
            f"and SpaceByte's rule {rule['bpb']:.3f}.")

def main(args=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--tell', action='store_true', help='print the line of the demo')
    p.add_argument('--smoke', action='store_true', help='a second each; results are thrown away')
    p.add_argument('--out', type=Path, metavar='FILE', help='where results go, instead of nbs/experiments/results')
    args = sys.argv[1:] if args is None else args
    a = p.parse_args(args)
    with tempfile.TemporaryDirectory() as d:
        results = Results(a.out or (Path(d)/'smoke.jsonl' if a.smoke else RESULTS/'demo.jsonl'))
        if a.tell: return print(tell(results))
        for router in ROUTERS:
            if results.find(router): continue
            row = reached(router, Path(d)/router, *((.02, 2000, 2) if a.smoke else ()))
            made = stamp(typed('demo', args), source('stories'))
            made['device'] = f'{processor()}, {os.cpu_count()} cores, pico {pico.__version__}'
            results.add(row | made)
            print(f"{router}: {row['steps']:,} steps, {row['bpb']:.4f} bits per byte, F1 {row['f1']:.2f}, "
                  f"{row['recall']:.1%} of far facts", flush=True)

if __name__ == '__main__': main()
