"""Every error that this package raises on purpose.

    DupnetError
    ├── SpecError          a model's or a recipe's description contradicts itself
    ├── ImageError         a photo cannot be read or is not an image
    ├── DataError          annotations, data sets, predictions
    ├── ModelFileError     a packed file is damaged or from another version
    ├── ConversionError    a network has no exact integer form
    └── CheckpointError    a training checkpoint is damaged or of another network

Each message says what was expected, what came, and where. All but the first also derive from `ValueError`, so that
code which knows nothing of this package catches them naturally.
"""


class DupnetError(Exception):
    """Base of all errors raised by dupnet."""


class SpecError(DupnetError, ValueError):
    """A model spec or a training recipe is not valid."""


class ImageError(DupnetError, ValueError):
    """A photo cannot be read, or an array is not an image."""


class DataError(DupnetError, ValueError):
    """An annotation, prediction or data-set file is not valid."""


class ModelFileError(DupnetError, ValueError):
    """A packed model file is not valid."""


class ConversionError(DupnetError, ValueError):
    """A network cannot be converted to integers exactly."""


class CheckpointError(DupnetError, ValueError):
    """A training checkpoint cannot be used."""
