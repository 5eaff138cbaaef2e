"""Runs what `make test` runs, in the environment it is started with, and writes the result as a row of CONTRIBUTING.md.

    .venv/bin/python tests/tried.py                   # or: make tried VENV=.venv PYTHON=python3.12

One row per Python, system and nbdev: a newer result takes the place of an older one, failures too.
"""
import datetime
import os
import platform
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from importlib.metadata import version
from pathlib import Path
from nbdev_command import nbdev

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT/'CONTRIBUTING.md'
BEGIN, END = '<!-- tried: `make tried` writes this table -->', '<!-- end of what was tried -->'
OF_THE_TABLE = 'tests/test_packaging.py::test_what_is_said_of_pythons_was_tried'     # it reads what this run writes
COLUMNS = 'Python', 'system', 'torch', 'nbdev', 'fastcore', 'in step', 'notebooks', 'tests', 'date'

def said(*command):
    "Whether a command of this environment succeeds, and what it prints, which is passed on line by line."
    env = os.environ | {'PYTHONPATH': str(ROOT)}                  # this checkout, whatever was installed
    lines = []
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
        for line in p.stdout:
            print(line, end='', flush=True)
            lines.append(line)
    return p.returncode == 0, ''.join(lines)

def notebooks():
    "How many notebooks pass, or the names of those that fail, as nbdev tells it."
    good, out = said(*nbdev('test', '--n_workers', '2', '--timing'))
    if good: return f"{len(re.findall(r'^.+[.]ipynb: [0-9]+ secs$', out, re.M))} pass"
    failed = re.findall(r'^\t(.+[.]ipynb)$', out, re.M)
    return f"fail: {', '.join(failed) or 'none was run'}"

def counts(report):
    "How many tests pass, are skipped and fail, from pytest's own report."
    n = {k: sum(int(s.get(k)) for s in ElementTree.parse(report).iter('testsuite'))
         for k in ('tests', 'skipped', 'failures', 'errors')}
    bad = n['failures'] + n['errors']
    told = [(n['tests'] - n['skipped'] - bad, 'pass'), (n['skipped'], 'skipped'), (bad, 'fail')]
    return ', '.join(f'{many} {what}' for many, what in told if many)

def tests():
    "The counts of the suite, or that it did not come to an end."
    with tempfile.TemporaryDirectory() as d:
        report = Path(d)/'report.xml'
        said(sys.executable, '-m', 'pytest', '-n', '2', '-q', f'--junitxml={report}', '--deselect', OF_THE_TABLE)
        return counts(report) if report.exists() else 'fail: no report'

def key(row):
    "What a row is about: Python 3.11 on this system with nbdev 2."
    python, system, _, nbdev_version, *_ = row
    return tuple(int(n) for n in python.split('.')[:2]), system, nbdev_version.split('.')[0]

def rows(page):
    "The rows of the table in the text of the page."
    lines = page.split(BEGIN)[1].split(END)[0].strip().splitlines()[2:]
    return [tuple(cell.strip() for cell in line.strip('|').split('|')) for line in lines]

def with_row(page, row):
    "The text of the page with this row in its table."
    kept = {key(r): r for r in rows(page)} | {key(row): row}
    table = [COLUMNS, ('---',)*len(COLUMNS), *(kept[k] for k in sorted(kept))]
    text = '\n'.join('| ' + ' | '.join(r) + ' |' for r in table)
    return f'{page.split(BEGIN)[0]}{BEGIN}\n{text}\n{END}{page.split(END)[1]}'

def main():
    versions = [version(name) for name in ('torch', 'nbdev', 'fastcore')]
    in_step = 'yes' if said(sys.executable, 'tests/check_sync.py')[0] else 'fail'
    row = (platform.python_version(), f'{platform.system()} {platform.machine()}', *versions, in_step, notebooks(),
           tests(), datetime.date.today().isoformat())
    PAGE.write_text(with_row(PAGE.read_text(encoding='utf-8'), row), encoding='utf-8')
    print(' | '.join(row))
    sys.exit(any('fail' in cell for cell in row))

if __name__ == '__main__': main()
