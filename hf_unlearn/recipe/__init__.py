"""A recipe: one YAML file that says what to forget, what to keep, how, and what has to be true afterwards."""

from .earlier import EarlierSpec
from .loading import builtin_recipes, find_recipe, load_recipe, parse_recipe
from .spec import BenchmarkSpec, ControlSpec, DataSpec, ExportSpec, MethodSpec, ModelSpec, PublishSpec, Recipe

__all__ = [
    "BenchmarkSpec",
    "ControlSpec",
    "DataSpec",
    "EarlierSpec",
    "ExportSpec",
    "MethodSpec",
    "ModelSpec",
    "PublishSpec",
    "Recipe",
    "builtin_recipes",
    "find_recipe",
    "load_recipe",
    "parse_recipe",
]
