"What several test files need: a tiny model, a tiny text, and a command that is called as a user would."
from pico.model import PicoConfig

# the original's design, written out: presets may change, these tests may not
ORIGINAL = dict(router='topk', latent_carry=False, heads='linear', heads_every=1)

# flags of `pico-train` for a run of a second
TINY = ['--preset', 'nano', '--dim', '24', '--latent_num_blocks', '1', '--batch_size', '2', '--context_len', '64',
        '--validation_bytes', '300']

CATS = 'Mia has a red cat. Tom has a blue hat. '

def tiny_config(**fields):
    "The shape of a model that is made in a moment."
    return PicoConfig.preset('nano', **dict(dim=24, latent_num_blocks=1) | ORIGINAL | fields)

def call(command, *args):
    "The exit status of a command."
    try: command([str(a) for a in args])
    except SystemExit as e: return e.code
    return 0

def refused(capsys, command, *args, words=''):
    "The command ends with status 2 and one line that holds the words."
    capsys.readouterr()
    assert call(command, *args) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and words in err and 'Traceback' not in err, err
