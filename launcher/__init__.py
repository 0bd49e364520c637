"""Bundles, and the hypervisors that boot them.

For one::

    files = located.open_directory(Path("nginx"))            # or the builder's, from the store
    options = machine.MachineOptions(ports=ports.parse_ports("8080:80"))
    result = vm.run_vm(files, options, search_path=os.environ["PATH"])
    print(json.dumps(result.timeline.document()))
    sys.exit(result.status)

The modules:

- ``bundle``: ``Bundle`` and its document bundle.json
- ``located``: ``BundleFiles``: a bundle and where its pieces lie; ``open_directory``
- ``machine``: ``MachineOptions``, ``parse_memory``, ``parse_env``; ``Machine``
- ``ports``, ``network``, ``mounts``: what reads options: ``parse_ports``, ``parse_volume``, …
- ``vm``: ``run_vm`` -> ``VMResult``
- ``smoke``, ``expectations``: ``SmokeTest``, which looks on; ``Contract``, ``expected``
- ``diagnosis``: ``diagnose``: why a guest failed
- ``timeline``: ``Timeline``: steps of host and guest on one clock; ``process_start``
- ``budget``: ``parse_budget``, ``Budget``: how late a step may come
- ``errors``: ``BootError``, ``LaunchError``
- ``host``: what ``doctor`` asks: ``read_cpu``, ``choose_accel``
- ``driver``: ``Driver``: what a hypervisor's module, like ``qemu``, gives (docs/drivers.md)

The rest serves these. Nothing here reads the environment.
"""
