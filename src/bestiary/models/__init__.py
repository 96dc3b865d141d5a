"""Backbones and networks: pretrained weights as a feature graph without torch, and torch networks to train."""
