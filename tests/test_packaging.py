"What a user installs and what the README promises."
import re
import subprocess
import sys
import zipfile
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT/'README.md').read_text(encoding='utf-8')

def test_readme_names_every_chapter_and_links_exist():
    for nb in sorted((ROOT/'nbs').glob('[0-9]*.ipynb')): assert f'nbs/{nb.name}' in README, nb.name
    for link in re.findall(r'\]\(([^)#]+)\)', README):
        if '://' not in link: assert (ROOT/link).exists(), link

BLOCKS = re.findall(r'^```(\w*)\n(.*?)^```', README, re.S | re.M)
SHELL = [line.split('#')[0].strip() for kind, block in BLOCKS if kind == 'sh' for line in block.splitlines()]
# what stands between the lines too: `pico-train runs/mine FILE`, or a block's «$ pico-generate …»
PROSE = re.sub(r'^```.*?^```', '', README, flags=re.S | re.M)
SHOWN = re.findall(r'`(pico-\w+ [^`\n]+)`', PROSE) + re.findall(r'^\$ (pico-.*)$', README, re.M)
TYPED = [c for c in [*SHELL, *SHOWN] if c.startswith('pico-')]
SHORTER = {'pico-train': ['--max_steps', '2', '--validation_bytes', '300', '--context_len', '64', '--batch_size', '2'],
           'pico-eval': ['--max_bytes', '300'], 'pico-generate': ['--max_bytes', '20'],
           'pico-page': ['--max_bytes', '300']}

def test_make_targets_and_files_of_the_readme_exist():
    make = (ROOT/'Makefile').read_text()
    targets = [line.split()[1] for line in SHELL if line.startswith('make ')] + re.findall(r'`make (\w[\w-]*)`', README)
    assert {'demo', 'test'} <= set(targets)
    for t in targets: assert f'\n{t}:' in make, t
    for script in re.findall(r'python (nbs/\S+\.py)', README): assert (ROOT/script).exists(), script

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder in which the README's commands can be typed: with a text called FILE, and a saved data set for the Hub's."
    import datasets
    d = tmp_path_factory.mktemp('readme')
    (d/'FILE').write_text('The quick brown fox jumps over the lazy dog. ' * 300)
    datasets.Dataset.from_dict(dict(text=['One day a fox met a dog. ' * 20] * 30)).save_to_disk(d/'hub')
    return d

def test_every_command_of_the_readme_runs_as_typed(place, monkeypatch):
    "In the order of the page, each with a shortened budget."
    import datasets
    import pico.cli
    import pico.page
    import pico.sources
    import shlex
    monkeypatch.chdir(place)
    monkeypatch.setattr(pico.sources, 'hub_data', lambda name, streaming=False: datasets.load_from_disk('hub'))
    assert len(TYPED) > 5 and any(c.split()[-1] == 'FILE' for c in TYPED)
    assert any('/' in word for c in TYPED for word in c.split()[2:])
    for line in TYPED:
        name, *args = shlex.split(line)
        goes_on = name == 'pico-train' and (place/args[0]/'train.json').exists()
        if not goes_on: args += SHORTER[name]
        command = pico.page.page_command if name == 'pico-page' else pico.cli.COMMANDS[name.removeprefix('pico-')]
        try: command(args)
        except SystemExit as e: assert e.code in (0, None), line

def test_readme_python_runs(place, monkeypatch):
    "The Python blocks of the README, after its commands have been typed."
    from pico.model import Pico, PicoConfig
    monkeypatch.chdir(place)
    if not (place/'runs'/'demo').exists(): Pico(PicoConfig.preset('nano')).save_pretrained('runs/demo')
    blocks = [block for kind, block in BLOCKS if kind == 'python']
    assert blocks
    for block in blocks: exec(compile(block, 'README', 'exec'), {})

def test_ci_runs_the_test_command_and_nothing_else():
    run = (ROOT/'.ci'/'run').read_text()
    assert 'make test' in run and 'make test' in README

@pytest.mark.slow
def test_wheel_works_in_a_clean_environment(tmp_path):
    "`python -m build`, then the commands from a new environment that has only the wheel and its dependencies."
    subprocess.run([sys.executable, '-m', 'build', '--wheel', '--outdir', tmp_path, ROOT], check=True,
                   capture_output=True)
    wheel, = tmp_path.glob('*.whl')
    names = zipfile.ZipFile(wheel).namelist()
    for p in [*(ROOT/'pico').glob('*.py'), *(ROOT/'pico'/'template').glob('*')]:
        assert str(p.relative_to(ROOT)) in names
    subprocess.run([sys.executable, '-m', 'venv', tmp_path/'v'], check=True)
    pip = subprocess.run([tmp_path/'v/bin/python', '-m', 'pip', 'install', '-q', wheel, 'torch<2.14'],
                         capture_output=True, text=True)
    assert pip.returncode == 0, pip.stderr
    out = subprocess.run([tmp_path/'v/bin/pico-train', tmp_path/'r', 'stories', '--preset', 'nano', '--max_steps', '3',
                          '--limit', '100000'], capture_output=True, text=True, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    out = subprocess.run([tmp_path/'v/bin/pico-generate', tmp_path/'r', '--prompt', 'Once', '--max_bytes', '20'],
                         capture_output=True, text=True, cwd=tmp_path)
    assert out.returncode == 0 and out.stdout.startswith('Once'), out.stderr
    out = subprocess.run([tmp_path/'v/bin/pico-page', tmp_path/'r', tmp_path/'r.html', '--max_bytes', '300'],
                         capture_output=True, text=True, cwd=tmp_path)
    assert out.returncode == 0 and '</html>' in (tmp_path/'r.html').read_text(), out.stderr
