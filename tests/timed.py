"""Runs a command and says how many seconds it took: the parts of `make test`.

    python tests/timed.py ruff check
"""
import subprocess
import sys
import time

def main(command):
    start = time.perf_counter()
    status = subprocess.call(command)
    print(f"{time.perf_counter() - start:.0f} s: {' '.join(command)}", flush=True)
    return status

if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
