"Refuses files that do not belong into a repository that is read: `python tests/large_files.py FILE …`"
import sys
from pathlib import Path

LIMIT, KNOWN = 1_500_000, {'pico/models/stories/model.safetensors'}

def large(files): return [f for f in files if Path(f).is_file() and Path(f).as_posix() not in KNOWN
                          and Path(f).stat().st_size > LIMIT]

if __name__ == '__main__':
    found = large(sys.argv[1:])
    for f in found: print(f'{f} has {Path(f).stat().st_size:,} bytes: more than {LIMIT:,} do not belong here')
    sys.exit(bool(found))
