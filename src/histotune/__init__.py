"""histotune: fine-tune and evaluate pathology foundation models on tiles, leak-free and with honest intervals.

The package reads in the order of the data: tools, datasets, statistics, images, backbones, embeddings, audit, heads,
evaluation, transfer, published, report, deploy, studies, cli. A room imports the rooms before it, never those after it.
"""

__version__ = "0.1.0"
