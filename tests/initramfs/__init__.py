"""Tests of the initramfs room."""
