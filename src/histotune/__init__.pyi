"""What ``import histotune as ht`` gives, for editors and type checkers."""

from histotune.datasets.tileset import TileSet as TileSet
from histotune.embeddings.space import Embeddings as Embeddings
from histotune.heads.head import Head as Head
from histotune.statistics.predictions import Predictions as Predictions
from histotune.statistics.predictions import Score as Score
from histotune.studies.data_verbs import audit as audit
from histotune.studies.data_verbs import doctor as doctor
from histotune.studies.data_verbs import fetch as fetch
from histotune.studies.data_verbs import read as read
from histotune.studies.data_verbs import split as split
from histotune.studies.export_verbs import export as export
from histotune.studies.export_verbs import push as push
from histotune.studies.head_verbs import explain as explain
from histotune.studies.head_verbs import predict as predict
from histotune.studies.report_verb import report as report
from histotune.studies.tuning_verbs import finetune as finetune
from histotune.studies.verbs import compare as compare
from histotune.studies.verbs import embed as embed
from histotune.studies.verbs import evaluate as evaluate
from histotune.studies.verbs import matrix as matrix
from histotune.studies.verbs import run as run
from histotune.studies.verbs import score as score
from histotune.studies.verbs import sweep as sweep
from histotune.studies.verbs import transfer as transfer
from histotune.tools.errors import UserError as UserError

__version__: str
