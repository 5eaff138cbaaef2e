"""The book as a site: chapters and answers as they were run, glossary, reference of all modules, the live page.

    python docs/build.py            # into _docs; nothing is fetched when it is looked at (or: make docs)

Notebooks lose what only nbdev and Jupyter need: directives, hidden cells (their pictures stay), the cell that installs
the package. Long cells are folded. Where a chapter is named there is a link to it.
"""
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from fastcore.docments import docments, empty

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'tests'))
from links import titled                                          # noqa: E402  # only now can it be found

MADE, BUILT, SITE = ROOT/'build'/'site', ROOT/'build'/'html', ROOT/'_docs'     # prepared, from Sphinx, where it ends
FOLDED = 25                                                       # longer cells are folded
LEXERS = {'html': 'html+jinja'}                                  # a template
PARTS = {'Reading': '00 01', 'The model': '02 03 04 05 06 07', 'Learning': '08 09 10 11', 'Writing': '12 13 14',
         'Results': '20 21 22 23'}

LIVE = """# The live page

<a href="page.html">The page of chapter 14a</a> runs the model that comes with the package, in the browser. It shows
what each byte cost, which bytes were routed, and what the model thought at any of them.
"""

# --- chapters

def number(file): return file.name.split('_')[0]

def answers(): return sorted((ROOT/'nbs'/'answers').glob('*.ipynb'))

def chapters():
    "The notebooks, in the order of the book."
    return sorted((ROOT/'nbs').glob('[0-9]*.ipynb'))

def by_number(files):
    "'05a' -> 05a_depth.ipynb; where several chapters share a number it names none of them."
    count = Counter(map(number, files))
    return {number(f): f.name for f in files if count[number(f)] == 1}

NUMBER = r'\d\d[a-z]?\b'
NAMED = re.compile(rf'\b([Cc]hapters?) ({NUMBER}(?:(?:, | and | or | to ){NUMBER})*)')

def linked(text, known):
    "Markdown in which chapters that are named are linked; code, formulas and links stay as they are."
    def chapter(m):
        link = re.sub(NUMBER, lambda n: f'[{n[0]}]({known[n[0]]})' if n[0] in known else n[0], m[2])
        return f'{m[1]} {link}'
    pieces = re.split(r'(```.*?```|`[^`]*`|\$[^$]*\$|\[[^]]*\]\([^)]*\))', text, flags=re.S)
    return ''.join(p if i % 2 else NAMED.sub(chapter, p) for i, p in enumerate(pieces))

def shown(cell):
    "A code cell as the site shows it, or None."
    source = ''.join(cell['source'])
    hidden = source.startswith('#| hide')
    drawn = any({'image/png', 'text/html', 'text/markdown'} & o.get('data', {}).keys() for o in cell['outputs'])
    if cell['id'] == 'environment' or source.startswith('#| default_exp') or hidden and not drawn: return None
    if m := re.match(r'%%part \S+\.(\w+)\n', source):             # JavaScript or CSS: no program of the notebook's
        fenced = f'```{LEXERS.get(m[1], m[1])}\n{source[m.end():]}\n```'
        return dict(cell_type='markdown', id=cell['id'], metadata={}, source=fenced)
    source = re.sub(r'^#\|.*\n?', '', source, flags=re.M).strip('\n')
    tags = ['remove-input'] if hidden else ['hide-input'] if source.count('\n') >= FOLDED else []
    return cell | dict(source=source, metadata=dict(tags=tags)) if source else None

def chapter(file, known):
    "A notebook, ready for Sphinx."
    book = json.loads(file.read_text(encoding='utf-8'))
    cells = []
    for cell in book['cells']:
        if cell['cell_type'] == 'markdown': cell['source'] = linked(''.join(cell['source']), known)
        else: cell = shown(cell)
        if cell: cells.append(cell)
    return json.dumps(book | dict(cells=cells))

# --- the reference

def table(f):
    "What a function takes and gives, as the comments beside its parameters say."
    rows = ['| name | type | default | |', '|---|---|---|---|']
    for name, p in docments(f, full=True).items():
        if name == 'self' or p.anno is empty and p.docment is None and name == 'return': continue
        default = '' if p.default is empty else f'`{p.default!r}`'
        kind = '' if p.anno is empty else f'`{inspect.formatannotation(p.anno)}`'
        cells = ('gives' if name == 'return' else f'`{name}`'), kind, default, ' '.join((p.docment or '').split())
        rows.append('| ' + ' | '.join(c.replace('|', r'\|') for c in cells) + ' |')
    return '\n'.join(rows) if len(rows) > 2 else ''

def described(name, thing):
    "A function or a class of the reference."
    parts = [f'## `{name}`', inspect.getdoc(thing) or '']
    if inspect.isfunction(thing): parts.append(table(thing))
    elif inspect.isclass(thing):
        if not issubclass(thing, Exception): parts.append(table(thing))
        for n, f in vars(thing).items():
            if n.startswith('_') or not inspect.isfunction(f): continue
            parts += [f'### `{name}.{n}`', inspect.getdoc(f) or '', table(f)]
    return '\n\n'.join(filter(None, parts))

def reference(file):
    "The page of a chapter's module, or None if it has none."
    m = re.search(r'#\| default_exp (\w+)', file.read_text(encoding='utf-8'))
    if m is None: return None
    module = importlib.import_module(f'pico.{m[1]}')
    named = [(n, getattr(module, n)) for n in module.__all__]
    things = [described(n, t) for n, t in named if inspect.isfunction(t) or inspect.isclass(t)]
    return m[1], '\n\n'.join([f'# pico.{m[1]}', f'{module.__doc__} See [its chapter](../{file.name}).',
                             *things])

# --- all of it

def front(files, known):
    "The page that the site opens with: nbs/index.ipynb and the order of the book."
    book = json.loads(chapter(ROOT/'nbs'/'index.ipynb', known))
    order = [('Pico', ['The live page <live>', 'Glossary <glossary>'])]
    for title, numbers in PARTS.items():
        order.append((title, [f'{titled(f)} <{f.stem}>' for f in files if f.name[:2] in numbers.split()]))
    order += [('Answers', [f'answers/{f.stem}' for f in answers()]), ('Reference', ['reference/index'])]
    trees = ''.join(toctree(title, pages) for title, pages in order if pages)
    last = dict(cell_type='markdown', id='order', metadata={}, source=trees)
    return json.dumps(book | dict(cells=[*book['cells'], last]))

def toctree(title, pages):
    caption = [f':caption: {title}'] if title else []
    return '\n'.join(['', '```{toctree}', ':hidden:', *caption, '', *pages, '```', ''])

def main():
    files = chapters()
    known = by_number(files)
    for d in (MADE, BUILT, SITE): shutil.rmtree(d, ignore_errors=True)
    for d in ('reference', 'extra', 'static', 'answers'): (MADE/d).mkdir(parents=True)
    shutil.copytree(ROOT/'nbs'/'images', MADE/'images')
    shutil.copyfile(ROOT/'docs'/'conf.py', MADE/'conf.py')
    shutil.copyfile(ROOT/'docs'/'site.css', MADE/'static'/'site.css')
    modules = []
    for file in [*files, *answers(), ROOT/'nbs'/'glossary.ipynb']:
        text = chapter(file, {} if file in answers() else known)
        (MADE/file.relative_to(ROOT/'nbs')).write_text(text, encoding='utf-8')
        if found := reference(file):
            (MADE/'reference'/f'{found[0]}.md').write_text(found[1], encoding='utf-8')
            modules.append(found[0])
    listed = '\n'.join(f'- [`pico.{m}`]({m}.md): {importlib.import_module(f"pico.{m}").__doc__}' for m in modules)
    (MADE/'reference'/'index.md').write_text(f'# Reference\n\n{listed}\n' + toctree('', modules), encoding='utf-8')
    (MADE/'live.md').write_text(LIVE, encoding='utf-8')
    (MADE/'index.ipynb').write_text(front(files, known), encoding='utf-8')
    subprocess.run([sys.executable, '-m', 'pico', 'page', MADE/'extra'/'page.html'], check=True)
    subprocess.run([sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-j', 'auto', MADE, BUILT], check=True)
    BUILT.rename(SITE)
    print(f'{SITE.relative_to(ROOT)}/index.html')

if __name__ == '__main__': main()
