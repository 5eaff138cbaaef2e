"""Which numbers in a chapter's sentences does no code of that chapter produce?

    python tests/claims.py              # a line for each number that nothing explains
    python tests/claims.py 05 21        # of these chapters only

A number is explained if a cell prints it (also rounded, or as a share of a hundred), if it stands in the code, or if
`claims.toml` says where it comes from. Chapters, papers, sections, dates, formulas and code in sentences are no claims.
The README's table names in its last column what explains the numbers of a row: a chapter, or the card of the model.
"""
import json
import re
import sys
from pathlib import Path

try: import tomllib
except ModuleNotFoundError: import tomli as tomllib        # Python 3.10, where pytest brings it

ROOT = Path(__file__).resolve().parent.parent
CHECKED = '05', '24'                                              # from this chapter on, and before that one

PLACE = r'[A-Z]?\d+(?:\.\d+)*'                                     # in a paper
# what looks like a number and claims nothing, in this order
NO_CLAIM = [
    r'```.*?```', r'`[^`]*`', r'\$\$.*?\$\$', r'\$[^$\n]*\$',     # code and formulas
    r'!\[[^]]*\]', r'\]\([^)]*\)', r'https?://\S+', r'<[^>]*>',                   # pictures, where links lead
    r'(?i)\bchapters? \d\d[a-z]?(?:(?:, | and | or | to |, and )\d\d[a-z]?)*\b', r'\[\d\d[a-z]?\b',
    r'arXiv[: ]\d{4}\.\d{4,5}',
    rf'(?i)\b(?:sec(?:tions?|s)?|figs?|tables?|alg(?:orithms?)?|eq|app|lemma)\.? {PLACE}(?:(?:, | and ){PLACE})*',
    r'\b(?:19|20)\d\d\b', r'^#.*$', r'^\s*\d+\. ',                 # years, headings, numbers of a list
    r'\d*[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+', r'U\+\d+',
    r'\b(?:UTF|SHA|INT|FP|BF|Float|ISO|RFC)-?\d+\b', r'[A-Za-z_]+\d+\w*',
]
NUMBER = re.compile(r'(?<![\w.])(?P<n>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)'
                    r'(?P<unit> ?%| percent| million| billion)?(?![A-Za-z_\d])')
FOUND = re.compile(r'(?<!\w)(?:(?:\d{1,3}(?:,\d{3})+|\d+(?:_\d{3})*)(?:\.\d+)?|\.\d+)(?:e[-+]?\d+)?')
TIMES = {'million': 1e6, 'billion': 1e9}

def claims(text):
    "Numbers of a markdown cell: as it stands, its value, its decimals, whether it is a percentage."
    for p in NO_CLAIM: text = re.sub(p, ' ', text, flags=re.S | re.M if p.startswith('`') or '$$' in p else re.M)
    for m in NUMBER.finditer(text):
        digits = m['n'].replace(',', '')
        unit = (m['unit'] or '').strip()
        around = ' '.join(text[max(0, m.start() - 50):m.end() + 30].split())
        yield m[0].strip(), float(digits), len(digits.partition('.')[2]), unit, around

def numbers(text):
    "All numbers of some text, as strings of digits became values."
    return {float(n.replace(',', '').replace('_', '')) for n in FOUND.findall(text)}

def produced(cells):
    "What the code cells of a chapter hold and print."
    text = []
    for c in cells:
        if c['cell_type'] != 'code': continue
        text.append(''.join(c['source']))
        for o in c['outputs']:
            data = o.get('data', {})
            text.append(''.join(o.get('text', '')))
            for kind in ('text/plain', 'text/markdown', 'text/html'): text.append(''.join(data.get(kind, '')))
    return numbers('\n'.join(text))

def explains(value, decimals, unit, there):
    "Whether one of the values rounds to the number."
    scale = TIMES.get(unit, 1)
    half = .5000001 * 10**-decimals
    if any(abs(v / scale - value) <= half for v in there): return True
    return unit in ('%', 'percent') and any(abs(100*v - value) <= half for v in there)

def sources(root=ROOT):
    "What `claims.toml` explains: chapter -> number as it stands -> where it comes from."
    return tomllib.loads((root/'tests'/'claims.toml').read_text(encoding='utf-8'))

def unexplained(file, known):
    "The numbers of a chapter that nothing explains, and the sources that no number needs."
    cells = json.loads(file.read_text(encoding='utf-8'))['cells']
    there, needed = produced(cells), set()
    left = []
    for c in cells:
        if c['cell_type'] != 'markdown' or c.get('id') == 'around': continue          # links to other chapters
        for shown, value, decimals, unit, around in claims(''.join(c['source'])):
            if explains(value, decimals, unit, there): continue
            if shown in known: needed.add(shown)
            else: left.append((shown, around))
    return left, sorted(known.keys() - needed)

def chapters(names=()):
    files = sorted((ROOT/'nbs').glob('[0-9]*.ipynb'))
    return [f for f in files if CHECKED[0] <= f.name < CHECKED[1] and (not names or f.name.split('_')[0] in names)]

def unexplained_in_table(readme, known, root=ROOT):
    "The numbers of a table with the column `where` that nothing explains which this column names."
    rows = [[cell.strip() for cell in line.strip('|').split('|')]
            for line in readme.partition('| what | measured | where |')[2].split('\n\n')[0].splitlines()[2:]]
    card, left = (root/'pico'/'models'/'stories'/'README.md').read_text(encoding='utf-8'), []
    for what, measured, where in rows:
        there = numbers(card) if 'its card' in where else set()
        for chapter in re.findall(r'chapter (\d\d\w?)', where):
            file, = (root/'nbs').glob(f'{chapter}_*.ipynb')
            there |= produced(json.loads(file.read_text(encoding='utf-8'))['cells'])
            there |= numbers(' '.join(known.get(file.stem, {})))
        there |= {n / 1000 for n in there}                                      # seconds of milliseconds, GB of MB
        left += [(shown, around) for shown, value, decimals, unit, around in claims(f'{what}: {measured}')
                 if not explains(value, decimals, unit, there)]
    return left

def main(names=()):
    known, total = sources(), 0
    readme = (ROOT/'README.md').read_text(encoding='utf-8')
    for shown, around in [] if names else unexplained_in_table(readme, known):
        print(f'README: {shown} in "{around}"')
        total += 1
    for file in chapters(names):
        left, idle = unexplained(file, known.get(file.stem, {}))
        for shown, around in left: print(f'{file.stem}: {shown} in "{around}"')
        for shown in idle: print(f'{file.stem}: claims.toml explains {shown}, which no sentence claims')
        total += len(left) + len(idle)
    print(f'{total} numbers that nothing explains')
    return total

if __name__ == '__main__': sys.exit(main(sys.argv[1:]) > 0)
