"""Train dictionaries: one loop, loss terms passed in, exact resume."""

from saeaudit.training.batches import ResumableBatches, TensorBatches, tensor_batches
from saeaudit.training.calibrate import Calibration, calibrate
from saeaudit.training.callbacks import Callback
from saeaudit.training.config import CheckpointConfig, EarlyStop, TrainConfig
from saeaudit.training.evaluate import FitReport, evaluate
from saeaudit.training.jsonl import JsonLines
from saeaudit.training.loop import TrainedMany, train, train_many
from saeaudit.training.losses import terms_for
from saeaudit.training.presets import PRESETS, Preset, preset, raw_units
from saeaudit.training.progress import RichProgress, progress_bars
from saeaudit.training.run import Run, TrainResult
from saeaudit.training.tensorboard import TensorBoard
from saeaudit.training.terms import AuxK, Reconstruction, Term
from saeaudit.training.windows import RowSource, WindowedBatches

__all__ = [
    "PRESETS",
    "AuxK",
    "Calibration",
    "Callback",
    "CheckpointConfig",
    "EarlyStop",
    "FitReport",
    "JsonLines",
    "Preset",
    "Reconstruction",
    "ResumableBatches",
    "RichProgress",
    "RowSource",
    "Run",
    "TensorBatches",
    "TensorBoard",
    "Term",
    "TrainConfig",
    "TrainResult",
    "TrainedMany",
    "WindowedBatches",
    "calibrate",
    "evaluate",
    "preset",
    "progress_bars",
    "raw_units",
    "tensor_batches",
    "terms_for",
    "train",
    "train_many",
]
