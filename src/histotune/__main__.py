"""``python -m histotune``, which is what torchrun starts: ``torchrun --nproc-per-node=4 -m histotune embed ...``."""

from histotune.cli.main import main

main()
