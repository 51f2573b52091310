"""Recipes that come with the package, as `keras_spm.recipes`; see `training/README.md`."""
