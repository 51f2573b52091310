"""A local page that shows what models predict for dropped images, for `keras-spm demo`."""

from keras_spm.demo.app import demo_app, serve

__all__ = ["demo_app", "serve"]
