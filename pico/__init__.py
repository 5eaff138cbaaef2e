__version__ = "0.1.0"

# How PyTorch's threads wait for each other is read once, when torch is imported; chapter 13 measures what is set here.
import os
if 'OMP_WAIT_POLICY' not in os.environ: os.environ.setdefault('GOMP_SPINCOUNT', '10000')
