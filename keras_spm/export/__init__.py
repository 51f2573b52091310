"""Export of tasks and backbones to files that other runtimes open without this package."""

from keras_spm.export.errors import ExportError
from keras_spm.export.formats import FORMATS, find_writer
from keras_spm.export.mixin import ExportMixin
from keras_spm.export.served import ServedModel
from keras_spm.export.verification import SHAPES, export_verified, verify

__all__ = [
    "FORMATS",
    "SHAPES",
    "ExportError",
    "ExportMixin",
    "ServedModel",
    "export_verified",
    "find_writer",
    "verify",
]
