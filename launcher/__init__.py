"""Bundles, and the hypervisors that boot them.

    files = located.open_directory(Path("nginx"))            # or the builder's, from the store
    options = machine.MachineOptions(ports=(machine.parse_port("8080:80"),))
    result = vm.run_vm(files, options, search_path=os.environ["PATH"])
    sys.stderr.write(result.timeline.render_text())
    sys.exit(result.status)

| module | what it gives |
|---|---|
| ``bundle`` | ``Bundle`` and its document bundle.json |
| ``located`` | ``BundleFiles``: a bundle and where its pieces lie; ``open_directory`` |
| ``machine`` | ``MachineOptions``, ``parse_port``, ``parse_memory``, ``parse_env``; ``Machine`` |
| ``vm`` | ``run_vm`` -> ``VMResult`` |
| ``timeline`` | ``Timeline``: steps of host and guest on one clock; ``process_start`` |
| ``errors`` | ``BootError``, ``LaunchError`` |
| ``host``, ``qemu`` | what ``doctor`` asks: ``read_cpu``, ``choose_accel``, ``find_qemu`` |

The rest serves these. A hypervisor is one module like ``qemu``: a pure function from ``Machine`` to
a command, and one from its last words to an error. Nothing here reads the environment.
"""
