"""histotune: fine-tune and evaluate pathology foundation models on tiles, leak-free and with honest intervals.

The package reads in the order of the data: datasets, statistics, images, backbones, embeddings, heads,
evaluation, report, deploy, recipes. A room imports the tools (errors, files, provenance, devices, progress) and
the rooms before it, never the ones after it.
"""

__version__ = "0.1.0"
