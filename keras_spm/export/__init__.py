"""Export of tasks and backbones to files that other runtimes open without this package."""

from keras_spm.export.errors import ExportError
from keras_spm.export.formats import FORMATS, check_int8, find_writer
from keras_spm.export.mixin import ExportMixin
from keras_spm.export.served import ServedModel
from keras_spm.export.verification import SHAPES, export_int8, export_verified, verify, verify_int8

__all__ = [
    "FORMATS",
    "SHAPES",
    "ExportError",
    "ExportMixin",
    "ServedModel",
    "check_int8",
    "export_int8",
    "export_verified",
    "find_writer",
    "verify",
    "verify_int8",
]
