#!/bin/sh
# ONNX Runtime 1.32.0 on Linux and OpenVINO 2026.4.1: to import them is enough to be counted by their makers.
#
# `import onnxruntime` makes an id of the computer in ~/.cache/Microsoft/DeveloperTools/.onnxruntime/deviceid and a SQLite
# database of events for upload beside it, with an event "ProcessInfo" that has, among others, the path of the Python
# executable. `onnxruntime.disable_telemetry_events()` comes too late: to call it, one imports. ORT_DISABLE_TELEMETRY=1
# before the import works, and so does CI=true.
#
# `import openvino`, without any conversion, makes ~/intel/openvino_ga_cid, an id for Google Analytics, and counts itself in
# ~/intel/stats. Without the package openvino_telemetry, which it requires, it works too and leaves nothing.
#
# Seen: files in an empty home after each import.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "onnxruntime==1.32.0" "openvino==2026.4.1" \
    "openvino-telemetry==2025.2.0" "numpy==2.4.6" >/dev/null 2>&1

# Prints the names of the files that a program leaves in an empty home, in order.
list_files() {
    home=$(mktemp -d "$folder/home.XXXXXX")
    env -u CI -u XDG_CACHE_HOME -u ORT_DISABLE_TELEMETRY HOME="$home" "$@" >/dev/null 2>&1
    find "$home" -type f -printf '%f\n' | grep -v -e '-wal$' -e '-shm$' | sort | tr '\n' ' '
}

python="$folder/venv/bin/python"
onnx=$(list_files "$python" -c "import onnxruntime")
late=$(list_files "$python" -c "import onnxruntime; onnxruntime.disable_telemetry_events()")
off=$(list_files env ORT_DISABLE_TELEMETRY=1 "$python" -c "import onnxruntime")
ci=$(list_files env CI=true "$python" -c "import onnxruntime")
openvino=$(list_files "$python" -c "import openvino")
without=$(list_files "$python" -c "import sys; sys.modules['openvino_telemetry'] = None; import openvino; openvino.Core()")
databases=$(find "$folder" -name "onnxruntime.db*")
# shellcheck disable=SC2086 # several names
events=$(grep -a -h -o -e ProcessInfo -e "$python" $databases | sort -u | tr '\n' ' ')
echo "import onnxruntime: $onnx; then disabled: $late; ORT_DISABLE_TELEMETRY=1: ${off:-none}; CI=true: ${ci:-none}"
echo "the databases hold: $events"
echo "import openvino: $openvino; without openvino_telemetry: ${without:-none}"
[ "$onnx" = "deviceid onnxruntime.db " ] && [ "$late" = "$onnx" ] && [ -z "$off" ] && [ -z "$ci" ] && [ "$events" = "$python ProcessInfo " ]
[ "$openvino" = "openvino_ga_cid stats " ] && [ -z "$without" ]
