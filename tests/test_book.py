"The book as a whole: imports point downward, nothing is stale, the version has one source."
import ast
import base64
import configparser
import importlib
import json
import re
import runpy
import shutil
import pytest
import check_sync
import links
from pico.core import MOVED

ROOT = check_sync.ROOT
NOTEBOOKS = sorted((ROOT/'nbs').glob('[0-9]*.ipynb'))

def cells(p): return json.loads(p.read_text(encoding='utf-8'))['cells']
def module_of(p):
    m = re.search(r'^#\| *default_exp +(\S+)',
                  '\n'.join(''.join(c['source']) for c in cells(p) if c['cell_type'] == 'code'), re.M)
    return m and m[1]

ORDER = {module_of(p): p.name for p in NOTEBOOKS if module_of(p)}

@pytest.mark.parametrize('nb', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_and_module_share_a_name(nb):
    m = module_of(nb)
    assert m is None or nb.stem.split('_', 1)[1] == m.strip('_')      # the package as a program: 13a_main is `__main__`

@pytest.mark.parametrize('module', ORDER)
def test_imports_point_to_lower_chapters(module):
    for node in ast.walk(ast.parse((ROOT/'pico'/f'{module}.py').read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import): assert not [a.name for a in node.names if a.name.startswith('pico.')]
        if not isinstance(node, ast.ImportFrom) or not node.level: continue
        if node.module is None: continue                          # the package itself, for its version
        assert ORDER[node.module] < ORDER[module], f'{module} imports {node.module}, a later chapter'
        assert '*' not in [a.name for a in node.names]

def test_every_module_has_a_notebook():
    assert {p.stem for p in (ROOT/'pico').glob('*.py')} == set(ORDER) | {'__init__', '_modidx'}

def test_package_is_what_the_notebooks_export(): assert check_sync.differences() == []

def test_a_stale_or_edited_module_is_noticed(tmp_path):
    for d in ('nbs', 'pico'): shutil.copytree(ROOT/d, tmp_path/d)
    for name in check_sync.SETTINGS: shutil.copy(ROOT/name, tmp_path)
    (tmp_path/'pico'/'ghost.py').write_text('x = 1\n')
    (tmp_path/'pico'/'template'/'ghost.js').write_text('const x = 1\n')
    for name in ('heads.py', 'template/show.css'):
        with open(tmp_path/'pico'/name, 'a') as f: f.write('# edited\n')
    assert check_sync.differences(tmp_path) == [
        'pico/ghost.py has no notebook', 'pico/heads.py differs from its notebook',
        'pico/template/ghost.js has no cell', 'pico/template/show.css differs from its cells']

def test_notebooks_are_executed_and_small():
    assert check_sync.unexecuted() == []
    for p in NOTEBOOKS: assert p.stat().st_size < 1_200_000, p.name

def test_version_has_one_source():
    cfg = configparser.ConfigParser()
    cfg.read(ROOT/'settings.ini')
    assert f'__version__ = "{cfg["DEFAULT"]["version"]}"' in (ROOT/'pico'/'__init__.py').read_text()
    assert '\ndynamic = ["version",' in (ROOT/'pyproject.toml').read_text() and 'requirements' not in cfg['DEFAULT']

def test_prose_accompanies_code():
    for p in NOTEBOOKS:
        kinds = [c['cell_type'] for c in cells(p) if c['id'] != links.CELL]
        assert kinds.count('markdown') >= kinds.count('code') / 2, p.name

def test_no_chapter_says_the_same_twice():
    for p in NOTEBOOKS:
        texts = [''.join(c['source']) for c in cells(p) if c['cell_type'] == 'markdown']
        assert len(set(texts)) == len(texts), p.name

# what shared programs import: the public surface, and every name that has moved since
PUBLIC = """data load_corpus batch Corpus, model Pico PicoConfig, evaluate bits_per_byte router_report, soap SOAP,
train TrainConfig train, generate generate stream, attention attention, router ROUTERS Router Route router,
cli train_command generate_command eval_command, page page page_command"""

def test_public_names_stay_where_they_were():
    for line in PUBLIC.replace('\n', ' ').split(','):
        module, *names = line.split()
        for name in names: assert hasattr(importlib.import_module(f'pico.{module}'), name), (module, name)

def test_moved_names_are_found_at_their_old_places():
    for module, names in MOVED.items():
        for name in names: assert hasattr(importlib.import_module(f'pico.{module}'), name), (module, name)

def test_cells_functions_and_modules_have_a_size():
    for p in NOTEBOOKS:
        for c in cells(p):
            text = ''.join(c['source'])
            if c['cell_type'] != 'code' or not text.startswith(('#| export', '%%part ')): continue
            assert text.count('\n') < 50, f'{p.name}: an exported cell of more than 50 lines\n{text[:200]}'
            assert max(map(len, text.splitlines())) <= 120, f'{p.name}: a line is too long\n{text[:200]}'
    for p in (ROOT/'pico').glob('*.py'):
        if p.name == '_modidx.py': continue
        code = p.read_text(encoding='utf-8')
        assert code.count('\n') <= 350, f'{p.name} has more than 350 lines'
        for node in ast.walk(ast.parse(code)):
            if not isinstance(node, ast.FunctionDef): continue
            assert node.end_lineno - node.lineno < 40, f'{p.name}: {node.name} has more than 40 lines'

def test_pictures_are_as_wide_as_a_page():
    "So that nothing is scaled down until it cannot be read."
    for p in [*NOTEBOOKS, *sorted((ROOT/'nbs'/'answers').glob('*.ipynb'))]:
        for c in cells(p):
            for o in c.get('outputs', []):
                if 'image/png' not in o.get('data', {}): continue
                width = int.from_bytes(base64.b64decode(o['data']['image/png'])[16:20], 'big')
                assert 600 < width < 920, f"{p.name}, cell {c['id']}: a picture of {width} pixels"

def nested(code):
    "Lines with a conditional expression inside another."
    found = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.IfExp)]
    return [n.lineno for n in found if any(isinstance(m, ast.IfExp) for m in ast.walk(n) if m is not n)]

def test_no_conditional_expression_is_in_another():
    assert nested('a = 1 if b else 2 if c else 3') == [1] and nested('a = 1 if b else 2') == []
    scripts = [*(ROOT/'pico').glob('*.py'), *(ROOT/'nbs'/'experiments').glob('*.py'), *(ROOT/'tests').glob('*.py')]
    assert [(p.name, found) for p in scripts if (found := nested(p.read_text(encoding='utf-8')))] == []
    for p in NOTEBOOKS:
        for c in cells(p):
            code = ''.join(c['source'])
            if c['cell_type'] != 'code' or code.startswith('%%'): continue
            assert not nested(re.sub(r'(?m)^(\s*)[%!].*', r'\1pass', code)), f'{p.name}: {code[:200]}'

# links to where a chapter can be run without installing anything

def test_chapters_hold_the_links_that_the_address_gives(): assert list(links.differing()) == []

def test_drawings_are_what_their_script_draws():
    images = ROOT/'nbs'/'images'
    drawn = runpy.run_path(str(images/'draw.py'), run_name='draw')
    assert len(drawn['HEIGHTS']) == 11
    for draw, height in drawn['HEIGHTS'].items():
        text = '\n'.join(drawn['Drawing'](draw, height).parts)
        assert text == (images/f'{draw.__name__}.svg').read_text(encoding='utf-8'), draw.__name__

def test_links_between_notebooks_lead_somewhere():
    "To chapters, answers and pictures that exist, and to terms that the glossary has."
    terms = {re.sub(r'[^\w\- ]', '', line[4:].strip().lower()).replace(' ', '-')
             for c in cells(ROOT/'nbs'/'glossary.ipynb') for line in ''.join(c['source']).splitlines()
             if line.startswith('### ')}
    assert len(terms) > 80
    for p in sorted((ROOT/'nbs').rglob('*.ipynb')):
        for c in cells(p):
            if c['cell_type'] != 'markdown': continue
            for where, term in re.findall(r'\]\(([^()#\s:]+\.(?:ipynb|svg|png))(?:#([^)]*))?\)', ''.join(c['source'])):
                assert (p.parent/where).exists(), (p.name, where)
                if where.endswith('glossary.ipynb') and term: assert term in terms, (p.name, term)

def test_a_fork_writes_its_own_links(tmp_path):
    "With an address there are links and a cell that fetches the repository; without one they go again, byte for byte."
    (tmp_path/'nbs').mkdir()
    for name in ('05_router.ipynb', '09_soap.ipynb'): shutil.copy(ROOT/'nbs'/name, tmp_path/'nbs')
    settings = (ROOT/'settings.ini').read_text(encoding='utf-8')
    def publish(url):
        text = re.sub(r'(?m)^git_url =.*$', f'git_url = {url}', settings)
        (tmp_path/'settings.ini').write_text(text, encoding='utf-8')
        links.main(tmp_path)
        assert list(links.differing(tmp_path)) == []
        return cells(tmp_path/'nbs'/'05_router.ipynb')[:2]
    publish('')
    before = {f: f.read_bytes() for f in (tmp_path/'nbs').iterdir()}
    title, hidden = (''.join(c['source']) for c in publish('https://github.com/me/fork'))
    assert 'colab.research.google.com/github/me/fork/blob/main/nbs/05_router.ipynb' in title
    assert 'mybinder.org/v2/gh/me/fork/main?labpath=nbs%2F05_router.ipynb' in title
    assert 'git clone -q --depth 1 https://github.com/me/fork' in hidden and hidden.startswith('#| hide')
    title, hidden = (''.join(c['source']) for c in publish('https://git.example.org/me/fork'))
    assert 'colab' not in title and 'git.example.org/me/fork' in hidden       # those two services know one host
    publish('')
    assert {f: f.read_bytes() for f in (tmp_path/'nbs').iterdir()} == before
