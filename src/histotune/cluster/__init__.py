"""One study on many machines: what a rented machine costs, notices of its end, SLURM, buckets."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histotune.cluster.cloud_plan import CloudPlan as CloudPlan
    from histotune.cluster.cloud_plan import LaunchOptions as LaunchOptions
    from histotune.cluster.cloud_plan import plan_cloud as plan_cloud
    from histotune.cluster.cloud_plan import write_launch_files as write_launch_files
    from histotune.cluster.spot import watch_spot as watch_spot
    from histotune.cluster.submit import JobOptions as JobOptions
    from histotune.cluster.submit import SubmittedJob as SubmittedJob

FILES = {
    "CloudPlan": "cloud_plan",
    "JobOptions": "submit",
    "LaunchOptions": "cloud_plan",
    "SubmittedJob": "submit",
    "plan_cloud": "cloud_plan",
    "watch_spot": "spot",
    "write_launch_files": "cloud_plan",
}
__all__ = list(FILES)


def __getattr__(name: str) -> object:
    """Load what this room gives when it is first asked for."""
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)
