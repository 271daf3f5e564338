"""What clients of inference protocols do wrong."""

from __future__ import annotations

from modelbox.errors import ModelBoxError


class InferenceError(ModelBoxError, ValueError):
    """A request that cannot be served as it is; one line says what is wrong with it."""


class NoSuchModelError(ModelBoxError, LookupError):
    """There is no model of this name or version."""


class ModelStateError(ModelBoxError):
    """The job of the model does not run, or gives other tensors than it declares."""
