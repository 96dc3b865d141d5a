#!/bin/sh
# Ray 2.60.0, Ray Data: when a pipeline with an actor pool fails, the actor that raised keeps its processor as long as the
# exception lives, as in a list of failures, or as the last error of a notebook; and after that until Python's garbage
# collector happens to look, since the frames of the traceback are in a cycle. Ray Data ends actors by dropping its
# references to them, and the frames still refer to them. The next pipeline of the process waits for the processor; where
# the pool had all processors it waits for the 1,800 s after which Ray Data gives up.
#
# Seen on a node of one processor, 10 s after the failure: 0 processors free while the exception is kept, 0 after it was
# dropped with the collector off, 1 after gc.collect().
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "ray[data]==2.60.0" "pyarrow==26.0.1" "numpy==2.4.6" \
    >/dev/null 2>&1
cd "$folder"
cat >failed.py <<'PYTHON'
import gc
import time

import ray
from ray.data import ActorPoolStrategy


class FailingWorker:
    def __call__(self, batch):
        raise ValueError("no")


def count_free(seconds):
    """Return the free processors, at once when there are some."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if free := ray.available_resources().get("CPU", 0):
            return int(free)
        time.sleep(0.1)
    return 0


ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
ray.data.DataContext.get_current().enable_progress_bars = False
gc.disable()  # so that it does not look by chance
kept = []
try:
    ray.data.range(8).map_batches(FailingWorker, num_cpus=1, compute=ActorPoolStrategy(size=1)).materialize()
except Exception as error:
    kept.append(error)
counts = [count_free(10)]
kept.clear()
counts.append(count_free(10))
gc.collect()
counts.append(count_free(30))
print(*counts)
PYTHON
export RAY_USAGE_STATS_ENABLED=0
counts=$("$folder/venv/bin/python" -W ignore failed.py 2>/dev/null | tail -n 1)
echo "ray 2.60.0: processors free after a failure, while the exception is kept, when it is dropped, when Python collects: $counts"
[ "$counts" = "0 0 1" ]
