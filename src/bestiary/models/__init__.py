"""Pretrained backbones as ONNX graphs, and torch networks to train."""
