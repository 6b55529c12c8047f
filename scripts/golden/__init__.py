"""The golden record: what histotune prints and writes today, so that every later form of it can be held against it.

``python scripts/golden record`` plays a few hundred commands over small rendered data sets and keeps what each
printed, how it ended and every file it wrote. ``python scripts/golden compare OLD NEW`` tells every difference between
two records in a line of its own, and ``python scripts/golden check`` does both at once. histotune is used as its users
use it, through the command line alone, so that its modules may move freely.
"""
