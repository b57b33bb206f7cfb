"""Transfer learning on text in Keras 3: pretrained encoders, fine-tuned and served, strings in."""

__version__ = "0.1.0"
