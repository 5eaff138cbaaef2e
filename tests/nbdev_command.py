"""Runs a command of whichever nbdev is installed: `python tests/nbdev_command.py test --n_workers 2`.

nbdev 2 spells its commands and flags `nbdev_test --n_workers`, nbdev 3 `nbdev-test --n-workers`. They do the same.
"""
import shutil
import subprocess
import sys
from pathlib import Path

def nbdev(name, *args):
    "The command that does `name` (`test`, `export`, `clean`, …) in this environment, with its flags as it spells them."
    folder = Path(sys.executable).parent                          # not PATH: another environment may stand there
    two, three = f'nbdev_{name}', f'nbdev-{name}'.replace('_', '-')
    if found := shutil.which(two, path=folder): return [found, *args]
    if found := shutil.which(three, path=folder):
        return [found, *(a.replace('_', '-') if a.startswith('--') else a for a in args)]
    sys.exit(f"Neither {two} nor {three} is in {folder}: install one of them with pip install -e '.[dev]'.")

if __name__ == '__main__':
    if len(sys.argv) < 2: sys.exit('Name a command of nbdev: python tests/nbdev_command.py test')
    sys.exit(subprocess.run(nbdev(*sys.argv[1:])).returncode)
