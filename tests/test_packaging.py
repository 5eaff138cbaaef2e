"What a user installs and what the README promises."
import configparser
import importlib.util
import json
import re
import subprocess
import sys
import urllib.parse
import zipfile
from pathlib import Path
import pytest
import tried
from nbdev_command import nbdev
try: import tomllib
except ModuleNotFoundError: import tomli as tomllib        # Python 3.10, where pytest brings it

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT/'README.md').read_text(encoding='utf-8')

def test_readme_names_every_chapter_and_links_exist():
    for nb in sorted((ROOT/'nbs').glob('[0-9]*.ipynb')): assert f'nbs/{nb.name}' in README, nb.name
    for link in re.findall(r'\]\(([^)#]+)\)', README):
        if '://' not in link: assert (ROOT/link).exists(), link

def test_readme_and_index_tell_the_same():
    "The paths and the chapters, which nbs/index.ipynb has too."
    book = json.loads((ROOT/'nbs'/'index.ipynb').read_text(encoding='utf-8'))
    index = '\n'.join(''.join(c['source']) for c in book['cells'])
    lines = [line for line in README.splitlines() if '](nbs/' in line and line.startswith(('| [', '* **'))]
    assert len(lines) > 20
    for line in lines: assert line.replace('](nbs/', '](') in index.splitlines(), line

def test_readme_is_short():
    words = re.sub(r'\]\([^)]*\)', ']', re.sub(r'^```.*?^```', '', README, flags=re.S | re.M)).replace('|', ' ').split()
    assert sum(any(c.isalnum() for c in w) for w in words) <= 900
    assert len(re.findall(r'^\* ', README.split('## ')[0], re.M)) == 3                 # what is unusual
    assert max(len(re.findall(r'^[^…\n].*', block, re.M)) for kind, block in BLOCKS if not kind) <= 8     # of an output
    for line in README.splitlines():
        if line.startswith('|'): assert all(len(cell.split()) <= 15 for cell in line.split('|')), line

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
    if not (place/'runs'/'first').exists(): Pico(PicoConfig.preset('nano')).save_pretrained('runs/first')
    blocks = [block for kind, block in BLOCKS if kind == 'python']
    assert blocks
    for block in blocks: exec(compile(block, 'README', 'exec'), {})

IGNORE = re.compile(r'#\s*type:\s*ignore')

def test_the_type_checker_is_hushed_at_few_places_and_for_a_reason():
    hushed = []
    for p in sorted((ROOT/'pico').glob('*.py')):
        lines = p.read_text(encoding='utf-8').splitlines()
        hushed += [(f'{p.name}:{n}', line) for n, line in enumerate(lines, 1) if IGNORE.search(line)]
    for where, line in hushed:
        reason = re.search(r'# type: ignore\[[a-z-]+(?:, [a-z-]+)*\]  # (?=.*\w{3})', line)
        assert reason, f'{where} names no code or no reason: {line.strip()}'
    assert len(hushed) <= 10, f"{len(hushed)} of at most 10: {', '.join(where for where, _ in hushed)}"
    assert not any(re.search(r'#\s*mypy:', p.read_text(encoding='utf-8')) for p in (ROOT/'pico').glob('*.py'))

def test_ci_runs_the_test_command_and_nothing_else():
    lines = (ROOT/'.ci'/'run').read_text().splitlines()
    assert [l for l in lines if not l.startswith('#')] == ['cd "$(dirname "$0")/.." && exec make test']
    assert 'make test' in README

def test_the_workflow_runs_the_lines_of_make_test():
    "It cannot call make, which Windows lacks."
    recipe = re.search(r'^test:.*\n((?:\t.*\n)+)', (ROOT/'Makefile').read_text(), re.M)[1]
    recipe = [re.sub(r'\$\((ONE|TIMED)\) |\$\(BIN\)/', '', line).strip() for line in recipe.splitlines()]
    workflow = (ROOT/'.github'/'workflows'/'test.yml').read_text()
    assert re.findall(r'- run: (.+)$', workflow, re.M) == recipe and len(recipe) > 3
    for name in re.findall(r'^ONE := (.*)$', (ROOT/'Makefile').read_text(), re.M)[0].split():
        assert f"{name.replace('=', ': ')}\n" in workflow

def test_the_parts_of_make_test_say_their_seconds():
    recipe = re.search(r'^test:.*\n((?:\t.*\n)+)', (ROOT/'Makefile').read_text(), re.M)[1]
    for line in recipe.splitlines(): assert '$(TIMED) ' in line, line
    part = [sys.executable, str(ROOT/'tests'/'timed.py'), sys.executable, '-c', 'print("done"); exit(3)']
    out = subprocess.run(part, capture_output=True, text=True)
    assert out.returncode == 3 and re.fullmatch(r'done\n\d+ s: .* exit\(3\)\n', out.stdout)

# settings

PYPROJECT = tomllib.loads((ROOT/'pyproject.toml').read_text(encoding='utf-8'))
PROJECT, TABLE = PYPROJECT['project'], PYPROJECT['tool']['nbdev']

def settings():
    "What nbdev 2 reads, as text."
    cfg = configparser.ConfigParser()
    cfg.read(ROOT/'settings.ini', encoding='utf-8')
    return dict(cfg['DEFAULT'])

def test_both_nbdevs_are_told_the_same():
    "Every setting of nbdev 2 is in nbdev 3's table, follows from the project's data, or means nothing to nbdev 3."
    def text(value): return value if isinstance(value, str) else str(value)
    urls = PROJECT.get('urls', {})
    docs = urllib.parse.urlparse(urls.get('Documentation', ''))
    project = dict(lib_name=PROJECT['name'], description=PROJECT['description'], author=PROJECT['authors'][0]['name'],
                   min_python=PROJECT['requires-python'].removeprefix('>='), keywords=', '.join(PROJECT['keywords']),
                   license={'Apache-2.0': 'apache2'}[PROJECT['license']], git_url=urls.get('Repository', ''),
                   doc_host=f'{docs.scheme}://{docs.netloc}' if docs.scheme else '', doc_baseurl=docs.path or '/')
    only_2 = {'repo', 'user', 'version', 'copyright', 'language', 'status', 'audience', 'black_formatting'}
    told = {k: text(v) for k,v in TABLE.items()}
    assert not set(told) & set(project)
    assert {k: v for k,v in settings().items() if k not in only_2} == told | project

def test_the_version_is_the_same_everywhere():
    import pico
    version, = re.findall(r'^version: (.+)$', (ROOT/'CITATION.cff').read_text(), re.M)
    assert pico.__version__ == settings()['version'] == version
    assert PYPROJECT['tool']['setuptools']['dynamic']['version']['attr'] == 'pico.__version__'

def test_no_invented_address(setup_file):
    "An address is the repository's own, as git or the workflow tells it, or it is not there."
    url, _ = setup_file.repository()
    for name in ('settings.ini', 'pyproject.toml', 'CITATION.cff', 'pico/_modidx.py'):
        found = re.findall(r'[\w.]+@[\w.-]+|https?://[^\s"\']+', (ROOT/name).read_text(encoding='utf-8'))
        assert [a for a in found if not (url and a.startswith(url))] == [], name

def needs(extra):
    "What an extra installs, with the extras of our own that it names."
    for line in PROJECT['optional-dependencies'][extra]:
        own = re.fullmatch(rf"{PROJECT['name']}\[(\w+)\]", line)
        if own: yield from needs(own[1])
        else: yield line

def test_the_install_line_brings_the_word_that_readers_type():
    from packaging.requirements import Requirement
    installed = {Requirement(r).name: Requirement(r).specifier for r in needs('dev')}
    assert "pip install -e '.[dev]'" in SHELL and 'nbdev_test' in SHELL
    assert '2.4.14' in installed['nbdev'] and '3.0.0' not in installed['nbdev']        # nbdev 3 calls it `nbdev-test`
    newest = {Requirement(r).name: Requirement(r).specifier for r in needs('nbdev3')}
    assert '3.3.26' in newest['nbdev'] and newest.keys() | {'torch', 'execnb', 'fastcore'} == installed.keys()

def test_every_cap_has_its_reason_beside_it():
    capped = [line for line in (ROOT/'pyproject.toml').read_text().splitlines() if re.match(r'  "[^"]+<', line)]
    assert len(capped) == 4
    for line in capped: assert re.search(r'",\s+# \w', line), line
    for r in PROJECT['dependencies']: assert '<' not in r, 'what the package needs at run time has no caps'

def test_commands_are_those_of_this_environment():
    for name in ('test', 'export', 'clean'):
        path, *_ = nbdev(name)
        assert Path(path).parent == Path(sys.executable).parent and name in Path(path).stem
    *_, flag, two = nbdev('test', '--n_workers', '2')
    assert flag.replace('-', '_') == '__n_workers' and two == '2'
    with pytest.raises(SystemExit, match="'.\\[dev\\]'"): nbdev('no_such_command')

ROW = ('3.12.1', 'Linux x86_64', '2.13.0', '2.4.14', '1.14.5', 'yes', '30 pass', '500 pass, 3 skipped', '2026-01-31')

def test_a_result_is_a_row_and_a_newer_one_takes_its_place(tmp_path):
    page = f'before\n{tried.BEGIN}\nPython|…\n---|---\n{tried.END}\nafter\n'
    again, older = ('3.12.7', *ROW[1:7], '1 fail', '2026-02-01'), ('3.9.1', *ROW[1:])
    other = (*ROW[:3], '3.3.26', *ROW[4:])
    for row in (other, ROW, older, again): page = tried.with_row(page, row)
    assert tried.rows(page) == [older, again, other]
    assert page.startswith('before\n') and page.endswith('\nafter\n') and '| Python | system |' in page
    (tmp_path/'r.xml').write_text('<testsuites><testsuite tests="9" skipped="2" failures="1" errors="1"/></testsuites>')
    assert tried.counts(tmp_path/'r.xml') == '5 pass, 2 skipped, 2 fail'

def test_what_is_said_of_pythons_was_tried():
    "Each Python among the classifiers has a row without a failure, and the lowest is the one required."
    rows = tried.rows(tried.PAGE.read_text(encoding='utf-8'))
    done = [row for row in rows if not any('fail' in cell for cell in row)]
    named = {c.split(' :: ')[-1] for c in PROJECT['classifiers'] if ' :: Python :: 3.' in c}
    assert named and named <= {'.'.join(row[0].split('.')[:2]) for row in done}
    assert PROJECT['requires-python'] == f">={min(named, key=lambda v: int(v.split('.')[1]))}"
    assert {row[3].split('.')[0] for row in done} == {'2', '3'}
    workflow = (ROOT/'.github'/'workflows'/'test.yml').read_text()
    assert named <= set(re.findall(r"'(3[.][0-9]+)'", workflow))

# the page of the package

@pytest.fixture(scope='module')
def setup_file():
    "setup.py as a module."
    spec = importlib.util.spec_from_file_location('pico_setup', ROOT/'setup.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

@pytest.mark.parametrize('remote, expected', [
    ('git@host.test:a/b.git\n', 'https://host.test/a/b'), ('https://host.test/a/b.git', 'https://host.test/a/b'),
    ('ssh://git@host.test:22/a/b', 'https://host.test/a/b'), ('https://me:it@host.test/a/b/', 'https://host.test/a/b'),
    ('/home/me/pico', ''), ('', '')])
def test_the_address_follows_from_the_remote(setup_file, remote, expected):
    assert setup_file.address(remote) == expected

def test_links_and_picture_work_outside_the_repository(setup_file, monkeypatch):
    for k, v in dict(SERVER_URL='https://host.test', REPOSITORY='a/b', REF_NAME='v1').items():
        monkeypatch.setenv(f'GITHUB_{k}', v)                      # as a workflow tells it
    text, addresses = setup_file.page()
    assert addresses == {'Repository': 'https://host.test/a/b'}
    links = re.findall(r'\]\(([^)#]+)\)', text)
    assert len(links) == len(re.findall(r'\]\(([^)#]+)\)', README)) > 20
    assert all(link.startswith('https://') for link in links)
    assert '(https://host.test/a/b/raw/v1/nbs/images/page.png)' in text
    assert '[00 Stories](https://host.test/a/b/blob/v1/nbs/00_stories.ipynb)' in text
    assert setup_file.absolute(README, '', '') == README           # no address, no change

def test_a_wheel_from_a_source_package_has_its_page(setup_file, tmp_path):
    (tmp_path/'PKG-INFO').write_text('Name: p\nProject-URL: Repository, https://host.test/a/b\n\n# Title\n\nWhole: …\n')
    assert setup_file.page(tmp_path) == ('# Title\n\nWhole: …\n', {'Repository': 'https://host.test/a/b'})

@pytest.mark.slow
def test_wheel_works_in_a_clean_environment(tmp_path):
    "`python -m build`, then the commands from a new environment that has only the wheel and its dependencies."
    subprocess.run([sys.executable, '-m', 'build', '--wheel', '--outdir', tmp_path, ROOT], check=True,
                   capture_output=True)
    wheel, = tmp_path.glob('*.whl')
    names = zipfile.ZipFile(wheel).namelist()
    for p in [*(ROOT/'pico').glob('*.py'), *(ROOT/'pico'/'template').glob('*'), *(ROOT/'pico'/'models').glob('*/*')]:
        assert p.relative_to(ROOT).as_posix() in names
    assert wheel.stat().st_size < 3_000_000
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
    out = subprocess.run([tmp_path/'v/bin/pico-generate', '--prompt', 'Once', '--max_bytes', '20'],
                         capture_output=True, text=True, cwd=tmp_path)
    assert out.returncode == 0 and out.stdout.startswith('Once') and "'stories'" in out.stderr, out.stderr
    out = subprocess.run([tmp_path/'v/bin/pico-page', tmp_path/'r', tmp_path/'r.html', '--max_bytes', '300'],
                         capture_output=True, text=True, cwd=tmp_path)
    assert out.returncode == 0 and '</html>' in (tmp_path/'r.html').read_text(), out.stderr
