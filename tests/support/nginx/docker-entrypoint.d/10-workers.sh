#!/bin/sh
# One worker per processor that this machine really has.
set -eu
sed -i "s/^worker_processes .*/worker_processes $(nproc);/" /etc/nginx/nginx.conf
