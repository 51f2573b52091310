"""The optimizer of the families' training recipes."""

import keras


@keras.saving.register_keras_serializable("keras_spm")
class AdamW(keras.optimizers.AdamW):
    """`keras.optimizers.AdamW` that decays kernels and position embeddings only.

    Norms' scales and shifts, all biases, tables of biases and class tokens keep their
    values, as in the official code of PVT and Swin. Keras's own exclusion list is lost
    when a model is saved; here it is part of the class. Takes the arguments of Keras's
    AdamW.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # TensorFlow's own variables are called by their path, and "bias:0" at its end.
        self.exclude_from_weight_decay(
            var_names=[r"(bias|bias_table|gamma|beta|class_token)(:\d+)?$"]
        )
