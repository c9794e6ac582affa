#!/bin/sh
# Opens the sandbox of lantern.service for the GPU, if this board has one and onnxruntime computes on it: a product of two
# matrices is held against the right result. Otherwise nothing is opened, and the appliance runs on the processor.
set -u

output=${LANTERN_DROP_IN:-/run/systemd/system/lantern.service.d/gpu.conf}
devices=${LANTERN_DEVICES:-/dev}
python=${LANTERN_PYTHON:-/opt/lantern/bin/python}

nodes=$(find "$devices" -maxdepth 2 -type c \
    \( -name 'nvhost*' -o -name 'nvmap' -o -name 'nvidia*' -o -name 'nvgpu*' -o -path '*/dri/render*' \) |
    LC_ALL=C sort)
if [ -z "$nodes" ]; then
    echo "lantern-gpu: no GPU"
    exit 0
fi
if ! "$python" -m appliance.engine.runtime.product CUDAExecutionProvider; then
    echo "lantern-gpu: there is a GPU, but onnxruntime computes nothing right on it; the processor is used"
    exit 0
fi

mkdir -p "$(dirname "$output")"
{
    echo "[Service]"
    echo "PrivateDevices=no"
    echo "PrivateUsers=no"
    echo "MemoryDenyWriteExecute=no"
    echo "DevicePolicy=closed"
    echo "SupplementaryGroups=video render"
    for node in $nodes; do
        echo "DeviceAllow=$node rw"
    done
} >"$output"
systemctl daemon-reload 2>/dev/null || true
echo "lantern-gpu: the GPU is open to the appliance"
