"""Distributed training and serving of vision models whose explanations can be trusted."""

__version__ = "0.1.0"
