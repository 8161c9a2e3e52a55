"""Every error that graphprune raises on purpose.

One family, so that a caller can catch :class:`GraphPruneError` and a shell user gets one line and exit code 2.
Each message names the thing that is wrong and the way out of it.
"""


class GraphPruneError(Exception):
    """Base of every error that graphprune raises on purpose."""


class CaptureError(GraphPruneError):
    """The model can't be captured as a graph, or its inputs do not fit it."""


class SourceError(GraphPruneError):
    """A model, a text or a checkpoint can't be found, downloaded or read."""


class FileFormatError(GraphPruneError):
    """A file exists but does not hold what it should: truncated, corrupt, or of another format."""


class OutputExistsError(GraphPruneError):
    """The place to write to exists already; nothing is overwritten."""


class PlanError(GraphPruneError):
    """A plan that is malformed, or was made for another model."""


class UnknownNameError(GraphPruneError):
    """A group or a parameter that the model does not have."""


class BudgetError(GraphPruneError):
    """A ratio that is out of range or can't be met."""


class ScoreError(GraphPruneError):
    """A criterion can't score: missing gradients or adapters, NaN, or no data."""


class TrainingError(GraphPruneError):
    """Fine-tuning can't start or go on: a NaN loss, no adapters, or a checkpoint of another run."""


class TrainingInterrupted(TrainingError):
    """Ctrl-C ended fine-tuning; the message says from which checkpoint it goes on."""


class RewriteError(GraphPruneError):
    """The model can't be rewritten to its compact form."""


class VerificationError(GraphPruneError):
    """The compact model does not compute what the masked model computes."""


class ExportError(GraphPruneError):
    """A model can't be written in the format, or to the place, that was asked for."""


class DiskFullError(GraphPruneError):
    """The disk filled up while something was written; what was written of it has been removed."""
