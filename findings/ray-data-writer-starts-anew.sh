#!/bin/sh
# Ray 2.60.0, Ray Data: where an actor pool has all processors of a node, the process that writes is a new one almost
# every time, though each write is short and one at a time is asked for. A process that was idle for a second is ended
# while more of them run than the node has processors, and the actors count. The next write starts another process, which
# takes one or two processor seconds: as much as a batch of a few seconds on the same processors. Nothing says so; the job
# is only slower. With RAY_idle_worker_killing_time_threshold_ms raised when the node starts, one process writes all.
#
# Seen: 12 blocks of 4 seconds, which two actors finish in 6 pairs, are written by 6 processes, and by 1 with the
# variable at 60000.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "ray[data]==2.60.0" "pyarrow==26.0.1" "numpy==2.4.6" \
    >/dev/null 2>&1
cd "$folder"
cat >count.py <<'PYTHON'
import os
import sys
import time
from pathlib import Path

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy
from ray.data.datasource import Datasink


class SlowWorker:
    def __call__(self, table):
        time.sleep(4)
        return table


class ProcessSink(Datasink):
    """Notes which process writes."""

    def __init__(self, folder):
        self.folder = folder

    def write(self, blocks, ctx):
        for _ in blocks:
            (Path(self.folder) / str(os.getpid())).touch()


folder = Path(sys.argv[1])
folder.mkdir()
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
ray.data.DataContext.get_current().enable_progress_bars = False
rows = ray.data.from_arrow([pa.table({"n": [number]}) for number in range(12)])
rows = rows.map_batches(SlowWorker, batch_size=None, batch_format="pyarrow", num_cpus=1, compute=ActorPoolStrategy(size=2))
rows.write_datasink(ProcessSink(str(folder)), ray_remote_args={"num_cpus": 0}, concurrency=1)
ray.shutdown()
PYTHON
export RAY_USAGE_STATS_ENABLED=0
"$folder/venv/bin/python" -W ignore count.py default >/dev/null 2>&1
RAY_idle_worker_killing_time_threshold_ms=60000 "$folder/venv/bin/python" -W ignore count.py kept >/dev/null 2>&1
default=$(find default -type f | wc -l)
kept=$(find kept -type f | wc -l)
echo "ray 2.60.0: 12 blocks were written by $default processes, and by $kept where idle ones are kept for a minute"
[ "$default" -ge 4 ] && [ "$kept" -le 2 ]
