"""Metrics as TensorBoard reads them, written without TensorFlow.

Keras's own callback needs TensorFlow, PyTorch's writer the whole of TensorBoard; what they
write of a scalar is a record of a few bytes.
"""

import os
import pathlib
import struct
import time

import keras

_VALIDATION = "val_"


class EventLog(keras.callbacks.Callback):
    """Writes each epoch's metrics and learning rate.

    They go to the folders `training` and `validation`, under the same names, so that
    TensorBoard draws the curves over one another. A training that is taken up again adds a
    file to each.

    Args:
        folder: path; what `tensorboard --logdir` is given, or a folder above it.
    """

    def __init__(self, folder):
        super().__init__()
        self._folder = pathlib.Path(folder)
        self._name = f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"

    def on_epoch_end(self, epoch, logs=None):
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        for name, value in {**(logs or {}), "learning_rate": rate}.items():
            kind = "validation" if name.startswith(_VALIDATION) else "training"
            record = _scalar(name.removeprefix(_VALIDATION), float(value), epoch + 1)
            self._append(self._folder / kind, record)

    def _append(self, folder, record):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / self._name).open("ab") as file:
            if not file.tell():
                file.write(_record(_event(_field(3, b"brain.Event:2"))))
            file.write(record)


# As TensorFlow's event.proto and summary.proto have it.


def _scalar(name, value, step):
    """The record of a curve's value at a step."""
    # Fields by number: of Value, tag and simple_value; of Event, step and summary.
    measured = _field(1, name.encode()) + _key(2, wire=5) + struct.pack("<f", value)
    return _record(_event(_key(2, wire=0) + _varint(step) + _field(5, _field(1, measured))))


def _event(fields):
    return _key(1, wire=1) + struct.pack("<d", time.time()) + fields


# Protocol buffers: a field's number and form, then its content.


def _key(number, wire):
    return _varint(number << 3 | wire)


def _field(number, content):
    return _key(number, wire=2) + _varint(len(content)) + content


def _varint(value):
    groups = bytearray()
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])


# Records: length, content, and a check of each.


def _record(content):
    length = struct.pack("<Q", len(content))
    return length + _masked_crc(length) + content + _masked_crc(content)


def _masked_crc(content):
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _crc_of_byte(byte):
    for _ in range(8):
        byte = byte >> 1 ^ 0x82F63B78 * (byte & 1)  # Castagnoli's polynomial, reversed.
    return byte


_CRC_TABLE = [_crc_of_byte(byte) for byte in range(256)]
