"""Functions: the user's Python, run safely."""

from edge_runtime.functions.limits import Limits
from edge_runtime.functions.platform import Checked, ExecutorReport, FunctionPlatform, PlatformReport
from edge_runtime.functions.stats import FunctionStats

__all__ = ["Checked", "ExecutorReport", "FunctionPlatform", "FunctionStats", "Limits", "PlatformReport"]
