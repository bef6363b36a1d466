"""Where jobs live: the contract (`storage.base`), its adapters, and `connect`, which finds one by its URL."""

from raftwork.storage.base import Capabilities, Storage
from raftwork.storage.connect import connect

__all__ = ["Capabilities", "Storage", "connect"]
