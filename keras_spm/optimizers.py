"""The optimizer of the families' training recipes."""

import keras

# Under PyTorch Keras makes an AdamW of a class that updates all variables at once, but not
# of a subclass of the name it exports; so the base is the class that it would make.
_KerasAdamW = type(keras.optimizers.AdamW.__new__(keras.optimizers.AdamW))


@keras.saving.register_keras_serializable("keras_spm")
class AdamW(_KerasAdamW):
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
