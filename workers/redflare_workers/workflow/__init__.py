"""Workflows: what a controller is written on, and those that ship."""

from __future__ import annotations
