"""What a task owns, and how it becomes effective weights: one file a method."""

from supsup_jax.methods.base import Kept, Method, Owned, Store
from supsup_jax.methods.supsup import SupSup

__all__ = ["Kept", "Method", "Owned", "Store", "SupSup"]
