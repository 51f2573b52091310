"""Remedies for messages that do not say what to do."""

# {part of a message: remedy, in Markdown}. A test checks that each part is that of a message.
REMEDIES: dict[str, str] = {
    "are in no known layout of": (
        "The file is of another network or code base. `keras_spm.list_layouts(model)` lists the "
        "layouts; [register another one](guides/extend.md#weight-layouts)."
    ),
    "does not fit the model": (
        "The file is of another variant, or of other arguments, than the model. The lists name the "
        "tensors."
    ),
    "has several variables with the same path": "Give layers of your own distinct names.",
    "describes a model of": (
        "The limit protects from configurations of strangers. Build the model with its class, and "
        "load the file with `load_torch_weights`."
    ),
    "cannot be read as an image": (
        "Save the file again with an image editor, or leave it out with `invalid=drop`."
    ),
    "malformed bbox": "COCO's boxes are left, top, width and height in pixels.",
    "malformed segmentation": (
        "COCO's masks are polygons, lists of x, y, x, y, …, or run lengths, `size` and `counts`."
    ),
    "box outside the image": ("The coordinates may be of another image size, or in another order."),
    "box without area": "Left and right, or top and bottom, are equal.",
    "object without a mask": "Draw the masks, or train a detector, which needs boxes alone.",
    "have the same name but for the extension": "Rename or move one of the files.",
    "has no known format of": (
        "Compare the folder with the formats in the pages on [your images](guides/photos.md), and "
        "give the format with `--data-format` for a better message."
    ),
    "must have images in every split": (
        "Hold out more with `validation_share`, or look at `keras-spm data` for what was left out."
    ),
    "has no class logits to explain": "Train a classifier on the same backbone, and explain that.",
    "Targets must also have `masks`": (
        "Read the data with `read_instances`, or train an `ObjectDetector`."
    ),
    "The checkpoint does not match the variables": (
        "The code or the model has changed since the run began. Delete the folder that ends in "
        "`-UNFINISHED`."
    ),
    "is in use by another process": (
        "Wait for the other training, or choose another folder with `--output`."
    ),
    "cannot be loaded: ": (
        "The file is damaged, or of classes of your own: import their file first, `--import`."
    ),
    "must contain a task": "Load a backbone in Python, and pass it to a task.",
    "is not a valid safetensors file": "Download or write the file again.",
    "is not a safetensors file, or is truncated": "Download the file again.",
    "is not a PyTorch file of plain tensors": (
        "Load it with the code that wrote it, and save `model.state_dict()` alone."
    ),
    "is compressed, unlike files of": "Save it again with `torch.save(model.state_dict(), path)`.",
    "has tensors of": "Save contiguous copies: `{name: tensor.clone() …}`.",
    "rows are not a square grid": (
        "The position embedding was made for images that are not square; load it with the code "
        "that wrote it."
    ),
}
