"What a user installs and what the README promises."
import re, subprocess, sys, zipfile
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT/'README.md').read_text(encoding='utf-8')

def test_readme_names_every_chapter_and_links_exist():
    for nb in sorted((ROOT/'nbs').glob('[0-9]*.ipynb')): assert f'nbs/{nb.name}' in README, nb.name
    for link in re.findall(r'\]\(([^)#]+)\)', README):
        if '://' not in link: assert (ROOT/link).exists(), link

def test_every_command_of_the_readme_is_known():
    "Make targets exist, flags of our commands are accepted, Python blocks compile."
    make = (ROOT/'Makefile').read_text()
    blocks = re.findall(r'^```(sh|python)\n(.*?)^```', README, re.S | re.M)
    assert blocks
    for kind, block in blocks:
        if kind == 'python': compile(block, 'README', 'exec'); continue
        for line in block.splitlines():
            words = line.split('#')[0].split()
            if words[:1] == ['make']: assert f'\n{words[1]}:' in make, line
            if words and words[0].startswith('pico-'):
                help = subprocess.run([Path(sys.executable).parent/words[0], '--help'], capture_output=True, text=True, timeout=120).stdout
                for flag in re.findall(r'--[\w-]+', line.split('#')[0]): assert flag.replace('-', '_').replace('__', '--', 1) in help, flag

def test_readme_python_runs(tmp_path, monkeypatch):
    "The Python block of the README, on a model made here."
    from pico.model import Pico, PicoConfig
    monkeypatch.chdir(tmp_path)
    Pico(PicoConfig.preset('nano')).save_pretrained('runs/demo')
    for kind, block in re.findall(r'^```(python)\n(.*?)^```', README, re.S | re.M): exec(compile(block, 'README', 'exec'), {})

def test_ci_runs_the_test_command_and_nothing_else():
    run = (ROOT/'.ci'/'run').read_text()
    assert 'make test' in run and 'make test' in README

@pytest.mark.slow
def test_wheel_works_in_a_clean_environment(tmp_path):
    "`python -m build`, then the commands from a new environment that has only the wheel and its dependencies."
    subprocess.run([sys.executable, '-m', 'build', '--wheel', '--outdir', tmp_path, ROOT], check=True, capture_output=True)
    wheel, = tmp_path.glob('*.whl')
    names = zipfile.ZipFile(wheel).namelist()
    for p in (ROOT/'pico').glob('*.py'): assert f'pico/{p.name}' in names
    subprocess.run([sys.executable, '-m', 'venv', tmp_path/'v'], check=True)
    pip = subprocess.run([tmp_path/'v/bin/python', '-m', 'pip', 'install', '-q', wheel, 'torch<2.14'], capture_output=True, text=True)
    assert pip.returncode == 0, pip.stderr
    out = subprocess.run([tmp_path/'v/bin/pico-train', tmp_path/'r', 'stories', '--preset', 'nano', '--max_steps', '3', '--limit', '100000'], capture_output=True, text=True, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    out = subprocess.run([tmp_path/'v/bin/pico-generate', tmp_path/'r', '--prompt', 'Once', '--max_bytes', '20'], capture_output=True, text=True, cwd=tmp_path)
    assert out.returncode == 0 and out.stdout.startswith('Once'), out.stderr
