"""A small Ray cluster of this machine for tests, which leaves nothing outside its own folder."""

import gc
import os
import shutil
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch


@contextmanager
def ray_environment():
    """Give a folder for Ray, and set what it reads to things of this test."""
    # Its sockets need a short path.
    folder = Path(tempfile.mkdtemp(prefix="ndt-ray-", dir="/tmp"))
    values = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # on a busy machine its workers would hardly run
        "RAY_TMPDIR": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    try:
        with patch.dict(os.environ, values):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def ray_cluster(n_cpus):
    """Run Ray in this process, so that sweeps find it there; give its address."""
    with ray_environment() as folder:
        import ray

        ray.init(
            address="local",
            num_cpus=n_cpus,
            object_store_memory=80 * 2**20,
            _temp_dir=str(folder),
            include_dashboard=False,
            logging_level=40,
            log_to_driver=False,
        )
        try:
            yield ray.get_runtime_context().gcs_address
        finally:
            ray.shutdown()
            with warnings.catch_warnings():
                # Ray waits for none of the processes that it ends.
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()
