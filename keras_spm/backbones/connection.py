"""The functional graph of a backbone, which can be built more than once."""

import keras

from keras_spm.layers.shared_layer import SharedLayer


class Connection:
    """Connects a stem and stages to symbolic images, any number of times."""

    def __init__(self, stem, stages, final_norm, pyramid_norms, data_format, dtype):
        self._stem = stem
        self._stages = stages
        self._final_norm = final_norm
        self._pyramid_norms = pyramid_norms
        self._channels_first = data_format == "channels_first"
        self._dtype = dtype
        # {level: name of the layer that computes its channels_last map}
        self.level_layers = {}

    def __call__(self, images, shared=False):
        """Returns ({level: map}, the last map after the final norm, the pooled output)."""

        def layer_of(layer):
            return SharedLayer(layer, name=layer.name) if shared else layer

        maps = images
        if self._channels_first:
            maps = self._permute((2, 3, 1), "to_channels_last")(maps)
        maps = layer_of(self._stem)(maps)
        pyramid_outputs = {}
        for number, stage in enumerate(self._stages, start=2):
            level, layer_name, class_token = f"P{number}", stage.name, None
            maps = layer_of(stage)(maps)
            if isinstance(maps, (tuple, list)):
                maps, class_token = maps
                # A layer whose only output is the map, for `get_layer`.
                layer_name = "feature_map"
                maps = keras.layers.Identity(dtype=self._dtype, name=layer_name)(maps)
            outputs = maps
            if level in self._pyramid_norms:
                norm = self._pyramid_norms[level]
                layer_name, outputs = norm.name, layer_of(norm)(maps)
            self.level_layers[level] = layer_name
            pyramid_outputs[level] = self._in_data_format(outputs, level)
        output, maps = pyramid_outputs[level], outputs
        if self._final_norm is not None:
            final_norm = layer_of(self._final_norm)
            maps = final_norm(maps)
            output = self._in_data_format(maps, "to_channels_first")
        if class_token is None:
            pooling = keras.layers.GlobalAveragePooling2D(
                "channels_last", dtype=self._dtype, name="pooling"
            )
            return pyramid_outputs, output, pooling(maps)
        return pyramid_outputs, output, final_norm(class_token)

    def _in_data_format(self, maps, name):
        return self._permute((3, 1, 2), name)(maps) if self._channels_first else maps

    def _permute(self, axes, name):
        return keras.layers.Permute(axes, dtype=self._dtype, name=name)
