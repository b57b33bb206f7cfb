"""Models for production: SavedModels that take strings; ONNX and LiteRT files that take token ids."""

from tfxfer.export._canaries import reference
from tfxfer.export._description import describe
from tfxfer.export._engine import Engine
from tfxfer.export._litert import litert
from tfxfer.export._onnx import onnx
from tfxfer.export._recipes import recipes
from tfxfer.export._saved_model import saved_model
from tfxfer.export._self_check import check

__all__ = ["Engine", "check", "describe", "litert", "onnx", "recipes", "reference", "saved_model"]
