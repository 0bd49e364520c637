#!/bin/bash
# Install hyperbuild from the checkout that this file is in, and what it needs, on Debian or Ubuntu.
#
#   VENV    the environment that gets it; default: ~/.hyperbuild
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$HOME/.hyperbuild}
packages=(
    qemu-system-x86 musl-tools linux-source-6.1 make gcc flex bison bc libelf-dev xz-utils
    python3-venv e2fsprogs
)

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
        missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get -qq update
    $sudo apt-get -qq install --yes --no-install-recommends "${missing[@]}"
fi

python3 -m venv "$venv"
"$venv/bin/pip" install --quiet "$root"
if [ -n "${GITHUB_PATH:-}" ]; then
    echo "$venv/bin" >>"$GITHUB_PATH"
fi
"$venv/bin/hyperbuild" --version
