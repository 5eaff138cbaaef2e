"The site: what docs/build.py makes of chapters and modules. `make docs` builds all of it and follows every link."
import importlib.util
import json
import subprocess
import re
import sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent

@pytest.fixture(scope='module')
def site():
    spec = importlib.util.spec_from_file_location('site_build', ROOT/'docs'/'build.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def code(source, *outputs, id='a'):
    return dict(cell_type='code', id=id, metadata={}, execution_count=None, outputs=list(outputs), source=source)

PICTURE = dict(output_type='display_data', data={'image/png': ''}, metadata={})

def test_chapters_that_are_named_become_links(site):
    known = {'05': '05_router.ipynb', '04a': '04a_counts.ipynb'}
    text = 'See chapters 04a and 05, `chapter 05`, $chapter 05$, [chapter 05](x) and chapter 99. 05 is no chapter.'
    assert site.linked(text, known) == ('See chapters [04a](04a_counts.ipynb) and [05](05_router.ipynb), `chapter 05`, '
                                        '$chapter 05$, [chapter 05](x) and chapter 99. 05 is no chapter.')

def test_a_number_that_several_chapters_share_names_none(site):
    known = site.by_number(site.chapters())
    assert known['05'] == '05_router.ipynb' and '01a' not in known and 5 < len(known) < len(site.chapters())

def test_directives_and_hidden_cells_are_gone(site):
    assert site.shown(code('#| default_exp x')) is None
    assert site.shown(code('#| hide\nimport a')) is None
    assert site.shown(code('import a', id='environment')) is None
    assert site.shown(code('#| export')) is None
    assert site.shown(code('#| exports\n#| slow\ndef f(): pass\n'))['source'] == 'def f(): pass'
    drawn = site.shown(code('#| hide\nplot()', PICTURE))
    assert drawn['metadata']['tags'] == ['remove-input'] and drawn['outputs'] == [PICTURE]
    assert site.shown(code('x = 1\n' * 26))['metadata']['tags'] == ['hide-input']
    script = site.shown(code(['%%part a.js\n', 'let x = 1\n']))
    assert script['cell_type'] == 'markdown' and script['source'].startswith('```js\nlet x')

def test_every_chapter_is_ready_and_shows_no_directive(site):
    for file in site.chapters():
        cells = json.loads(site.chapter(file, site.by_number(site.chapters())))['cells']
        assert cells[0]['source'].startswith('# ') and len(cells) > 4, file
        assert not any('#|' in c['source'] for c in cells if c['cell_type'] == 'code'), file

def test_the_reference_describes_what_is_exported(site):
    name, text = site.reference(ROOT/'nbs'/'03_attention.ipynb')
    assert name == 'attention' and '## `attention`' in text and '[its chapter](../03_attention.ipynb)' in text
    assert r'| `window` | `int \| None` |  | bytes back; None = no limit |' in text
    name, text = site.reference(ROOT/'nbs'/'10b_run.ipynb')
    assert '| `batch_size` |' in text and '### `Saver.save`' in text
    assert site.reference(ROOT/'nbs'/'21_routers.ipynb') is None

@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing(site):
    pytest.importorskip('myst_nb')
    subprocess.run([sys.executable, ROOT/'docs'/'build.py'], check=True)
    pages = list((ROOT/'_docs').glob('*.html'))
    assert len(pages) > len(site.chapters())
    for p in pages:
        text = p.read_text(encoding='utf-8')
        assert not re.search(r'<(script|img|iframe)\b[^>]*\bsrc="(https?:)?//', text), p
        for link in re.findall(r'<link\b[^>]*>', text):
            assert not re.search(r'\bhref="(https?:)?//', link) or 'stylesheet' not in link and 'preload' not in link, p
