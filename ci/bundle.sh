#!/bin/bash
# Convert an image, test that the bundle works, and push it: the steps of every CI.
#
#   IMAGE       what docker calls it; the registry that it comes from gets the bundle
#   PROFILE     the kernel: micro, dax (the default) or full
#   SMOKE       options of `hyperbuild boot --smoke`, quoted as in a shell: --expect-http '/~Welcome'
#   PUSH        attach (the default): to the image itself; none; or HOST/NAME:TAG
#   SIGN_KEY    a private key (PEM, the text itself) to sign with
#   REPORTS     directory of smoke.xml, smoke.html and, of a failure, smoke.log; default: here
set -euo pipefail

SMOKE=${SMOKE:-}
: "${IMAGE:?say which image: IMAGE=registry.lan/nginx:1}"
command -v hyperbuild >/dev/null || {
    echo "Error: hyperbuild is not on the PATH; run $(dirname "$0")/install.sh, and activate" \
        "the environment that it makes" >&2
    exit 1
}
reports=${REPORTS:-.}
mkdir -p "$reports"

rm -f "$reports/smoke.log"

options=()
if [ -n "${SMOKE//[[:space:]]/}" ]; then
    words=$(xargs -n 1 printf '%s\n' <<<"$SMOKE" 2>/dev/null) || {
        echo "Error: SMOKE has a quote without its end: $SMOKE" >&2
        exit 2
    }
    mapfile -t options <<<"$words"
fi

signing=()
if [ -n "${SIGN_KEY:-}" ]; then
    key=$(mktemp)
    trap 'rm -f "$key"' EXIT
    printf '%s\n' "$SIGN_KEY" >"$key"
    signing=(--sign "$key")
fi

bundle=$(hyperbuild convert "$IMAGE" --profile "${PROFILE:-dax}" | tail -n 1)
hyperbuild boot --smoke --report "$reports/smoke.xml" --report "$reports/smoke.html" \
    --console-log "$reports/smoke.log" "${options[@]}" "$bundle"

case ${PUSH:-attach} in
none) name=$bundle ;;
attach) name=$(hyperbuild push "$bundle" "${signing[@]}") ;;
*) name=$(hyperbuild push "$bundle" "$PUSH" "${signing[@]}") ;;
esac
echo "$name"
if [ -n "${GITHUB_OUTPUT:-}" ]; then
    echo "bundle=$name" >>"$GITHUB_OUTPUT"
fi
