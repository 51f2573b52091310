"""What timm and transformers say of their images, as arguments of `ImageClassifier`."""

# Pillow's codes, which transformers writes.
_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def from_transformers(processor):
    """Arguments for a `preprocessor_config.json`; none of what it does not say.

    Steps that `ImagePreprocessing` does not know, such as padding, give no
    `preprocessing`: images are then taken as they come.
    """
    arguments = _normalization(processor.get("image_mean"), processor.get("image_std"))
    if processor.get("do_normalize") is False:
        arguments = _normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    size, crop = (_sizes(processor.get(key)) for key in ("size", "crop_size"))
    interpolation = _INTERPOLATIONS.get(processor.get("resample"))
    if interpolation is None or processor.get("do_resize") is False:
        return arguments
    if len(size) == 2 and not processor.get("do_center_crop"):
        return arguments | _preprocessing(size, None, interpolation)
    if len(size) == 1 and processor.get("do_center_crop") and len(set(crop)) == 1:
        return arguments | _preprocessing(crop, crop[0] / size[0], interpolation)
    return arguments


def from_timm(pretrained_cfg):
    """The same for the `pretrained_cfg` of a timm configuration."""
    arguments = _normalization(pretrained_cfg.get("mean"), pretrained_cfg.get("std"))
    _, *size = pretrained_cfg.get("input_size", [3])
    crop_pct = pretrained_cfg.get("crop_pct")
    interpolation = pretrained_cfg.get("interpolation")
    centered = pretrained_cfg.get("crop_mode", "center") == "center"
    if len(size) != 2 or crop_pct is None or interpolation is None or not centered:
        return arguments
    return arguments | _preprocessing(size, crop_pct, interpolation)


def _sizes(size):
    """(height, width), (shorter side,), or nothing."""
    if isinstance(size, int):
        return (size, size)
    size = size or {}
    if "shortest_edge" in size:
        return (size["shortest_edge"],)
    return (size["height"], size["width"]) if "height" in size else ()


def _preprocessing(image_size, crop_pct, interpolation):
    return {
        "preprocessing": {
            "image_size": tuple(image_size),
            "crop_pct": crop_pct,
            "interpolation": interpolation,
        }
    }


def _normalization(mean, std):
    if mean is None or std is None:
        return {}
    return {"mean": tuple(mean), "std": tuple(std)}
