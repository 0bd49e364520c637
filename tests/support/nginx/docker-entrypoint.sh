#!/bin/sh
# Runs what stands in /docker-entrypoint.d before nginx, then becomes the command.
set -eu

if [ "${1:-}" = nginx ]; then
    for hook in /docker-entrypoint.d/*.sh; do
        [ -x "$hook" ] || continue
        echo "entrypoint: $hook" >&2
        "$hook"
    done
fi

exec "$@"
