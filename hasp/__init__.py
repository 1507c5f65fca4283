"""HASP: cut a heterogeneous graph into self-contained parts and feed them to PyTorch Geometric code.

``HASPData`` builds or opens parts, ``HASPLoader`` feeds them, ``Schema`` says which node types are partitioned, duplicated or
sampled, ``partition`` is the cut alone. Names are imported when first used: opening parts compiles nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "BuildConfig": "hasp.config",
    "BuildLocked": "hasp.errors",
    "CorruptPart": "hasp.errors",
    "Graph": "hasp.graph",
    "HASPData": "hasp.data",
    "HASPLoader": "hasp.load.loader",
    "HaloCache": "hasp.load.cache",
    "HaspError": "hasp.errors",
    "HaspWarning": "hasp.graph",
    "InvalidGraph": "hasp.errors",
    "Part": "hasp.part",
    "Plan": "hasp.plan",
    "Report": "hasp.report",
    "Schema": "hasp.schema",
    "StaleParts": "hasp.errors",
    "open_source": "hasp.sources",
    "partition": "hasp.cut",
    "place": "hasp.backends.stream",
}

__all__ = [*_HOME, "__version__"]

if TYPE_CHECKING:
    from hasp.backends.stream import place as place
    from hasp.config import BuildConfig as BuildConfig
    from hasp.cut import partition as partition
    from hasp.data import HASPData as HASPData
    from hasp.errors import BuildLocked as BuildLocked
    from hasp.errors import CorruptPart as CorruptPart
    from hasp.errors import HaspError as HaspError
    from hasp.errors import InvalidGraph as InvalidGraph
    from hasp.errors import StaleParts as StaleParts
    from hasp.graph import Graph as Graph
    from hasp.graph import HaspWarning as HaspWarning
    from hasp.load.cache import HaloCache as HaloCache
    from hasp.load.loader import HASPLoader as HASPLoader
    from hasp.part import Part as Part
    from hasp.plan import Plan as Plan
    from hasp.report import Report as Report
    from hasp.schema import Schema as Schema
    from hasp.sources import open_source as open_source


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'hasp' has no attribute {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
