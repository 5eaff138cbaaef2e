"Fail unless `pico/` is what the notebooks export: nothing edited by hand, nothing stale, every notebook executed."
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from nbdev_command import nbdev
from pico.show import parts_of

ROOT = Path(__file__).resolve().parent.parent

# nbdev 2 finds its settings in the first, nbdev 3 in the second
SETTINGS = 'settings.ini', 'pyproject.toml'

def exported(root):
    "Export a copy of the notebooks at `root` into a temporary folder, which the caller deletes."
    d = Path(tempfile.mkdtemp())
    shutil.copytree(root/'nbs', d/'nbs')
    for name in SETTINGS: shutil.copy(root/name, d)
    (d/'pico').mkdir()
    shutil.copy(root/'pico'/'__init__.py', d/'pico')
    env = {k: v for k,v in os.environ.items() if k != 'IN_TEST'}          # nbdev exports nothing while this is set
    subprocess.run(nbdev('export'), cwd=d, env=env, check=True, capture_output=True)
    return d

def differences(root=ROOT):
    "What differs between `pico/` and a fresh export, as sentences."
    d = exported(root)
    try:
        mine, fresh = ({f.name for f in (r/'pico').glob('*.py')} for r in (root, d))
        bad = [f'pico/{n} has no notebook' for n in sorted(mine - fresh)]
        bad += [f'pico/{n} is not exported yet' for n in sorted(fresh - mine)]
        def text(folder, name): return (folder/'pico'/name).read_text(encoding='utf-8')     # line endings are git's
        changed = [n for n in sorted(mine & fresh) if text(root, n) != text(d, n)]
        return bad + [f'pico/{n} differs from its notebook' for n in changed] + differing_parts(root)
    finally: shutil.rmtree(d)

def differing_parts(root):
    "What differs between `pico/template/` and the `%%part` cells of the notebooks, as sentences."
    texts = parts_of(root/'nbs')
    mine = {f.name: f.read_text(encoding='utf-8') for f in sorted((root/'pico'/'template').glob('*'))}
    return ([f'pico/template/{n} has no cell' for n in sorted(mine.keys() - texts)]
            + [f'pico/template/{n} is not exported yet' for n in sorted(texts.keys() - mine)]
            + [f'pico/template/{n} differs from its cells' for n in sorted(mine) if texts.get(n, mine[n]) != mine[n]])

def unexecuted(root=ROOT):
    "Notebooks that store no output at all, or an error."
    bad = []
    for p in sorted((root/'nbs').rglob('*.ipynb')):               # answers, too
        if '.ipynb_checkpoints' in p.parts: continue
        cells = json.loads(p.read_text(encoding='utf-8'))['cells']
        outputs = [o for c in cells for o in c.get('outputs', [])]
        code = any(c['cell_type'] == 'code' for c in cells)       # a chapter may be prose alone
        if code and not outputs: bad.append(f'{p.name} has no stored outputs')
        if any(o['output_type'] == 'error' for o in outputs): bad.append(f'{p.name} stores an error')
    return bad

if __name__ == '__main__':
    bad = differences() + unexecuted()
    for b in bad: print(b)
    if bad: sys.exit('The package is not in step with the notebooks: run `make book`.')
    print('package in step with the notebooks')
