"""The fixtures of this folder, where pytest looks for them."""

from emulator.fixtures import _one_thread, builder, emulated, metal, schedule

__all__ = ["_one_thread", "builder", "emulated", "metal", "schedule"]
