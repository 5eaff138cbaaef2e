"""Writes into each chapter what it needs where it is opened alone: links to Colab and Binder, a hidden first cell, and
at the end links to its neighbours, its answers and the glossary.

    python tests/links.py        # or: make links

The address of the repository is `git_url` in settings.ini, and stands nowhere else; a fork changes it there and runs
this. While it is empty there are no links, and the cell installs the package from the folder above.
"""
import configparser
import json
import re
import sys
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CELL = 'environment'         # the id of the hidden cell
AROUND = 'around'            # that of the last cell
LINKS = re.compile(r'\n\n\[open in Colab\].*')

def address(root=ROOT):
    "Where the repository is published, and its branch; the first is '' while nobody knows."
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(root/'settings.ini', encoding='utf-8')
    return settings['DEFAULT'].get('git_url', '').strip().rstrip('/'), settings['DEFAULT']['branch']

def links(name, url, branch):
    "The line below a chapter's title; empty without a published repository that both services can find."
    found = re.fullmatch(r'https://github\.com/([^/]+/[^/]+)', url)
    if not found: return ''
    file = f'{branch}/nbs/{name}'
    return (f'\n\n[open in Colab](https://colab.research.google.com/github/{found[1]}/blob/{file}) · '
            f'[open in Binder](https://mybinder.org/v2/gh/{found[1]}/{branch}?labpath=nbs%2F{name})')

def environment(url):
    "The hidden cell: where the package is missing it is installed, and what lies beside the chapter is fetched."
    fetch = [f'    !git clone -q --depth 1 {url} pico-book', '    %cd pico-book/nbs'] if url else []
    return '\n'.join(['#| hide', '# where the package is not installed yet, in Colab for example',
                      'from importlib.util import find_spec', "if find_spec('pico') is None:", *fetch,
                      '    %pip install -q ..'])

def titled(file):
    "A link's words: '05 Router'."
    title = ''.join(json.loads(file.read_text(encoding='utf-8'))['cells'][0]['source']).splitlines()[0]
    return f"{file.name.split('_')[0]} {title.lstrip('# ')}"

def shortest(root=ROOT):
    "File names on the path of two hours, as the index has it: each with the next."
    index = root/'nbs'/'index.ipynb'
    if not index.exists(): return {}
    lines = (line for c in json.loads(index.read_text(encoding='utf-8'))['cells'] for line in c['source'])
    path = re.findall(r'\]\((\w+\.ipynb)\)', next((line for line in lines if line.startswith('* **Two hours**')), ''))
    return dict(pairwise(path))

def around(root=ROOT):
    "File name of each chapter -> the line that stands at its end."
    files, lines, path = sorted((root/'nbs').glob('[0-9]*.ipynb')), {}, shortest(root)
    for before, file, after in zip([None, *files], files, [*files[1:], None], strict=False):
        answers = f'answers/{file.stem}_answers.ipynb'
        parts = [before and f'[← {titled(before)}]({before.name})',
                 f'[Answers]({answers})' if (root/'nbs'/answers).exists() else None,
                 '[Glossary](glossary.ipynb)', after and f'[{titled(after)} →]({after.name})']
        further = root/'nbs'/path.get(file.name, file.name)
        if further not in (file, after): parts.append(f'in two hours: [{titled(further)} →]({further.name})')
        lines[file.name] = ' · '.join(filter(None, parts))
    return lines

def written(notebook, name, url, branch, last):
    "The notebook with links, hidden cell and last line as they should be."
    title, *rest = notebook['cells']
    text = LINKS.sub('', ''.join(title['source'])).rstrip('\n')
    head, quote, more = re.match(r'(# [^\n]*\n\n)(> [^\n]*)?(.*)', text, re.S).groups()
    title = title | dict(source=(head + (quote or '') + links(name, url, branch) + more).splitlines(True))
    hidden = dict(cell_type='code', execution_count=None, id=CELL, metadata={}, outputs=[],
                  source=environment(url).splitlines(True))
    end = [dict(cell_type='markdown', id=AROUND, metadata={}, source=['---\n', '\n', last])] if last else []
    return notebook | dict(cells=[title, hidden, *(c for c in rest if c['id'] not in (CELL, AROUND)), *end])

def differing(root=ROOT):
    "Chapters that are not as they should be, with what they should be."
    (url, branch), last = address(root), around(root)
    for f in sorted((root/'nbs').glob('*.ipynb')):
        old = json.loads(f.read_text(encoding='utf-8'))
        new = written(old, f.name, url, branch, last.get(f.name))
        if new != old: yield f, new

def main(root=ROOT):
    for f, new in differing(root):
        f.write_text(json.dumps(new, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
        print(f'{f.name} written')

if __name__ == '__main__': sys.exit(main())
